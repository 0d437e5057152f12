"""What `quantization.py` measures of a file: outputs on the test inputs, what ran as integers, and latency, always by kdedge's own worker."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quantization_models import Array, load

from kdedge.devices import open_device
from kdedge.devices.jobs import run_job
from kdedge.estimate import Estimate
from kdedge.fidelity.agreement import top1_agreement
from kdedge.fidelity.divergence import decibels, kl_divergence, powers
from kdedge.intervals import function_of_means, mean_estimate, median_estimate
from kdedge.runtimes.job import Job, LaunchRule, Result

AS_WRITTEN = "as-written"
"""No runtime: ONNX Runtime without its optimizations, so that each Q, DQ and what stands between them runs by itself, in float32. What it gives is
what the file says, and what CPUs with VNNI give (but for ties in rounding), on any CPU."""
OPTIONS: Mapping[str, dict[str, Any]] = {
    "onnxruntime": {"threads": 1, "spinning": False},
    AS_WRITTEN: {"threads": 1, "spinning": False, "optimization": "disabled"},
    "openvino": {"threads": 1, "inference_precision": "f32"},
}
RULE = LaunchRule(warmup_seconds=0.3, warmup_iterations=20, min_seconds=1.0, min_iterations=100, max_seconds=10.0)
SLOWER = 1.02  # a median latency ratio above this is a regression

MASK = "attention_mask"

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ran:
    """Outputs on all test inputs, and how many layers ran in which type."""

    output: Array
    executed: dict[str, int]


def run_all(path: Path, runtime: str, inputs: Path, batch: int = 1, fixed: bool = True) -> Ran:
    """Run the file on every example of `inputs` (an `.npz`), batch by batch.

    Raises:
        RuntimeError: the worker failed; the message has its reason.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = _by_length(load(inputs))
        buckets = [_saved(arrays, folder / str(number)) for number, (_, arrays) in enumerate(parts)]
        result = _run(Job("validate", program_of(runtime), {"model": _files(path)}, OPTIONS[runtime], buckets, batch, fixed), folder / "job")
        found = [np.load(folder / "job" / next(iter(outputs.values())), allow_pickle=False) for outputs in result.outputs]
        order = np.argsort(np.concatenate([places for places, _ in parts]))
        return Ran(np.concatenate(found)[order], dict(result.facts["executed"]))


def program_of(runtime: str) -> str:
    """The runtime that runs for it."""
    return "onnxruntime" if runtime == AS_WRITTEN else runtime


def _by_length(arrays: Mapping[str, Array]) -> list[tuple[npt.NDArray[np.int64], dict[str, Array]]]:
    """Examples, and their places, that have the same shape: sentences are cut to their own length, so that none is padded; images are all alike."""
    count = len(next(iter(arrays.values())))
    if MASK not in arrays:
        return [(np.arange(count), dict(arrays))]
    lengths = arrays[MASK].sum(axis=1)
    parts = [(np.flatnonzero(lengths == length), int(length)) for length in np.unique(lengths)]
    return [(places, {name: array[places, :length] for name, array in arrays.items()}) for places, length in parts]


def _saved(arrays: Mapping[str, Array], folder: Path) -> dict[str, str]:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
    return {name: str(folder / f"{name}.npy") for name in arrays}


def weights_of(path: Path) -> tuple[Path, ...]:
    """The file of weights beside OpenVINO's `.xml`; an ONNX file holds its own."""
    return (path.with_suffix(".bin"),) if path.suffix == ".xml" else ()


def _files(path: Path) -> list[str]:
    return [str(path), *map(str, weights_of(path))]


def _run(job: Job, folder: Path) -> Result:
    result = run_job(open_device("local"), job, folder, timeout=900.0)
    if result.status != "ok":
        raise RuntimeError(f"{Path(job.graphs['model'][0]).name} on {job.runtime} {result.status}: {result.reason}")
    return result


# ---- fidelity --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """One number a test example, against the float graph. `distance`: what a ratio of two quantizers is about (KL, or 1 - cosine)."""

    distance: Float64
    same_class: Float64 | None
    powers: Float64

    def figures(self, measure: str) -> dict[str, Any]:
        """As JSON: value, and both ends of its interval."""
        found = [mean_estimate(measure, self.distance, "nats" if measure == "kl" else "of 1")]
        if self.same_class is not None:
            found.append(mean_estimate("agreement", self.same_class))
        found.append(function_of_means("sqnr_db", self.powers, decibels, "dB"))
        return {figure.name: [figure.value, figure.low, figure.high] for figure in found}


def classifier_scores(reference: Array, candidate: Array) -> Scores:
    """Of logits [n, classes]."""
    return Scores(kl_divergence(reference, candidate), top1_agreement(reference, candidate), powers(reference, candidate))


def embedding_scores(reference: Array, candidate: Array) -> Scores:
    """Of embeddings [n, width]: 1 - cosine."""
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return Scores(1 - cosine, None, powers(reference, candidate))


def ratio(ours: Scores, theirs: Scores) -> Estimate:
    """Our mean distance by theirs, example by example: the interval is of the ratio of means over the same resampled examples."""
    columns = np.stack([ours.distance, theirs.distance], axis=1)
    return function_of_means("ratio", columns, lambda means: means[:, 0] / np.maximum(means[:, 1], 1e-300), "")


# ---- latency ---------------------------------------------------------------------------------------------------------------


def paired_launches(ours: Path, theirs: Path, runtime: str, inputs: Path, pairs: int) -> list[tuple[float, float]]:
    """Median milliseconds of a pair of launches each, ours first; every launch is a fresh process, and pairs alternate in ABBA order."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = _by_length(load(inputs))
        typical = parts[len(parts) // 2][1]
        bucket = _saved({key: array[:1] for key, array in typical.items()}, folder / "inputs")
        for pair in range(pairs):
            order = (ours, theirs) if pair % 2 == 0 else (theirs, ours)
            taken = {path: _launch(path, runtime, bucket, folder) for path in order}
            found.append((taken[ours], taken[theirs]))
    return found


def _launch(path: Path, runtime: str, bucket: dict[str, str], folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        _run(Job("launch", runtime, {"model": _files(path)}, OPTIONS[runtime], [bucket], launch=RULE), Path(name))
        return float(np.median(np.load(Path(name) / "samples_ns.npy", allow_pickle=False))) / 1e6


def latency_ratio(pairs: Sequence[Sequence[float]]) -> Estimate:
    """The median over pairs of our latency by theirs, with the interval of order statistics; none below six pairs."""
    return median_estimate("latency_ratio", [ours / theirs for ours, theirs in pairs], "")


def regressed(found: Estimate) -> bool:
    """Whether the whole interval lies beyond 2 % slower."""
    return found.low is not None and found.low > SLOWER
