"""The validate job gives every output of every example, in the order of the inputs, whatever the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runtime import fake_session
from runtime_models import save, write_images, write_net

from kdedge.runtimes import adapter, validate
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, write_job
from kdedge.runtimes.perform import attempt


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {"kind": "validate", "runtime": "onnxruntime", "graphs": {"main": ["net.onnx"]}, "options": {"threads": 1}}
    return Job(**{**values, "buckets": [{"image": "images.npy"}], **changes})


@pytest.mark.parametrize(("batch", "fixed"), [(1, True), (4, True), (4, False), (7, True), (16, True), (16, False)])
def test_outputs_are_those_of_one_call_with_everything(batch: int, fixed: bool, tmp_path: Path) -> None:
    write_net(tmp_path / "net.onnx", batch if fixed else "N")
    images = write_images(tmp_path / "images.npy", 10)
    write_job(str(tmp_path), job(batch=batch, fixed_batch=fixed))
    result = attempt(str(tmp_path))
    assert (result.status, result.reason) == ("ok", "")
    assert result.examples == 10
    assert result.iterations == -(-10 // batch)
    whole = adapter("onnxruntime").open_session([str(write_net(tmp_path / "whole.onnx"))], {}).run({"image": images})["logits"]
    assert result.outputs == [{"logits": "outputs/0/logits.npy"}]
    assert np.allclose(np.load(tmp_path / "outputs/0/logits.npy"), whole, atol=1e-5)


def test_each_bucket_has_its_own_outputs(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones((3, 2), np.float32))
    np.save(tmp_path / "long.npy", np.ones((2, 5), np.float32))
    two = job(runtime="fake", buckets=[{"image": "short.npy"}, {"image": "long.npy"}], batch=2)
    result = validate.run(two, str(tmp_path), fake_session())
    assert result.examples == 5
    assert result.iterations == 3
    assert np.load(tmp_path / result.outputs[0]["doubled"]).shape == (3, 2)
    assert np.array_equal(np.load(tmp_path / result.outputs[1]["doubled"]), np.full((2, 5), 2.0))
    assert result.facts["executed"] == {"fp32": 1}
    assert json.loads((tmp_path / "executed.json").read_text()) == [{"name": "double", "operator": "Mul", "dtype": "fp32", "provider": "fake"}]


def test_peak_memory_does_not_count_what_reading_back_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", np.ones((4, 2), np.float32))
    session = fake_session()
    memory = [100]

    def executed() -> list[Any]:
        memory.append(900)
        return []

    monkeypatch.setattr(session, "executed", executed)
    monkeypatch.setattr(validate, "peak_memory_bytes", lambda: max(memory))
    assert validate.run(job(batch=2), str(tmp_path), session).peak_memory_bytes == 100


def test_an_output_with_another_number_of_rows_fails_the_job(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.ones((4, 2), np.float32))
    with pytest.raises(RuntimeFailure, match=r"`doubled` has shape \[1, 2\] for a batch of 2"):
        validate.run(job(batch=2), str(tmp_path), fake_session("lose a row"))


def test_inputs_that_the_graph_does_not_take_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 2), np.float32))
    with pytest.raises(RuntimeFailure, match="gives the inputs pixels, the graph takes image"):
        validate.run(job(buckets=[{"pixels": "x.npy"}]), str(tmp_path), fake_session())


def test_an_output_name_from_a_foreign_graph_never_steers_the_path(tmp_path: Path) -> None:
    from onnx import helper

    hostile = "../../../escaped"
    save(tmp_path / "net.onnx", [helper.make_node("Relu", ["image"], [hostile])], [], ["N", 3, 8, 8], hostile, ["N", 3, 8, 8])
    images = write_images(tmp_path / "images.npy", 2)
    write_job(str(tmp_path), job())
    result = attempt(str(tmp_path))
    assert result.outputs == [{hostile: "outputs/0/output-0.npy"}]
    assert np.array_equal(np.load(tmp_path / "outputs/0/output-0.npy"), images)


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"options": {"thread": 1}}, "failed", "unknown session option `thread`"),
        ({"graphs": {"main": ["absent.onnx"]}}, "failed", "file absent.onnx does not exist"),
        ({"graphs": {"a": ["net.onnx"], "b": ["net.onnx"]}}, "failed", "has 2 graphs"),
        ({"graphs": {"main": ["images.npy"]}}, "failed", "onnxruntime cannot open images.npy"),
        ({"batch": 0}, "failed", "batch is 0"),
        ({"runtime": "nothing"}, "failed", "no runtime `nothing`"),
        ({"batch": 3}, "failed", "Got invalid dimensions for input: image"),
        ({"options": {"providers": ["CUDAExecutionProvider"]}}, "not-run", "this build has no CUDAExecutionProvider"),
    ],
)
def test_what_goes_wrong_is_one_sentence_without_the_folder(changes: dict[str, Any], status: str, said: str, tmp_path: Path) -> None:
    write_net(tmp_path / "net.onnx", 2)
    write_images(tmp_path / "images.npy", 4)
    write_job(str(tmp_path), job(**changes))
    result = attempt(str(tmp_path))
    assert result.status == status
    assert said in result.reason
    assert "\n" not in result.reason
    assert str(tmp_path) not in result.reason


def test_a_job_that_is_no_job_is_a_failure_too(tmp_path: Path) -> None:
    assert attempt(str(tmp_path)).status == "failed"
    (tmp_path / "job.json").write_text('{"schema": 1, "kind": "dance"}')
    assert "kind is 'dance'; allowed: validate, launch" in attempt(str(tmp_path)).reason
