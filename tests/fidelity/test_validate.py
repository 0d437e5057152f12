"""With a real worker where it matters, with a made-up one for what no real worker should ever do."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kdedge.artifact import AskedNode, ImportPath
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.errors import DeviceError, DeviceTaken, DeviceUnresponsive
from kdedge.fidelity import validate as module
from kdedge.fidelity.validate import validate, validation_job
from kdedge.measured import DeviceIdentity, Fidelity
from kdedge.runtimes.job import Job, Result

TASK = ImportPath("kdedge.tasks.image_classification:TASK")
HERE = DeviceIdentity("local", "local", ("x86_64",), {})

Array = npt.NDArray[Any]
Outputs = Callable[[int], dict[str, Array]]


@pytest.fixture(name="fake_worker")
def _fake_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Job]]:
    """Replace `run_job`: `outputs(bucket)` are what it writes for each bucket; `result` what it says instead of ok."""

    def install(outputs: Outputs | None = None, result: Result | Exception | None = None, layers: list[dict[str, str]] | None = None) -> list[Job]:
        seen: list[Job] = []

        def run_job(device: Any, job: Job, folder: Path, timeout: float, name: str = "") -> Result:
            seen.append(job)
            if isinstance(result, Exception):
                raise result
            if result is not None:
                return result
            named = []
            for bucket in range(len(job.buckets)):
                arrays = outputs(bucket) if outputs else {}
                for name, array in arrays.items():
                    np.save(folder / f"{bucket}-{name}.npy", array)
                named.append({name: f"{bucket}-{name}.npy" for name in arrays})
            if layers is not None:
                (folder / "executed.json").write_text(json.dumps(layers))
            return Result("ok", outputs=named, runtime_version="1.2.3")

        monkeypatch.setattr(module, "run_job", run_job)
        return seen

    return install


# ---- real workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "parts"), [(4, 1), (1, 3), ("dynamic", 2)])
def test_outputs_come_back_in_the_order_of_the_split_from_a_real_worker(linear: Any, folder: Path, batch: int | str, parts: int) -> None:
    pytest.importorskip("onnxruntime")
    found = validate(linear.artifact(batch), linear.inputs(parts), linear.references(), TASK, HERE, folder=folder)
    assert (found.status, found.reason) == ("ok", "")
    outputs = np.load(found.outputs["logits"])
    assert outputs.dtype == np.float32
    assert outputs == pytest.approx(linear.logits, abs=1e-4)
    assert found.figures["agreement_student"].value == 1.0
    assert found.figures["metric"].name == "accuracy"
    assert found.figures["metric"].value == pytest.approx(np.mean(linear.logits.argmax(1) == linear.labels))
    assert found.figures["agreement_teacher"].value == pytest.approx(np.mean(linear.logits.argmax(1) == linear.teacher_logits.argmax(1)))
    assert found.largest_error is not None
    assert found.largest_error < 1e-4
    assert found.executed.get("fp32", 0) >= 1
    assert found.layers is not None
    assert sum(found.executed.values()) == len(json.loads(found.layers.read_text()))
    assert found.runtime_version
    assert not (folder / "job").exists()


def test_a_file_that_is_no_model_is_a_failed_cell_with_the_runtimes_reason(linear: Any, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    (linear.folder / "broken.onnx").write_bytes(b"nothing")
    found = validate(linear.artifact(path=linear.folder / "broken.onnx"), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert found.status == "failed"
    assert "broken.onnx" in found.reason
    assert found.figures == {}


def test_what_was_asked_is_audited_against_what_the_worker_says_that_it_ran(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    nodes = (AskedNode("fc", "Gemm", "int8", 75, ("fc",)), AskedNode("head", "Gemm", "fp32", 25, ("head",)))
    ran = [{"name": name, "operator": "Gemm", "dtype": "fp32", "provider": "CPU"} for name in ("fc", "head")]
    fake_worker(lambda bucket: {"logits": linear.logits}, layers=ran)
    found = validate(replace(linear.artifact(), asked=nodes), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert found.audit is not None
    assert found.audit.integer_share == 0.0
    assert [row.as_asked for row in found.audit.rows] == [False, True]


def test_without_knowing_what_was_asked_there_is_no_audit(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(lambda bucket: {"logits": linear.logits}, layers=[{"name": "fc", "operator": "Gemm", "dtype": "fp32", "provider": "CPU"}])
    assert validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder).audit is None


# ---- comparing -------------------------------------------------------------------------------------------------------------


def test_conversion_drift_and_distillation_gap_are_never_mixed(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(lambda bucket: {"logits": linear.teacher_logits})  # an artifact that equals the teacher and not the student
    found = validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert set(found.figures) == {"metric", "agreement_student", "agreement_teacher", "kl_student", "kl_teacher", "sqnr_db"}
    assert found.figures["kl_teacher"].value == 0.0
    assert found.figures["agreement_teacher"].value == 1.0
    assert found.figures["kl_student"].value > 0
    error = linear.logits.astype(np.float64) - linear.teacher_logits
    assert found.largest_error == pytest.approx(np.abs(error).max())
    expected = 10 * np.log10((linear.logits.astype(np.float64) ** 2).sum() / (error**2).sum())
    assert found.figures["sqnr_db"].value == pytest.approx(expected)
    assert {figure.unit for name, figure in found.figures.items() if name.startswith("kl")} == {"nats"}


def test_without_a_teacher_only_conversion_drift_is_told(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(lambda bucket: {"logits": linear.logits})
    found = validate(linear.artifact(), linear.inputs(), linear.references(teacher=False), TASK, HERE, folder=folder)
    assert set(found.figures) == {"metric", "agreement_student", "kl_student", "sqnr_db"}


def test_half_precision_outputs_are_compared_and_kept_as_float32(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    half = linear.logits.astype(np.float16)
    fake_worker(lambda bucket: {"logits": half})
    found = validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert np.load(found.outputs["logits"]).tolist() == half.astype(np.float32).tolist()
    assert found.figures["sqnr_db"].value > 55  # eleven bits and some


def test_layers_are_counted_by_the_type_that_they_ran_in(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    layers = [{"name": str(number), "operator": "Conv", "dtype": dtype, "provider": "cpu"} for number, dtype in enumerate(["int8", "fp32", "int8"])]
    fake_worker(lambda bucket: {"logits": linear.logits}, layers=layers)
    found = validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert found.executed == {"fp32": 1, "int8": 2}
    assert found.runtime_version == "1.2.3"


def test_nothing_here_knows_which_task_it_is(
    linear: Any, folder: Path, fake_worker: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance:
        name, metric, logits = "made-up", "distance", "answers"

        def score(self, outputs: dict[str, Array], labels: Array) -> dict[str, Array]:
            return {"distance": outputs["answers"][:, 0] - labels, "other": np.zeros(len(labels))}

    made_up: Any = types.ModuleType("made_up_task")
    made_up.TASK = Distance()
    monkeypatch.setitem(sys.modules, "made_up_task", made_up)
    references = replace(linear.references(), student={"answers": linear.references().student["logits"]}, teacher=None)
    fake_worker(lambda bucket: {"answers": linear.logits})
    found = validate(linear.artifact(), linear.inputs(), references, ImportPath("made_up_task:TASK"), HERE, folder=folder)
    assert (found.status, found.figures["metric"].name) == ("ok", "distance")
    assert found.figures["metric"].value == pytest.approx((linear.logits[:, 0] - linear.labels).mean())
    assert found.figures["agreement_student"].value == 1.0


def test_outputs_that_follow_the_length_of_a_text_are_left_out(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    def outputs(bucket: int) -> dict[str, Array]:
        rows = linear.logits[bucket::2]
        return {"logits": rows, "hidden": np.zeros((len(rows), 4 + bucket))}

    fake_worker(outputs)
    found = validate(linear.artifact(), linear.inputs(2), linear.references(), TASK, HERE, folder=folder)
    assert found.status == "ok"
    assert set(found.outputs) == {"logits"}


# ---- what goes wrong -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "reason"), [("failed", "signal 11 (SIGSEGV)"), ("not-run", "no CUDA device")])
def test_what_a_worker_says_passes_through(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]], status: str, reason: str) -> None:
    fake_worker(result=Result(status, reason, runtime_version="9"))
    found = validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert (found.status, found.reason, found.runtime_version) == (status, reason, "9")
    assert list(folder.iterdir()) == []


def broken(linear: Any, how: str) -> dict[str, Array]:
    logits = linear.logits.copy()
    if how == "nan":
        logits[[5, 7]] = np.nan
    return {
        "nan": {"logits": logits},
        "short": {"logits": logits[:-1]},
        "classes": {"logits": logits[:, :2]},
        "name": {"probabilities": logits},
        "nothing": {},
    }[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nan", "2 of 41 examples hold NaN or infinity, the first those of example 5"),
        ("short", "`logits` has 40 rows for the 41 examples"),
        ("classes", "shape [41, 2], the float student's [41, 3]"),
        ("name", "no output `logits` (outputs: probabilities)"),
        ("nothing", "no output `logits` (outputs: none)"),
    ],
)
def test_outputs_that_cannot_be_compared_fail_the_cell(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]], how: str, says: str) -> None:
    fake_worker(lambda bucket: broken(linear, how))
    found = validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert found.status == "failed"
    assert says in found.reason


def test_a_worker_that_skips_a_bucket_fails_the_cell(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(result=Result("ok", outputs=[{"logits": "0.npy"}]))
    found = validate(linear.artifact(), linear.inputs(2), linear.references(), TASK, HERE, folder=folder)
    assert (found.status, found.reason) == ("failed", "the worker wrote outputs of 1 of 2 input buckets")


@pytest.mark.parametrize("error", [DeviceUnresponsive("device `local`: it does not answer"), DeviceTaken("device `local` is taken by another host")])
def test_a_lost_device_fails_the_cell_and_not_the_run(error: DeviceError, linear: Any, folder: Path, fake_worker: Callable[..., list[Job]]) -> None:
    fake_worker(result=error)
    found: Fidelity = validate(linear.artifact(), linear.inputs(), linear.references(), TASK, HERE, folder=folder)
    assert (found.status, found.reason, found.lost) == ("failed", str(error), True)


def test_a_job_asks_for_the_artifacts_own_batch_and_options(linear: Any) -> None:
    fixed, dynamic = (validation_job(linear.artifact(batch), linear.inputs(2)) for batch in (4, "dynamic"))
    assert (fixed.kind, fixed.batch, fixed.fixed_batch) == ("validate", 4, True)
    assert (dynamic.batch, dynamic.fixed_batch) == (8, False)
    assert fixed.options == {"threads": 1, "spinning": False}
    assert len(fixed.buckets) == 2


def test_the_device_is_opened_by_its_name(linear: Any, folder: Path, fake_worker: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_it(name: str) -> Device:
        opened.append(name)
        return open_device("local")

    monkeypatch.setattr(module, "open_device", open_it)
    fake_worker(result=Result("not-run", "elsewhere"))
    validate(linear.artifact(), linear.inputs(), linear.references(), TASK, replace(HERE, name="jetson-2"), folder=folder)
    assert opened == ["jetson-2"]
