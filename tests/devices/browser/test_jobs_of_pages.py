"""A page does a job once: whatever interrupts it, the result is whole or a failure with its reason."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdedge.cli.probing import probe_here
from kdedge.devices import browser
from kdedge.devices.browser.desk import ATTEMPTS
from kdedge.errors import Disconnected
from kdedge.runtimes.job import SustainedRule

ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)
TRACE = (
    b'[{"cat": "Node", "name": "conv1_kernel_time", "dur": 2000, "args": {"op_name": "QLinearConv", "provider": "CPUExecutionProvider", '
    b'"node_index": "3", "input_type_shape": [{"uint8": [1, 2]}], "output_type_shape": [{"uint8": [1, 3]}]}}]'
)


def test_a_probe_says_what_an_open_page_is(world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world.page()
    monkeypatch.setattr(browser, "_desk", lambda: (world.desk, "1.2.3"))
    code = probe_here(["browser:"], as_json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (code, found.get("error")) == (0, None)
    assert (found["kind"], found["fingerprint"]["onnxruntime-web"]) == ("browser", "1.2.3")
    assert "it takes jobs (run, validate, profile) only" in found["sensors"]["none"]


def test_a_page_sees_the_files_of_its_job_and_delivers_outputs_in_pieces(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job())
    job = page.next()
    assert (job["kind"], job["batch"], job["provider"], job["threads"]) == ("validate", 2, "wasm", 1)
    assert str(world.folder) not in json.dumps(job)
    assert page.at(job, f"files/{job['graph'][0]['file']}").body == b"the model's bytes"
    assert page.at(job, f"files/{job['buckets'][0]['image']['file']}").body == (world.folder / "x.npy").read_bytes()
    for part in (ROWS[:2], ROWS[2:4], ROWS[4:]):
        assert page.rows(job, part).status == 200
    assert page.at(job, "trace", TRACE).status == 200
    assert page.finish(job, loop_seconds=0.5).json == {"status": "ok"}
    result = waiting.result(20)
    assert (result.status, result.reason, result.runtime, result.runtime_version) == ("ok", "", "onnxruntime", "1.2.3")
    assert (result.examples, result.iterations, result.load_ms, result.loop_seconds) == (5, 3, 12.5, 0.5)
    assert np.load(world.folder / "job" / result.outputs[0]["y"]).tolist() == ROWS.tolist()
    assert result.facts["executed"] == {"int8": 1}
    (layer,) = json.loads((world.folder / "job" / "executed.json").read_text())
    assert (layer["operator"], layer["dtype"], layer["milliseconds"], layer["sources"]) == ("QLinearConv", "int8", 2.0, ["conv1"])
    assert sorted(path.name for path in (world.folder / "job").iterdir()) == ["executed.json", "outputs"]


def test_a_launch_keeps_its_samples_apart_from_its_warm_up(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job("launch"))
    job = page.next()
    page.samples(job, [1_000_000, 3_000_000, 2_000_000], warmup=(9_000_000,))
    assert page.finish(job).json == {"status": "ok"}
    result = waiting.result(20)
    assert (result.status, result.iterations, result.examples, result.first_inference_ms) == ("ok", 3, 2, 3.25)
    assert result.loop_seconds == pytest.approx(0.006)
    samples = np.load(world.folder / "job" / "samples_ns.npy")
    assert (samples.dtype, samples.tolist()) == (np.int64, [1_000_000, 3_000_000, 2_000_000])
    assert np.load(world.folder / "job" / "warmup_ns.npy").tolist() == [9_000_000]


def test_a_page_reloaded_in_the_middle_does_its_job_anew_and_nothing_counts_twice(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job())
    first = page.next()
    assert page.rows(first, ROWS[:4] + 100).status == 200
    before = replace(page)
    page.reload()
    again = page.next()
    assert (again["id"], again["attempt"]) == (first["id"], 2)
    # What the earlier load still sends is refused, as is its attempt from the new one.
    assert before.rows(first, ROWS[4:]).json == {"error": "replaced"}
    assert page.rows(first, ROWS[4:]).json == {"error": "stale"}
    assert before.finish(first).status == 409
    assert page.rows(again, ROWS).status == 200
    assert page.finish(again).json == {"status": "ok"}
    result = waiting.result(20)
    assert np.load(world.folder / "job" / result.outputs[0]["y"]).tolist() == ROWS.tolist()
    assert not list((world.folder / "job").glob("attempt-*"))


@given(interruptions=st.lists(st.integers(0, 5), max_size=ATTEMPTS - 1))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_a_page_is_reloaded_the_outputs_are_those_of_one_attempt(world: Any, interruptions: list[int]) -> None:
    page, waiting = world.page(), world.run(world.job())
    for sent in interruptions:
        job = page.next()
        for row in range(sent):
            page.rows(job, ROWS[row : row + 1] + 100)
        page.reload()
    job = page.next()
    assert job["attempt"] == len(interruptions) + 1
    page.rows(job, ROWS)
    page.finish(job)
    result = waiting.result(20)
    assert np.load(world.folder / "job" / result.outputs[0]["y"]).tolist() == ROWS.tolist()


def test_a_page_that_never_gets_through_is_given_up_with_the_reasons(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job())
    for _ in range(ATTEMPTS):
        page.next()
        page.reload()
    result = waiting.result(20)
    assert (result.status, result.reason) == ("failed", f"given up after {ATTEMPTS} attempts: the page was reloaded in the middle")


def test_a_job_of_a_page_that_went_silent_goes_to_another(world: Any) -> None:
    silent, waiting = world.page(), world.run(world.job())
    job = silent.next()
    world.desk.silence = 0.3
    assert _eventually(lambda: world.desk._tickets[0].lost)
    world.desk.silence = 30.0
    other = world.page()
    again = other.next()
    assert (again["id"], again["attempt"]) == (job["id"], 2)
    assert silent.finish(job).status == 410
    other.rows(again, ROWS)
    other.finish(again)
    assert waiting.result(20).status == "ok"


def test_a_job_whose_way_to_the_page_was_cut_is_given_again(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job())
    assert page.next()["attempt"] == 1
    job = page.next()  # it asks for work, so it has none
    assert job["attempt"] == 2
    page.rows(job, ROWS)
    assert page.finish(job).json == {"status": "ok"}
    assert waiting.result(20).status == "ok"


def test_without_any_page_the_host_is_told_that_it_may_come_back(world: Any) -> None:
    world.desk.patience = 0.3
    with pytest.raises(Disconnected, match=r"device `browser`: no page has been open for 0\.3 s: open it again"):
        world.run(world.job()).result(20)
    assert not (world.folder / "job" / "result.json").exists()


def test_a_job_waits_for_the_page_that_it_names(world: Any) -> None:
    first, second = world.page(), world.page()
    assert [page.name for page in world.desk.pages()] == ["chrome-pixel-8", "chrome-pixel-8-2"]
    waiting = world.run(world.job("launch"), wanted="chrome-pixel-8-2")
    job = second.next()
    assert first.api("next").json == {"job": None}
    second.samples(job, [1_000_000])
    second.finish(job)
    assert waiting.result(20).status == "ok"


def test_a_name_is_free_again_once_its_page_is_gone(world: Any) -> None:
    gone = world.page()
    world.desk._pages[next(iter(world.desk._pages))].seen -= 60
    again = world.page()
    assert [page.name for page in world.desk.pages()] == ["chrome-pixel-8"]
    assert gone.reload() == "chrome-pixel-8-2"
    assert again.reload() == "chrome-pixel-8"


def test_a_launch_on_a_hidden_page_is_never_counted(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job("launch"))
    for attempt in range(1, ATTEMPTS + 1):
        job = page.next()
        assert job["attempt"] == attempt
        page.samples(job, [1_000_000])
        assert page.finish(job, evidence={"hidden_ms": 12} if attempt % 2 else {}).json == {"status": "invalid"}
        page.reload()
    result = waiting.result(20)
    assert result.status == "failed"
    assert "invalid: the page was hidden in the middle of the launch" in result.reason
    assert not (world.folder / "job" / "samples_ns.npy").exists()


@pytest.mark.parametrize(("tick", "status"), [(50_000, "ok"), (50_001, "failed"), (None, "failed"), (0, "failed"), ("1", "failed")])
def test_a_clock_coarser_than_a_twentieth_of_an_inference_makes_a_launch_invalid(world: Any, tick: Any, status: str) -> None:
    page, waiting = world.page(), world.run(world.job("launch"))
    job = page.next()
    page.samples(job, [1_000_000, 900_000, 1_100_000])
    page.finish(job, facts={"clock_tick_ns": tick})
    result = waiting.result(20)
    assert result.status == status
    assert result.reason.startswith("invalid: the page's clock" if status == "failed" else "")


def test_a_job_at_its_limit_says_what_the_page_said_last(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job(), timeout=0.5)
    job = page.next()
    assert page.at(job, "beat", b'{"note": "example 3 of 5"}').status == 200
    result = waiting.result(20)
    assert (result.status, result.reason) == ("failed", "stopped after 0.5 s, the limit of this job: example 3 of 5")
    assert page.at(job, "beat").status == 410


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"runtime": "openvino"}, "not-run", "a browser runs files of `onnxruntime` (by onnxruntime-web), not of `openvino`"),
        ({"options": {"providers": ["CUDAExecutionProvider"]}}, "not-run", "onnxruntime-web has no provider CUDAExecutionProvider"),
        ({"options": {"inter_threads": 2}}, "failed", "onnxruntime-web runs one operator at a time"),
        ({"options": {"thread": 1}}, "failed", "unknown session option `thread`; did you mean `threads`?"),
        ({"kind": "energy"}, "not-run", "a browser tells nothing of what job `energy` measures"),
        ({"sustained": SustainedRule()}, "not-run", "a browser tells neither temperatures nor clocks"),
        ({"batch": 0}, "failed", "the job's batch is 0"),
        ({"buckets": []}, "failed", "the job has no bucket of inputs"),
    ],
)
def test_what_no_page_can_do_is_answered_before_one_is_asked(world: Any, change: dict[str, Any], status: str, said: str) -> None:
    result = world.run(replace(world.job(), **change)).result(20)
    assert result.status == status
    assert said in result.reason


def test_session_options_reach_onnxruntime_web_by_its_own_names(world: Any) -> None:
    page = world.page()
    options = {"threads": 3, "spinning": False, "qdq_int8_allowed": True, "optimization": "basic", "providers": ["WebGpuExecutionProvider"]}
    world.run(replace(world.job(), options=options), timeout=0.3)
    job = page.next()
    assert (job["provider"], job["threads"]) == ("webgpu", 3)
    entries = {"intra_op": {"allow_spinning": "0"}, "qdqisint8allowed": "1"}
    assert job["session"] == {"graphOptimizationLevel": "basic", "extra": {"session": entries}}


def test_facts_of_a_page_are_cut_to_lines_of_known_names(world: Any) -> None:
    page = world.page()
    page.reload({"browser": "x" * 500, "platform": "a\nb\x00\x1b[31m", "cores": 8, "password": "p", "wasm": ["simd"], "model": True})
    (known,) = world.desk.pages()
    assert known.facts == {"browser": "x" * 120, "platform": "a b[31m", "cores": "8"}
    assert known.name == "chrome-pixel-8"  # the name of a page does not change while it is open


def _eventually(condition: Any) -> bool:
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.05)
    return False
