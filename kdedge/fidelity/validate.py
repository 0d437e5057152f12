"""One artifact on one device over the whole test split, against the references: the fidelity half of a cell."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.artifact import Artifact, EncodedInputs, ImportPath
from kdedge.data.npy import save_npy
from kdedge.devices import open_device
from kdedge.devices.jobs import run_job
from kdedge.errors import LOST, DeviceError, MeasurementError, ModelError
from kdedge.estimate import Estimate
from kdedge.fidelity.agreement import top1_agreement
from kdedge.fidelity.audit import audit
from kdedge.fidelity.audit_reasons import saturation
from kdedge.fidelity.divergence import kl_divergence, largest_error, sqnr_estimate
from kdedge.fidelity.scoring import checked_logits, task_scores
from kdedge.intervals import mean_estimate
from kdedge.measured import Audit, DeviceIdentity, Fidelity, References
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.validate import EXECUTED_FILE
from kdedge.tasks.contract import Task

TOOLS = ("numpy",)

Array = npt.NDArray[Any]

# A hung worker must end some day; a slow board must be allowed its time.
SECONDS_TO_START = 600.0
SECONDS_AN_EXAMPLE = 2.0


def validate(
    artifact: Artifact, inputs: EncodedInputs, references: References, task: ImportPath, device: DeviceIdentity, *, folder: Path
) -> Fidelity:
    """Run the artifact over all inputs in its own process on the device, with the session options that it ships with, and compare.

    A worker that dies, a device that is lost and outputs that cannot be compared are results: `failed`, with the reason. Writes the outputs
    (`.npy`, in the order of the split) and the executed layers.
    """
    judge: Task = task.load()
    what = f"validating {artifact.target} {artifact.precision} on {device.name}"
    progress.advance(what, 0, 1)
    work = folder / "job"
    work.mkdir()
    try:
        result = run_job(
            open_device(device.name), validation_job(artifact, inputs), work, SECONDS_TO_START + SECONDS_AN_EXAMPLE * inputs.size, "validate"
        )
        if result.status != "ok":
            return _without_figures(result.status, result.reason, result)
        outputs = in_order_of_the_split(result.outputs, work, inputs)
        figures, largest = compare(outputs, references, judge)
        ran = executed_in(work)
        layers = _kept_layers(work, folder)
    except (DeviceError, MeasurementError, ModelError) as error:
        return replace(_without_figures("failed", str(error), None), lost=isinstance(error, LOST))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        progress.advance(what, 1, 1)
    return Fidelity(
        status="ok",
        reason="",
        figures=figures,
        largest_error=largest,
        executed=dict(sorted(Counter(str(layer["dtype"]) for layer in ran).items())),
        layers=layers,
        runtime_version=result.runtime_version,
        outputs=_written(outputs, folder),
        audit=_audited(artifact, ran, device) if layers is not None and artifact.asked else None,
    )


def _audited(artifact: Artifact, ran: list[dict[str, Any]], device: DeviceIdentity) -> Audit:
    found = audit(artifact.asked, ran, artifact.runtime, artifact.options, device.machines)
    warning = saturation(artifact.dialect, artifact.precision, device)
    return replace(found, findings=(*found.findings, warning)) if warning else found


def validation_job(artifact: Artifact, inputs: EncodedInputs) -> Job:
    """The job of a validation: every bucket, in batches of the size that the artifact is made for."""
    batch, fixed = artifact.batch
    return Job(
        kind="validate",
        runtime=artifact.runtime,
        graphs={graph.name: [str(file) for file in graph.files] for graph in artifact.graphs},
        options=dict(artifact.options),
        buckets=[{name: str(path) for name, path in bucket.files.items()} for bucket in inputs.buckets],
        batch=batch,
        fixed_batch=fixed,
    )


def in_order_of_the_split(written: Sequence[Mapping[str, str]], work: Path, inputs: EncodedInputs) -> dict[str, Array]:
    """The outputs of all buckets put back in the order of the split, float32 where they are floating point.

    An output whose shape differs between buckets (it follows the length of the text) is left out: it is no array over the split.

    Raises:
        MeasurementError: outputs are missing, or have another number of examples than their bucket.
    """
    if len(written) != len(inputs.buckets):
        raise MeasurementError(f"the worker wrote outputs of {len(written)} of {len(inputs.buckets)} input buckets")
    whole: dict[str, Array] = {}
    for name in written[0]:
        parts = [_part(bucket, name, work, number, inputs) for number, bucket in enumerate(written)]
        if len({part.shape[1:] for part in parts}) != 1:
            continue
        kind = np.float32 if parts[0].dtype.kind == "f" else parts[0].dtype
        whole[name] = np.empty((inputs.size, *parts[0].shape[1:]), kind)
        for part, bucket in zip(parts, inputs.buckets, strict=True):
            whole[name][np.load(bucket.indices, allow_pickle=False)] = part
    return whole


def _part(bucket: Mapping[str, str], name: str, work: Path, number: int, inputs: EncodedInputs) -> Array:
    if name not in bucket or not (work / bucket[name]).is_file():
        raise MeasurementError(f"the worker wrote no output `{name}` for input bucket {number}")
    try:
        part: Array = np.load(work / bucket[name], mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise MeasurementError(f"output `{name}` of input bucket {number} cannot be read: {error}") from error
    if len(part) != inputs.buckets[number].size:
        raise MeasurementError(f"output `{name}` has {len(part)} rows for the {inputs.buckets[number].size} examples of input bucket {number}")
    return part


def compare(outputs: Mapping[str, Array], references: References, task: Task) -> tuple[dict[str, Estimate], float]:
    """All figures of a fidelity, by their names in the JSON, and the largest absolute logit error against the float student.

    Raises:
        ModelError: no logits, or logits that are not finite or of another shape than the references'.
    """
    labels = np.load(references.labels, allow_pickle=False)
    if task.logits not in outputs:
        raise ModelError(f"the artifact has no output `{task.logits}` (outputs: {', '.join(outputs) or 'none'})")
    logits = checked_logits(outputs[task.logits], "the artifact", len(labels))
    student = np.load(references.student[task.logits], mmap_mode="r", allow_pickle=False)
    if student.shape != logits.shape:
        raise ModelError(f"the artifact's logits have shape {list(logits.shape)}, the float student's {list(student.shape)}")
    figures = {
        "metric": mean_estimate(task.metric, task_scores(task, outputs, labels)),
        "agreement_student": mean_estimate("agreement_student", top1_agreement(student, logits)),
        "kl_student": mean_estimate("kl_student", kl_divergence(student, logits), "nats"),
        "sqnr_db": sqnr_estimate("sqnr_db", student, logits),
    }
    if references.teacher is not None:
        teacher = np.load(references.teacher[task.logits], mmap_mode="r", allow_pickle=False)
        figures["agreement_teacher"] = mean_estimate("agreement_teacher", top1_agreement(teacher, logits))
        figures["kl_teacher"] = mean_estimate("kl_teacher", kl_divergence(teacher, logits), "nats")
    return figures, largest_error(student, logits)


def _without_figures(status: str, reason: str, result: Result | None) -> Fidelity:
    # A worker may be another's: what is neither ok nor not-run failed.
    return Fidelity("not-run" if status == "not-run" else "failed", reason, runtime_version=result.runtime_version if result else "")


def executed_in(work: Path) -> list[dict[str, Any]]:
    """The executed layers that a worker left in its folder (the fields of `ExecutedLayer`); none where the runtime does not tell.

    Raises:
        MeasurementError: the file is no list of layers.
    """
    path = work / EXECUTED_FILE
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except ValueError as error:
        raise MeasurementError(f"the worker's {EXECUTED_FILE} cannot be read: {error}") from error
    if not isinstance(found, list) or not all(isinstance(layer, dict) and "dtype" in layer for layer in found):
        raise MeasurementError(f"the worker's {EXECUTED_FILE} is no list of layers")
    return found


def _kept_layers(work: Path, folder: Path) -> Path | None:
    """The file of what really ran; None where the runtime does not tell."""
    source = work / EXECUTED_FILE
    return Path(shutil.move(source, folder / EXECUTED_FILE)) if source.is_file() else None


def _written(outputs: Mapping[str, Array], folder: Path) -> dict[str, Path]:
    paths = {}
    for number, (name, values) in enumerate(sorted(outputs.items())):
        paths[name] = folder / f"output-{number}.npy"
        save_npy(paths[name], values)
    return paths
