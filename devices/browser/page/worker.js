// Does one job in a thread of its own, so that the page stays alive while WebAssembly computes: loads the model, then validates or times it.
// Messages to the page: {note, part} on the way, {result} at the end.

import { batchOf, readNpy } from "./npy.js";

const FLUSH_BYTES = 4 << 20;
const BLOCK = 1 << 14;
const ENTRIES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
// The trace is of a few inferences, so that a layer's time is not that of a cold cache.
const TRACED_RUNS = 15;
const TRACED_MS = 1000;

// WebAssembly takes hold of the console when it is loaded, so whoever wants to read what it prints must have stood in between before.
const printed = { lines: null };
for (const name of ["log", "info", "warn", "error", "debug"]) {
  const plain = console[name].bind(console);
  console[name] = (...words) => (printed.lines ? printed.lines.push(words.join(" ")) : plain(...words));
}

let told = 0;

function tell(note, part = null, force = false) {
  if (!force && performance.now() - told < 1000) return;
  told = performance.now();
  postMessage({ note, part });
}

class NotHere extends Error {}

async function post(job, path, body = "{}") {
  const answer = await fetch(`/api/jobs/${job.id}/${job.attempt}/${path}`, { method: "POST", headers: { "X-Load": job.load }, body });
  if (answer.ok) return answer;
  const why = (await answer.json().catch(() => ({}))).error ?? `HTTP ${answer.status}`;
  throw Object.assign(new Error(why), { status: answer.status });
}

const download = async (job, file) => (await post(job, `files/${file.file}`)).arrayBuffer();

// The smallest step of the clock: browsers round it, to 5 us in an isolated page and to 100 us or 1 ms elsewhere.
function clockTick() {
  let smallest = Infinity;
  for (let round = 0; round < 50; round++) {
    const before = performance.now();
    let after = before;
    while (after === before) after = performance.now();
    smallest = Math.min(smallest, after - before);
  }
  return Math.round(smallest * 1e6);
}

async function openRuntime(job) {
  if (job.provider === "webgpu" && !(await navigator.gpu?.requestAdapter())) throw new NotHere("this browser has no WebGPU adapter, or the page is neither on localhost nor on https");
  if ((job.threads ?? 1) > 1 && !self.crossOriginIsolated) throw new NotHere(`${job.threads} threads need a page on localhost or on https: browsers give threads to isolated pages only`);
  const ort = await import(`/runtime/${ENTRIES[job.provider]}`);
  ort.env.wasm.wasmPaths = new URL("/runtime/", self.location).href;
  ort.env.wasm.numThreads = job.threads ?? 0;
  ort.env.logLevel = "error";
  await initialize(ort, job);
  return ort;
}

// WebAssembly is fetched, compiled and set up with the first session, even one that is no model. That is not the model's load time.
async function initialize(ort, job) {
  printed.lines = [];  // what it says of that session
  await ort.InferenceSession.create(new Uint8Array(1), { executionProviders: [job.provider] }).catch(() => {});
  printed.lines = null;
}

const sessionOptions = (job, external) => ({ ...job.session, executionProviders: [job.provider], externalData: external });

// The runtime prints its trace: JSON, one event a line.
async function traced(ort, job, model, external, feeds) {
  const lines = printed.lines = [];
  try {
    const probe = await ort.InferenceSession.create(model, { ...sessionOptions(job, external), enableProfiling: true });
    await probe.run(feeds);
    const end = performance.now() + TRACED_MS;
    for (let run = 1; run < TRACED_RUNS && performance.now() < end; run++) await probe.run(feeds);
    probe.endProfiling();
    await new Promise((done) => setTimeout(done, 0));
    await probe.release();
  } finally {
    printed.lines = null;
  }
  const text = lines.join("\n");
  const begin = text.indexOf('{"cat"'), end = text.lastIndexOf("}");
  if (begin < 0) throw new Error("onnxruntime-web printed no trace of what it executed");
  return `[${text.slice(begin, end + 1)}]`;
}

function feedsOf(ort, inputs, first, batch, fill) {
  const feeds = {};
  let counted = 0;
  for (const [name, input] of Object.entries(inputs)) {
    const [data, dims, count] = batchOf(input, first, batch, fill);
    feeds[name] = new ort.Tensor(input.type, data, dims);
    counted = count;
  }
  return [feeds, counted];
}

async function inputsOf(job, bucket, session) {
  const given = Object.keys(bucket).sort(), wanted = [...session.inputNames].sort();
  if (given.join() !== wanted.join()) throw new Error(`the job gives the inputs ${given.join(", ")}, the graph takes ${wanted.join(", ")}`);
  const inputs = {};
  for (const name of given) inputs[name] = readNpy(await download(job, bucket[name]), name);
  return inputs;
}

// Rows of one output that wait to be sent.
class Outbox {
  constructor(job, bucket, name) { Object.assign(this, { job, bucket, name, parts: [], bytes: 0, rows: 0 }); }

  async add(tensor, batch, count) {
    if (tensor.dims[0] !== batch) throw new Error(`output \`${this.name}\` has shape ${JSON.stringify(tensor.dims)} for a batch of ${batch}: its first dimension must be the batch`);
    const inner = tensor.dims.slice(1);
    if (this.rows && (inner.join() !== this.inner.join() || tensor.type !== this.type)) await this.flush();
    Object.assign(this, { inner, type: tensor.type });
    const row = inner.reduce((product, size) => product * size, 1);
    const rows = tensor.data.slice(0, count * row);
    this.parts.push(new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength));
    this.bytes += rows.byteLength;
    this.rows += count;
    if (this.bytes >= FLUSH_BYTES) await this.flush();
  }

  async flush() {
    if (!this.rows) return;
    const query = new URLSearchParams({ name: this.name, dtype: this.type, shape: [this.rows, ...this.inner].join() });
    await post(this.job, `outputs/${this.bucket}?${query}`, new Blob(this.parts));
    Object.assign(this, { parts: [], bytes: 0, rows: 0 });
  }
}

async function validate(ort, job, session, model, external) {
  const total = job.buckets.length;
  let milliseconds = 0, last = null;
  for (const [number, bucket] of job.buckets.entries()) {
    const inputs = await inputsOf(job, bucket, session);
    const rows = Object.values(inputs)[0].rows;
    const boxes = session.outputNames.map((name) => new Outbox(job, number, name));
    for (let first = 0; first < rows; first += job.batch) {
      const [feeds, count] = feedsOf(ort, inputs, first, job.batch, job.fixed_batch);
      const begin = performance.now();
      const outputs = await session.run(feeds);
      milliseconds += performance.now() - begin;
      for (const box of boxes) await box.add(outputs[box.name], job.fixed_batch ? job.batch : count, count);
      last = feeds;
      tell(`example ${first + count} of ${rows}${total > 1 ? `, bucket ${number + 1} of ${total}` : ""}`, (number + (first + count) / rows) / total);
    }
    for (const box of boxes) await box.flush();
  }
  tell("reading back what ran", 1, true);
  await post(job, "trace", await traced(ort, job, model, external, last));
  return { loop_seconds: milliseconds / 1000 };
}

// Calls until both minima are met, or the limit is over; at least once. Milliseconds; storage is made in blocks, outside of what is timed.
async function timed(call, minIterations, minSeconds, maxSeconds, what) {
  const blocks = [];
  let count = 0, block = null;
  tell(what, 0, true);
  const begin = performance.now();
  const latest = begin + maxSeconds * 1000, earliest = Math.min(begin + minSeconds * 1000, latest);
  for (;;) {
    if (count % BLOCK === 0) blocks.push(block = new Float64Array(BLOCK));
    const before = performance.now();
    await call();
    const after = performance.now();
    block[count++ % BLOCK] = after - before;
    if (after >= earliest && (count >= minIterations || after >= latest)) break;
    tell(`${what}: ${count} inferences`, Math.min(1, count / minIterations, (after - begin) / Math.max(1, earliest - begin)));
  }
  const nanoseconds = new BigInt64Array(count);
  for (let index = 0; index < count; index++) nanoseconds[index] = BigInt(Math.round(blocks[Math.floor(index / BLOCK)][index % BLOCK] * 1e6));
  return nanoseconds;
}

async function launch(ort, job, session) {
  const inputs = await inputsOf(job, job.buckets[0], session);
  const [feeds] = feedsOf(ort, inputs, 0, job.batch, true);
  const call = () => session.run(feeds);
  const begin = performance.now();
  await call();
  const first = performance.now() - begin;
  const rule = job.rule;
  const warmup = await timed(call, rule.warmup_iterations, rule.warmup_seconds, rule.max_seconds, "warming up");
  const samples = await timed(call, rule.min_iterations, rule.min_seconds, rule.max_seconds, "timing");
  await post(job, "samples/warmup", warmup);
  await post(job, "samples/samples", samples);
  const sorted = samples.slice().sort();
  return { first_inference_ms: first, shown_ms: Number(sorted[sorted.length >> 1]) / 1e6 };
}

async function perform(job) {
  const tick = clockTick();
  tell("loading onnxruntime-web", null, true);
  const begin = performance.now();
  const ort = await openRuntime(job);
  const imported = performance.now() - begin;
  tell(`fetching ${job.graph[0].name}`, null, true);
  const model = new Uint8Array(await download(job, job.graph[0]));
  const external = [];
  for (const file of job.graph.slice(1)) external.push({ path: file.name, data: new Uint8Array(await download(job, file)) });
  tell("loading the model", null, true);
  const opening = performance.now();
  const session = await ort.InferenceSession.create(model, sessionOptions(job, external));
  const load_ms = performance.now() - opening;
  const more = await (job.kind === "launch" ? launch(ort, job, session) : validate(ort, job, session, model, external));
  const facts = { providers: [job.provider], options: job.effective, threads: ort.env.wasm.numThreads, clock_tick_ns: tick, import_ms: imported, launcher: "page" };
  await session.release();
  return { status: "ok", reason: "", load_ms, facts, ...more };
}

onmessage = async ({ data: job }) => {
  try {
    postMessage({ result: await perform(job) });
  } catch (error) {
    if (error.status === 409 || error.status === 410 || error instanceof TypeError && /fetch/i.test(error.message)) { postMessage({ lost: true, replaced: error.status === 409 }); return; }
    postMessage({ result: { status: error instanceof NotHere ? "not-run" : "failed", reason: String(error?.message ?? error).split("\n")[0] } });
  }
};
