// The page: says what this browser is, takes one job after the other and loads itself anew for each, so that every launch is a fresh one.

const BEAT_MS = 2000;
const RETRY_MS = 2000;
const KEPT = 30;
const load = crypto.getRandomValues(new Uint32Array(4)).join("-");  // which load of the page this is
const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const never = new Promise(() => {});

class Ended extends Error {}
class Replaced extends Ended { constructor() { super("this page is open in another tab"); } }

async function api(path, body = {}) {
  const answer = await fetch(`/api/${path}`, { method: "POST", headers: { "X-Load": load }, body: JSON.stringify(body) });
  if (answer.ok) return answer.json();
  if (answer.status === 409) throw new Replaced();
  if (answer.status === 404) throw new Ended("kdedge was started anew: open the address that it shows now");
  throw Object.assign(new Error(`HTTP ${answer.status}`), { status: answer.status });
}

// What is shown.

function show(state, kind, title, note, part) {
  byId("state").textContent = state;
  byId("state").className = `pill ${kind}`;
  if (title !== undefined) byId("title").textContent = title;
  if (note !== undefined) byId("note").textContent = note;
  const bar = byId("bar");
  bar.hidden = part === undefined;
  if (typeof part === "number") bar.value = part; else bar.removeAttribute("value");
}

function showFacts(name, facts) {
  byId("device").textContent = name;
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([fact, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = fact.replaceAll("_", " ");
    text.textContent = value;
    return [term, text];
  }));
  const warnings = [];
  if (!isSecureContext) warnings.push("The address is neither localhost nor https, so this browser gives no threads, no WebGPU, no wake lock, and a coarse clock. By cable, `adb reverse` makes it localhost.");
  else if (!crossOriginIsolated) warnings.push("This browser does not isolate the page, so there are no threads, and the clock is coarse.");
  byId("warnings").hidden = !warnings.length;
  byId("warnings").replaceChildren(...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

const history_ = () => JSON.parse(sessionStorage.getItem("done") ?? "[]");

function showDone() {
  const rows = history_();
  byId("none").hidden = rows.length > 0;
  byId("done").hidden = rows.length === 0;
  byId("done").tBodies[0].replaceChildren(...rows.map(([kind, file, said, good]) => {
    const row = document.createElement("tr");
    [kind, file, said].forEach((text, place) => { row.insertCell().textContent = text; if (place === 2) row.cells[2].className = good ? "figure" : "figure failed"; });
    return row;
  }));
}

// What this browser is.

// Smallest modules that use one feature each, assembled by hand after the binary format (https://webassembly.github.io/spec/core/binary/).
const body = (type, code) => new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 4 + type.length, 1, 96, 0, type.length, ...type, 3, 2, 1, 0, 10, code.length + 4, 1, code.length + 2, 0, ...code, 11]);
const V128 = 123, splat = [65, 0, 253, 15];  // i32.const 0, i8x16.splat
const FEATURES = {
  simd: body([V128], splat),
  "relaxed-simd": body([V128], [...splat, ...splat, 253, 128, 2]),  // i8x16.relaxed_swizzle
  threads: new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 5, 4, 1, 3, 1, 1]),  // a shared memory
};

function browserName(data) {
  const brands = (data?.brands ?? []).filter(({ brand }) => !/not.*brand/i.test(brand));
  const own = brands.find(({ brand }) => brand !== "Chromium") ?? brands[0];
  if (own) return `${own.brand} ${own.version}`;
  const agent = navigator.userAgent;
  for (const [name, pattern] of [["Edge", /Edg\/(\d+)/], ["Chrome", /(?:Chrome|CriOS)\/(\d+)/], ["Firefox", /(?:Firefox|FxiOS)\/(\d+)/], ["Safari", /Version\/(\d+).*Safari/]]) {
    const found = pattern.exec(agent);
    if (found) return `${name} ${found[1]}`;
  }
  return "unknown browser";
}

async function gatherFacts() {
  const data = navigator.userAgentData;
  const high = await data?.getHighEntropyValues(["architecture", "bitness", "model", "platformVersion"]).catch(() => null);
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const facts = {
    browser: browserName(data),
    platform: [data?.platform || /\(([^;)]+(?:; [^;)]+)?)/.exec(navigator.userAgent)?.[1] || navigator.platform, high?.platformVersion].filter(Boolean).join(" "),
    model: high?.model ?? "",
    architecture: high?.architecture ? `${high.architecture}${high.bitness ? ` ${high.bitness} bit` : ""}` : "",
    cores: navigator.hardwareConcurrency ?? "",
    memory_gib: navigator.deviceMemory ?? "",
    wasm: Object.entries(FEATURES).filter(([, module]) => WebAssembly.validate(module)).map(([name]) => name).join(" "),
    cross_origin_isolated: crossOriginIsolated ? "yes" : "no",
    webgpu: adapter ? [adapter.info?.vendor, adapter.info?.architecture, adapter.info?.description].filter(Boolean).join(" ") || "yes" : "no",
  };
  return Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== ""));
}

// Evidence: what may have disturbed a job.

function watchVisibility() {
  const watch = { changes: 0, hidden_ms: 0 };
  let since = document.hidden ? performance.now() : null;
  const changed = () => {
    watch.changes += 1;
    if (document.hidden) since ??= performance.now();
    else if (since !== null) { watch.hidden_ms += Math.max(1, performance.now() - since); since = null; }  // however short, it was hidden
  };
  document.addEventListener("visibilitychange", changed);
  return () => {
    document.removeEventListener("visibilitychange", changed);
    if (since !== null) watch.hidden_ms += Math.max(1, performance.now() - since);
    return watch;
  };
}

async function snapshot() {
  const battery = await navigator.getBattery?.().catch(() => null);
  return battery ? { battery_level: battery.level, charging: battery.charging } : {};
}

async function untilShown(say) {
  while (document.hidden) {
    show("hidden", "bad", undefined, "The page is hidden: bring it to the front.");
    await say("the page is hidden: bring it to the front");
    await Promise.race([pause(BEAT_MS), new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }))]);
  }
}

// The screen stays on while the page is open, since a phone that sleeps between two jobs is lost. The browser takes the lock back from a hidden page.
const awake = { lock: null };

async function keepAwake() {
  const ask = async () => { if (!document.hidden) awake.lock = await navigator.wakeLock?.request("screen").catch(() => null); };
  document.addEventListener("visibilitychange", ask);
  await ask();
}

// One job. Resolves to what the worker says, or null where the job is not this page's any more.
function inWorker(job, say) {
  return new Promise((done, fail) => {
    const worker = new Worker("worker.js", { type: "module" });
    let note = "starting", beaten = 0;
    const finish = (result) => { clearInterval(timer); worker.terminate(); done(result); };
    const beat = () => {
      beaten = performance.now();
      say(note).catch((error) => {
        if (error instanceof Ended) { fail(error); finish(null); }
        if (error.status === 410) finish(null);
      });
    };
    const timer = setInterval(beat, BEAT_MS);
    worker.onmessage = ({ data }) => {
      if ("result" in data) return finish(data.result);
      if (data.replaced) fail(new Replaced());
      if (data.lost) return finish(null);
      note = data.note;
      show("running", "busy", undefined, note, data.part);
      if (performance.now() - beaten > BEAT_MS) beat();  // timers of a hidden page hardly run, messages do
    };
    worker.onerror = (event) => finish({ status: "failed", reason: `the worker of the page failed: ${event.message ?? "it could not be loaded"}` });
    worker.postMessage({ ...job, load });
  });
}

async function perform(job) {
  const path = `jobs/${job.id}/${job.attempt}`;
  const say = (note) => api(`${path}/beat`, { note });
  const title = `${job.kind === "launch" ? "Timing" : "Checking"} ${job.graph[0].name}`;
  show("running", "busy", title, "starting", null);
  if (job.kind === "launch") await untilShown(say);
  show("running", "busy", title, "starting", null);
  const visibility = watchVisibility();
  const before = await snapshot();
  const result = await inWorker(job, say);
  const evidence = { before, after: await snapshot(), wake_lock: awake.lock?.released === false, ...visibility() };
  if (result === null) return;
  const { shown_ms, ...sent } = result;
  const { status } = await api(`${path}/result`, { ...sent, evidence });
  const said = status !== "ok" ? status : shown_ms !== undefined ? `${shown_ms.toPrecision(3)} ms` : "ok";
  sessionStorage.setItem("done", JSON.stringify([[job.kind, job.graph[0].name, said, status === "ok"], ...history_()].slice(0, KEPT)));
}

// A fresh load, once the server is there: a reload without it would leave the browser's own error page, and nobody to try again.
async function renew() {
  for (;;) {
    const answer = await fetch("/", { cache: "no-store" }).catch(() => null);
    if (answer?.ok) { location.reload(); await never; }
    if (answer) throw new Ended("kdedge was started anew: open the address that it shows now");
    show("offline", "bad", "kdedge does not answer", "It is tried again every two seconds.");
    await pause(RETRY_MS);
  }
}

async function main() {
  showDone();
  await keepAwake();
  const facts = await gatherFacts();
  let heard = false;  // whether the server took this load for the page's latest
  for (;;) {
    try {
      const { name, version } = await api("hello", facts);
      showFacts(name, { ...facts, "onnxruntime-web": version || "unknown" });
      for (;;) {
        show(document.hidden ? "hidden" : "ready", "ready", "Waiting for a job", "Jobs come from the computer that showed you this address.");
        const { job } = await api("next");
        heard = true;
        if (!job) continue;
        await perform(job).catch((error) => { if (error.status !== 410) throw error; });
        await renew();
      }
    } catch (error) {
      // The hello of a load that was cut short may come in after this one's: said once more, it is the latest again.
      if (error instanceof Replaced && !heard) { heard = true; await pause(RETRY_MS); continue; }
      if (error instanceof Ended) { show("ended", "bad", "This page has ended", error.message); return; }
      show("offline", "bad", "kdedge does not answer", "It is tried again every two seconds.");
      await pause(RETRY_MS);
    }
  }
}

main();
