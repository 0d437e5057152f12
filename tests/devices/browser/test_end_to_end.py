"""Real models by real onnxruntime-web in a real browser, through the whole server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from browser_run import RealPage, real_page, web_runtime
from runtime_models import write_images, write_net, write_quantized

from kdedge.runtimes.job import Job, LaunchRule, Result
from kdedge.runtimes.onnxruntime import open_session

pytestmark = pytest.mark.slow

SHORT = LaunchRule(warmup_seconds=0.0, warmup_iterations=4, min_seconds=0.0, min_iterations=25, max_seconds=20.0)
LONG = LaunchRule(warmup_seconds=0.0, warmup_iterations=1, min_seconds=3.0, min_iterations=10, max_seconds=20.0)

TIMING = "document.getElementById('note').textContent.startsWith('timing')"


@pytest.fixture(scope="module")
def page() -> Iterator[RealPage]:
    with real_page(web_runtime()) as opened:
        yield opened


@pytest.fixture
def floats(tmp_path: Path) -> Job:
    write_images(tmp_path / "x.npy", 5)
    net = write_net(tmp_path / "net.onnx")
    return Job("validate", "onnxruntime", {"main": [str(net)]}, {"threads": 1, "spinning": False}, [{"image": str(tmp_path / "x.npy")}], batch=2)


@pytest.fixture
def given(page: RealPage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the attempts that the desk gave out."""
    numbers: list[int] = []
    give = page.desk._give

    def counted(*words: Any) -> Any:
        told = give(*words)
        numbers.append(told["attempt"])
        return told

    monkeypatch.setattr(page.desk, "_give", counted)
    return numbers


def done(page: RealPage, job: Job, folder: Path) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    return page.desk.run(job, folder, 120, "")


def here(job: Job, **options: Any) -> Any:
    """The same model by ONNX Runtime on this machine."""
    session = open_session(next(iter(job.graphs.values())), {"threads": 1, **options})
    return session.run({name: np.load(path) for name, path in job.buckets[0].items()})["logits"]


def test_the_page_is_isolated_and_complains_of_nothing(page: RealPage) -> None:
    assert page.evaluate("crossOriginIsolated && isSecureContext") is True
    assert page.evaluate("document.cookie") == ""
    assert page.complaints() == []
    (known,) = page.desk.pages()
    assert known.facts["browser"].startswith("Chrom")
    assert "simd" in known.facts["wasm"].split()
    assert "threads" in known.facts["wasm"].split()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") is True


def test_a_float_model_gives_what_it_gives_here_within_1e_4(page: RealPage, floats: Job, tmp_path: Path) -> None:
    result = done(page, floats, tmp_path / "job")
    assert (result.status, result.reason) == ("ok", "")
    assert (result.examples, result.iterations) == (5, 3)
    found = np.load(tmp_path / "job" / result.outputs[0]["logits"])
    np.testing.assert_allclose(found, here(floats), atol=1e-4, rtol=0)
    assert result.facts["executed"]["fp32"] >= 3
    assert page.complaints() == []


def test_an_int8_model_runs_on_integers_and_gives_what_its_file_says(page: RealPage, floats: Job, tmp_path: Path) -> None:
    quantized = write_quantized(tmp_path / "q.onnx", tmp_path / "net.onnx")
    job = replace(floats, graphs={"main": [str(quantized)]})
    result = done(page, job, tmp_path / "job")
    assert (result.status, result.reason) == ("ok", "")
    assert result.facts["executed"].get("fp32", 0) == 0
    layers = json.loads((tmp_path / "job" / "executed.json").read_text())
    assert [layer["operator"] for layer in layers if layer["dtype"] == "int8"].count("QLinearConv") == 2
    assert all(layer["milliseconds"] is not None for layer in layers)
    # The arithmetic of the file, node by node, without fused kernels: WebAssembly's integer kernels add nothing to it. A tie may round either way.
    step = float(np.diff(np.unique(np.load(tmp_path / "job" / result.outputs[0]["logits"]))).min())
    assert np.abs(np.load(tmp_path / "job" / result.outputs[0]["logits"]) - here(job, optimization="disabled")).max() < 1.5 * step


def test_a_launch_is_a_fresh_page_with_samples_and_evidence(page: RealPage, floats: Job, tmp_path: Path) -> None:
    before = page.desk.pages()[0].load
    # Larger than the other models, so that a tick of the clock is small beside it.
    net = write_net(tmp_path / "net.onnx")
    np.save(tmp_path / "many.npy", np.random.default_rng(0).random((16, 3, 8, 8), dtype=np.float32))
    job = replace(floats, kind="launch", graphs={"main": [str(net)]}, buckets=[{"image": str(tmp_path / "many.npy")}], batch=16, launch=SHORT)
    result = done(page, job, tmp_path / "job")
    assert (result.status, result.reason) == ("ok", "")
    samples = np.load(tmp_path / "job" / "samples_ns.npy")
    assert (samples.dtype, len(samples)) == (np.int64, 25)
    assert len(np.load(tmp_path / "job" / "warmup_ns.npy")) == 4
    assert result.iterations == 25
    assert result.loop_seconds == pytest.approx(samples.sum() / 1e9)
    assert (result.load_ms or 0) > 0
    assert (result.first_inference_ms or 0) > 0
    assert (result.evidence["hidden_ms"], result.evidence["changes"]) == (0, 0)
    assert 0 < result.facts["clock_tick_ns"] <= 20_000
    assert result.facts["launcher"] == "page"
    page.eventually(lambda: page.desk.pages()[0].load != before)


def test_a_page_reloaded_in_the_middle_of_a_launch_times_it_anew(page: RealPage, floats: Job, tmp_path: Path, given: list[int]) -> None:
    job = replace(floats, kind="launch", batch=16, launch=LONG)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(done, page, job, tmp_path / "job")
        page.eventually(lambda: given and page.shows(TIMING))
        page.reload()
        result = waiting.result(120)
    assert (result.status, result.reason, given) == ("ok", "", [1, 2])
    assert len(np.load(tmp_path / "job" / "samples_ns.npy")) == result.iterations
    assert not list((tmp_path / "job").glob("attempt-*"))


def test_a_launch_whose_page_was_hidden_in_the_middle_is_repeated(page: RealPage, floats: Job, tmp_path: Path, given: list[int]) -> None:
    job = replace(floats, kind="launch", batch=16, launch=LONG)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(done, page, job, tmp_path / "job")
        page.eventually(lambda: given and page.shows(TIMING))
        page.evaluate(
            "for (const hidden of [true, false]) {"
            "Object.defineProperty(document, 'hidden', {value: hidden, configurable: true}); document.dispatchEvent(new Event('visibilitychange')) }"
        )
        result = waiting.result(120)
    assert (result.status, result.evidence["hidden_ms"], given) == ("ok", 0, [1, 2])


def test_a_launch_does_not_begin_before_the_page_is_in_front(page: RealPage, floats: Job, tmp_path: Path, given: list[int]) -> None:
    hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    # A script of Playwright's own cannot be taken back.
    script = page.opened.tools.send("Page.addScriptToEvaluateOnNewDocument", {"source": hide})["identifier"]
    with ThreadPoolExecutor(1) as pool:
        try:
            page.reload()
            waiting = pool.submit(done, page, replace(floats, kind="launch", batch=16, launch=SHORT), tmp_path / "job")
            page.eventually(lambda: page.shows("document.getElementById('note').textContent.includes('bring it to the front')"))
        finally:  # the other tests have the same page
            page.opened.tools.send("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script})
        page.evaluate(hide.replace("true", "false", 1) + "; document.dispatchEvent(new Event('visibilitychange'))")
        result = waiting.result(120)
    assert (result.status, result.evidence["hidden_ms"], given[-1]) == ("ok", 0, len(given))


def test_a_page_outlives_a_network_that_was_away(page: RealPage) -> None:
    page.eventually(lambda: page.shows("document.getElementById('state').textContent === 'ready'"))
    before = page.desk.pages()[0].load
    page.opened.page.context.set_offline(True)
    page.eventually(lambda: page.shows("document.getElementById('state').textContent === 'offline'"))
    page.opened.page.context.set_offline(False)
    page.eventually(lambda: page.shows("document.getElementById('state').textContent === 'ready'"))
    assert page.desk.pages()[0].load == before


def test_threads_and_side_files_reach_the_runtime(page: RealPage, floats: Job, tmp_path: Path) -> None:
    model = onnx.load(str(tmp_path / "net.onnx"))
    onnx.save_model(model, str(tmp_path / "apart.onnx"), save_as_external_data=True, location="apart.data", size_threshold=0)
    job = replace(floats, graphs={"main": [str(tmp_path / "apart.onnx"), str(tmp_path / "apart.data")]}, options={"threads": 2})
    result = done(page, job, tmp_path / "job")
    assert (result.status, result.reason) == ("ok", "")
    assert result.facts["threads"] == 2
    np.testing.assert_allclose(np.load(tmp_path / "job" / result.outputs[0]["logits"]), here(job), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ("model", "failed", "no model"),
        ("input", "failed", "the job gives the inputs picture, the graph takes image"),
        ("shape", "failed", "Got invalid dimensions for input: image"),
        ("webgpu", "not-run", "this browser has no WebGPU adapter"),
    ],
)
def test_what_goes_wrong_in_the_browser_is_a_reason(page: RealPage, floats: Job, tmp_path: Path, change: str, status: str, said: str) -> None:
    x = str(tmp_path / "x.npy")
    (tmp_path / "no.onnx").write_bytes(b"no model")
    np.save(tmp_path / "wide.npy", np.zeros((5, 3, 9, 8), np.float32))
    job = {
        "model": replace(floats, graphs={"main": [str(tmp_path / "no.onnx")]}),
        "input": replace(floats, buckets=[{"picture": x}]),
        "shape": replace(floats, buckets=[{"image": str(tmp_path / "wide.npy")}]),
        "webgpu": replace(floats, options={"providers": ["WebGpuExecutionProvider"]}),
    }[change]
    result = done(page, job, tmp_path / "job")
    assert result.status == status
    assert change == "model" or said in result.reason
    assert result.reason
    assert "\n" not in result.reason


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32", "uint8", "bool", "float16"])
def test_every_type_of_number_goes_there_and_back(page: RealPage, tmp_path: Path, dtype: str) -> None:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = [onnx.helper.make_tensor_value_info(name, element, ["N", 3]) for name in ("image", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["y"])], "same", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "same.onnx"))
    array = np.array([[0, 1, 2], [100, 3, 0], [7, 1, 1]]).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    job = Job("validate", "onnxruntime", {"main": [str(tmp_path / "same.onnx")]}, {"threads": 1}, [{"image": str(tmp_path / "x.npy")}], batch=2)
    result = done(page, job, tmp_path / "job")
    assert (result.status, result.reason) == ("ok", "")
    found = np.load(tmp_path / "job" / result.outputs[0]["y"])
    assert (found.dtype, found.tolist()) == (np.dtype(dtype), array.tolist())
