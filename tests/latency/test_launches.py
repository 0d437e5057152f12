"""With a real worker for the whole way, with a made-up one for what no real worker should ever do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.artifact import Artifact, Dimension, EncodedInputs, GraphFile, ImageEncoder, InputBucket, Lineage, TensorSpec
from kdedge.errors import Disconnected
from kdedge.latency import launches as module
from kdedge.latency.launches import launch_job, profile
from kdedge.measured import DeviceIdentity
from kdedge.recipe import ProfileSection
from kdedge.runtimes.job import Job, Result, SustainedRule

HERE = DeviceIdentity("local", "local", ("x86_64",), {})
QUICK = ProfileSection(launches=6, warmup_seconds=0, warmup_iterations=3, min_seconds=0.01, min_iterations=70, timeout_seconds=60)


def artifact(path: Path, first: int | Dimension = 2) -> Artifact:
    graph = GraphFile("main", (path,), (TensorSpec("x", "float32", (first, 4)),), (TensorSpec("logits", "float32", (first, 4)),))
    lineage = Lineage("r", "", "s", "0", "0")
    options = {"threads": 1, "spinning": False}
    encoder = ImageEncoder((2, 2))
    return Artifact("onnxruntime-x86", "fp32", "onnx", "onnxruntime", "onnxruntime-x86", (graph,), "0", 1, options, encoder, ("a", "b"), lineage)


@pytest.fixture(name="inputs")
def _inputs(tmp_path: Path) -> EncodedInputs:
    """Two buckets; the first, of 5 examples, is the usual one."""
    buckets = []
    for number, size in enumerate((5, 3)):
        np.save(tmp_path / f"x{number}.npy", np.arange(size * 4, dtype=np.float32).reshape(size, 4) + 100 * number)
        np.save(tmp_path / f"places{number}.npy", np.arange(size))
        buckets.append(InputBucket({"x": tmp_path / f"x{number}.npy"}, tmp_path / f"places{number}.npy", size))
    return EncodedInputs(tuple(buckets), 8)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "stage").mkdir()
    return tmp_path / "stage"


@pytest.fixture(name="fake_worker")
def _fake_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Job]]:
    """Replace `run_job`; launch k takes `results[k]` (the last one stays) and writes samples of k + 1 ms if that is ok."""

    def install(*results: Result | Exception, samples: bool = True) -> list[Job]:
        seen: list[Job] = []

        def run_job(device: Any, job: Job, folder: Path, timeout: float, name: str = "") -> Result:
            result = results[min(len(seen), len(results) - 1)]
            seen.append(job)
            if isinstance(result, Exception):
                raise result
            if result.status == "ok" and samples:
                np.save(folder / "samples_ns.npy", np.full(70, 1_000_000 * len(seen), np.int64))
                np.save(folder / "warmup_ns.npy", np.full(3, 9_000_000, np.int64))
            return result

        monkeypatch.setattr(module, "run_job", run_job)
        return seen

    return install


def test_six_real_launches_give_a_median_with_an_interval_and_keep_every_sample(inputs: EncodedInputs, folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 4]) for name in ("x", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["logits"])], "relu", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "relu.onnx")

    found = profile(artifact(tmp_path / "relu.onnx"), inputs, HERE, QUICK, folder=folder)
    assert (found.status, found.reason, found.launches) == ("ok", "", 6)
    assert len(found.samples) == 6
    samples = [np.load(path) for path in found.samples]
    assert all(each.dtype == np.int64 and len(each) >= 70 and (each > 0).all() for each in samples)
    medians = sorted(float(np.median(each)) / 1e6 for each in samples)
    latency = found.figures["latency_median"]
    assert latency.value == pytest.approx((medians[2] + medians[3]) / 2)
    assert latency.interval == pytest.approx((medians[0], medians[-1]))
    assert found.figures["latency_p90"].value >= latency.value
    assert found.load_ms is not None
    assert found.load_ms.value > 0
    assert found.first_inference_ms is not None
    assert found.peak_memory_mb is not None
    assert 5 < found.peak_memory_mb < 5000
    assert not (folder / "job").exists()
    assert len(list(folder.glob("warmup-*.npy"))) == 6


def test_each_launch_is_a_process_of_its_own(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    seen = fake_worker(Result("ok", load_ms=1.0))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder)
    assert len(seen) == 6
    assert found.figures["latency_median"].value == 3.5  # the launches' medians are 1 to 6 ms
    assert found.figures["latency_median"].interval == (1.0, 6.0)
    assert [np.load(path)[0] for path in found.samples] == [1_000_000 * (number + 1) for number in range(6)]


def test_one_failed_launch_fails_the_measurement_and_says_which(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    seen = fake_worker(Result("ok"), Result("ok"), Result("failed", "signal 11 (SIGSEGV)"))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder)
    assert (found.status, found.reason) == ("failed", "launch 3 of 6: signal 11 (SIGSEGV)")
    assert len(seen) == 3
    assert found.figures == {}
    assert len(found.samples) == 2
    assert all(path.is_file() for path in found.samples)


def test_what_is_not_here_is_not_run(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    seen = fake_worker(Result("not-run", "no CUDA device"))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder)
    assert (found.status, found.reason, len(seen)) == ("not-run", "no CUDA device", 1)


def test_a_lost_device_fails_the_measurement_and_not_the_run(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(Result("ok"), Disconnected("device `local`: it does not answer"))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder)
    assert (found.status, found.reason) == ("failed", "launch 2 of 6: device `local`: it does not answer")
    assert (found.lost, found.is_invalid) == (True, True)


def test_a_launch_without_samples_is_never_a_figure(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(Result("ok"), samples=False)
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder)
    assert (found.status, found.figures) == ("failed", {})
    assert "no warmup_ns.npy" in found.reason


def test_a_launch_times_the_first_examples_of_the_usual_bucket_by_the_recipes_rule(inputs: EncodedInputs, folder: Path) -> None:
    settings = ProfileSection(launches=1, warmup_seconds=0.5, warmup_iterations=7, min_seconds=3, min_iterations=99, max_seconds=11)
    job = launch_job(artifact(Path("m.onnx"), Dimension("batch", 1, 4, 8)), inputs, settings, folder)
    assert (job.kind, job.batch, job.fixed_batch, job.options) == ("launch", 4, False, {"threads": 1, "spinning": False})
    assert len(job.buckets) == 1
    assert np.load(job.buckets[0]["x"]).tolist() == np.arange(16, dtype=np.float32).reshape(4, 4).tolist()
    rule = job.launch
    assert (rule.warmup_seconds, rule.warmup_iterations, rule.min_seconds, rule.min_iterations, rule.max_seconds) == (0.5, 7, 3, 99, 11)


def throttled(events: int) -> Result:
    return Result("ok", load_ms=1.0, evidence={"before": {"throttle_events": 7}, "after": {"throttle_events": 7 + events}})


def test_a_launch_that_throttled_keeps_its_samples_and_counts_for_no_figure(
    inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]
) -> None:
    fake_worker(*[throttled(0)] * 2, throttled(12), *[throttled(0)] * 7)
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK.model_copy(update={"launches": 10}), folder=folder)
    assert (found.status, found.launches, len(found.samples)) == ("ok", 10, 10)
    latency = found.figures["latency_median"]
    assert (latency.n, latency.value) == (9, 6.0)  # of 1, 2, 4, ... 10 ms: the launch of 3 ms is dropped
    assert found.invalid == ("", "", "the CPU throttled because of heat (up to 12 events)", *[""] * 7)
    assert found.notes[0] == "dropped 1 of 10 launches: the CPU throttled because of heat (up to 12 events)"
    assert not found.is_invalid


def test_where_every_launch_throttled_there_is_no_latency(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(throttled(3))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder)
    assert (found.status, found.figures, found.launches, len(found.samples)) == ("failed", {}, 6, 6)
    assert found.reason == "invalid: in all 6 launches the CPU throttled because of heat (up to 3 events)"
    assert found.is_invalid


def test_a_failed_launch_is_not_called_invalid(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(throttled(3), Result("failed", "signal 11"))
    assert not profile(artifact(Path("m.onnx")), inputs, HERE, QUICK, folder=folder).is_invalid


def sampled(gross: float, note: str = "not the wall") -> Result:
    energy = {"gross_mj": gross, "net_mj": gross - 2, "idle_mw": 1500.0, "tap_point": "VDD_IN", "interval_ms": 50.0, "readings": 40, "note": note}
    return Result("ok", load_ms=1.0, facts={"energy": energy})


def test_energy_is_measured_in_launches_of_its_own(inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    seen = fake_worker(*[Result("ok", load_ms=1.0)] * 6, *[sampled(gross) for gross in (10, 11, 12, 13, 14, 15)])
    settings = QUICK.model_copy(update={"energy": True, "energy_seconds": 3.0})
    found = profile(artifact(Path("m.onnx")), inputs, HERE, settings, folder=folder)
    assert [job.kind for job in seen] == ["launch"] * 6 + ["energy"] * 6
    assert seen[-1].launch.min_seconds == 3.0
    assert found.figures["latency_median"].value == 3.5  # the first six launches alone
    gross, net = found.energy["energy_gross"], found.energy["energy_net"]
    assert (gross.value, gross.interval, gross.unit, net.value) == (12.5, (10.0, 15.0), "mJ", 10.5)
    assert found.energy["power_idle"].value == 1500.0
    assert found.energy_reason.startswith("measured at VDD_IN, read every 50 ms, at least 40 times a launch")
    assert found.energy_reason.endswith("not the wall")


def test_where_no_supply_can_be_read_there_is_latency_without_energy(
    inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]
) -> None:
    fake_worker(*[Result("ok", load_ms=1.0)] * 6, Result("not-run", "no supply of this machine can be read"))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK.model_copy(update={"energy": True}), folder=folder)
    assert (found.status, found.energy) == ("ok", {})
    assert found.energy_reason == "energy not-run: no supply of this machine can be read"


def test_a_sustained_profile_is_one_launch_that_throttling_does_not_spoil(
    inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]
) -> None:
    observations = [{"seconds": at, "iteration": 0, "throttle_events": events} for at, events in ((0.0, 7), (2.0, 9))]
    watched = {"ended": "time", "seconds": 600.0, "observations": observations}
    seen = fake_worker(replace(throttled(12), facts={"sustained": watched}))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK.model_copy(update={"mode": "sustained"}), folder=folder)
    assert [job.sustained for job in seen] == [SustainedRule(seconds=600.0)]
    assert (found.status, found.launches, found.figures, found.invalid) == ("ok", 1, {}, ())
    assert found.sustained["throttled_after_seconds"] == 2.0
    assert found.sustained["steady_ratio"] == 1.0


def test_energy_beside_a_sustained_launch_is_measured_in_short_ones(
    inputs: EncodedInputs, folder: Path, fake_worker: Callable[..., list[Job]]
) -> None:
    watched = {"ended": "flat", "seconds": 300.0, "observations": [{"seconds": 0.0, "iteration": 0}]}
    seen = fake_worker(Result("ok", facts={"sustained": watched}), sampled(10.0))
    found = profile(artifact(Path("m.onnx")), inputs, HERE, QUICK.model_copy(update={"mode": "sustained", "energy": True}), folder=folder)
    assert [(job.kind, job.sustained is None) for job in seen] == [("launch", False)] + [("energy", True)] * 6
    assert found.energy["energy_gross"].value == 10.0


def test_a_real_launch_can_be_sustained(inputs: EncodedInputs, folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 4]) for name in ("x", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["logits"])], "relu", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "relu.onnx")
    settings = QUICK.model_copy(update={"mode": "sustained", "sustained_seconds": 1.0})
    found = profile(artifact(tmp_path / "relu.onnx"), inputs, HERE, settings, folder=folder)
    assert (found.status, found.reason) == ("ok", "")
    assert found.sustained["seconds"] >= 1.0
    assert 0 < found.sustained["first_minute_ms"] < 100
    assert len(np.load(found.samples[0])) > 10
