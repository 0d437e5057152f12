"""Golden examples: a few inputs, what came out of them, and how close another machine has to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Artifact, EncodedInputs
from kdedge.errors import BundleError
from kdedge.measured import Cell, References

Array = npt.NDArray[Any]

EXAMPLES = 8

# The least signal-to-noise ratio, in dB, that outputs on another machine must have against the golden ones:
# 10 log10(sum(golden^2) / sum((output - golden)^2)) over all golden examples. Unrelated outputs give 0 dB or less, a lost normalisation or
# permuted classes likewise. Measured by the same artifact, what remains is rounding: float32 sums in another order stay far above 60 dB,
# float16 keeps 11 bits, and 8-bit kernels of different instruction sets may round an activation to a neighbouring step.
SAME_ARTIFACT_DB: dict[str, float] = {"fp32": 60.0, "fp16": 40.0, "int8": 20.0, "int8-dynamic": 20.0, "int8-weights": 40.0, "mixed": 20.0}
# Against the float student the artifact's own conversion error is allowed too. Wide on purpose: it finds a wrong file or input, no small drift.
FLOAT_STUDENT_DB: dict[str, float] = {"fp32": 50.0, "fp16": 30.0, "int8": 10.0, "int8-dynamic": 10.0, "int8-weights": 15.0, "mixed": 10.0}


@dataclass(frozen=True)
class GoldenCase:
    """Golden examples of one shape: their places in the split, inputs and outputs by name, each [n, ...]."""

    indices: tuple[int, ...]
    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(frozen=True)
class Golden:
    """All cases; `source` says in one line what computed the outputs, `minimum_sqnr_db` how close another machine must come."""

    cases: tuple[GoldenCase, ...]
    source: str
    minimum_sqnr_db: float


def choose(cell: Cell, inputs: EncodedInputs, references: References) -> Golden:
    """The first examples of the split with the outputs of the artifact where it ran, else of the float student with a wider tolerance.

    Raises:
        BundleError: neither has an output that the artifact has, or arrays do not fit the split.
    """
    artifact = cell.artifact
    if cell.fidelity.status == "ok" and cell.fidelity.outputs:
        files: Mapping[str, Path] = cell.fidelity.outputs
        proxy = " (a proxy: not a device of this target)" if cell.proxy else ""
        source = f"this artifact on {cell.device}{proxy}, {artifact.runtime} {cell.fidelity.runtime_version}".rstrip()
        limit = SAME_ARTIFACT_DB[artifact.precision]
    else:
        files = references.student
        source = f"the float student in float32: this artifact did not run ({cell.reason or cell.fidelity.reason or cell.status})"
        limit = FLOAT_STUDENT_DB[artifact.precision]
    outputs = _outputs(artifact, files, inputs.size)
    return Golden(tuple(_cases(inputs, outputs)), source, limit)


def _outputs(artifact: Artifact, files: Mapping[str, Path], size: int) -> dict[str, Array]:
    names = [spec.name for spec in artifact.main.outputs if spec.name in files]
    if not names:
        wanted = ", ".join(spec.name for spec in artifact.main.outputs)
        raise BundleError(
            f"{artifact.target} {artifact.precision}: no golden output: the artifact gives {wanted}, known are {', '.join(files) or 'none'}"
        )
    outputs = {name: np.load(files[name], mmap_mode="r", allow_pickle=False) for name in names}
    for name, array in outputs.items():
        if len(array) != size:
            raise BundleError(f"golden output `{name}` has {len(array)} examples, the split has {size}")
    return outputs


def _cases(inputs: EncodedInputs, outputs: Mapping[str, Array]) -> list[GoldenCase]:
    cases = []
    for bucket in inputs.buckets:
        places = np.load(bucket.indices, allow_pickle=False)
        rows = np.flatnonzero(places < EXAMPLES)
        if not len(rows):
            continue
        rows = rows[np.argsort(places[rows], kind="stable")]
        chosen = places[rows]
        taken = {name: np.ascontiguousarray(np.load(path, mmap_mode="r", allow_pickle=False)[rows]) for name, path in sorted(bucket.files.items())}
        given = {name: np.ascontiguousarray(array[chosen]) for name, array in sorted(outputs.items())}
        cases.append(GoldenCase(tuple(int(place) for place in chosen), taken, given))
    if not cases:
        raise BundleError("no golden example: the split is empty")
    return cases
