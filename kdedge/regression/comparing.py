"""Two artifacts side by side on one device: how far apart their outputs are on the same inputs, how much slower the second is, how large both are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdedge import __version__
from kdedge.bundle.manifest import MANIFEST, read_manifest
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.devices.jobs import run_job
from kdedge.errors import LOST, DataError, MeasurementError
from kdedge.latency.check import Arm, Checked, CheckSettings, check, differences
from kdedge.regression.arms import Given, with_inputs_of
from kdedge.regression.sides import refuse_inputs, refuse_sizes, single_arm
from kdedge.runtimes.job import Result

if TYPE_CHECKING:
    from kdedge.exporters.foreign.distance import OutputDistance

Array = npt.NDArray[Any]
Bucket = Mapping[str, str]

SCHEMA = 1
TIMEOUT = 600.0


@dataclass(frozen=True)
class Side:
    """One of both. `inputs`: the examples that it brings, a mapping of input names to `.npy` files a bucket; `size_bytes`: of what the runtime
    opens."""

    arm: Arm
    inputs: tuple[Bucket, ...]
    size_bytes: int


@dataclass(frozen=True)
class OutputComparison:
    """One output of both on the same examples. `distance`: SQNR, agreement and divergence where they apply, A's values being the reference;
    `largest_difference`: of any element, None where an output's size depends on values and differed."""

    distance: OutputDistance
    largest_difference: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        figures = {name: figure.as_json() for name, figure in self.distance.figures.items()}
        return {"name": self.distance.name, "shape": list(self.distance.shape), "largest_difference": self.largest_difference, **figures}


@dataclass(frozen=True)
class Comparison:
    """Both compared. `examples`: on how many outputs were; `latency`: the check of B against A; `notes`: what both do not share."""

    device: str
    environment: Mapping[str, str]
    first: Side
    second: Side
    examples: int
    outputs: tuple[OutputComparison, ...]
    latency: Checked
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, and 4 where the latency is invalid: there is nothing to pass or to fail."""
        return 4 if self.latency.verdict.state == "invalid" else 0

    def as_json(self) -> dict[str, Any]:
        """The versioned object that `--json` prints."""
        return {
            "schema": SCHEMA,
            "tool_version": __version__,
            "device": self.device,
            "environment": dict(self.environment),
            "sides": {name: _side_json(side) for name, side in (("a", self.first), ("b", self.second))},
            "examples": self.examples,
            "outputs": [output.as_json() for output in self.outputs],
            "latency": self.latency.verdict.as_json(),
            "milliseconds": medians_of(self.latency),
            "notes": list(self.notes),
        }


def compare(
    first: str,
    second: str,
    device_name: str,
    settings: CheckSettings,
    folder: Path,
    *,
    given: Given | None = None,
    store: Path,
    told: Callable[[str], None] = lambda sentence: None,
) -> Comparison:
    """Compare B with A on a device. Both get the inputs of A: all golden ones of a bundle, the kept ones of a baseline, or those of a model file.

    `first`, `second`: a path or a kept baseline's name. `folder`: an empty one. Runtimes and options may differ: that is then part of the difference.

    Raises:
        KdedgeError: one is not there, damaged or cannot be run, or their inputs or outputs cannot be put side by side.
    """
    given = given or Given()
    refuse_inputs(first, given)
    one = _side(first, store, given, folder / "first")
    other = _side(second, store, replace(given, others=one.arm.job.buckets[0]), folder / "second")
    refuse_sizes(given, first, second)
    other = replace(other, arm=with_inputs_of(other.arm, one.arm))
    device = open_device(device_name)
    told(f"running both on {_rows(one.inputs)} examples")
    before, after = (_outputs(device, side.arm, one.inputs, folder / name) for side, name in ((one, "a"), (other, "b")))
    outputs = compare_outputs(before, after)
    (folder / "launches").mkdir()
    latency = check(device, one.arm, other.arm, replace(settings, allow_mismatch=True), folder / "launches", told=told)
    identity = device.identity
    notes = tuple(differences(one.arm, other.arm))
    return Comparison(identity.name, identity.fingerprint, one, other, _rows(one.inputs), outputs, latency, notes)


def compare_outputs(before: Sequence[Mapping[str, Array]], after: Sequence[Mapping[str, Array]]) -> tuple[OutputComparison, ...]:
    """`before`, `after`: the outputs of each bucket by name. Outputs go together by name, or where each has a single one.

    Raises:
        DataError: there is an output that the other does not have.
        ExportError: an output has another number of axes than its partner, or is not finite where that is.
    """
    from kdedge.exporters.foreign.distance import Gathered

    partners = _partners(before[0], after[0])
    found = []
    for name, partner in partners.items():
        gathered, largest = Gathered(name), []
        for ours, theirs in zip(before, after, strict=True):
            want, got = ours[name], theirs[partner]
            for a, b in _by_example(want, got):
                gathered.add(a, b)
                largest.append(_largest(a, b))
        distance = gathered.finish()
        found.append(OutputComparison(distance, None if None in largest else max((value for value in largest if value is not None), default=0.0)))
    return tuple(found)


def medians_of(checked: Checked) -> dict[str, float | None]:
    """The median over the counted launches of each side, in ms."""
    verdict = checked.verdict
    counted = [pair for pair in verdict.pairs if pair.number in set(verdict.counted)]
    sides = {"a": [pair.baseline.median_ms for pair in counted], "b": [pair.candidate.median_ms for pair in counted]}
    return {name: float(np.median([value for value in values if value is not None])) if values else None for name, values in sides.items()}


def _side(named: str, store: Path, given: Given, folder: Path) -> Side:
    path, arm = Path(named), single_arm(named, store, given, folder)
    whole = (path / MANIFEST).is_file()
    return Side(arm, _golden(path) if whole else tuple(arm.job.buckets), _size(arm))


def _golden(root: Path) -> tuple[Bucket, ...]:
    cases = read_manifest(root)["golden"]["cases"]
    return tuple({name: str((root / file).resolve()) for name, file in case["inputs"].items()} for case in cases)


def _outputs(device: Device, arm: Arm, inputs: Sequence[Bucket], work: Path) -> list[dict[str, Array]]:
    """What an artifact gives for each bucket, by its session options."""
    work.mkdir(parents=True)
    job = replace(arm.job, kind="validate", buckets=[dict(bucket) for bucket in inputs])
    try:
        result: Result = run_job(device, job, work, TIMEOUT, "compare")
    except LOST as error:  # as while it is timed
        raise MeasurementError(f"{arm.name} cannot be run on {device.identity.name}: {error}") from error
    if result.status != "ok":
        raise MeasurementError(f"{arm.name} cannot be run on {device.identity.name}: {result.reason}")
    if len(result.outputs) != len(inputs):
        raise MeasurementError(f"{arm.name}: the worker wrote outputs of {len(result.outputs)} of {len(inputs)} input buckets")
    return [{name: np.load(work / file, allow_pickle=False) for name, file in bucket.items()} for bucket in result.outputs]


def _partners(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, str]:
    if set(ours) == set(theirs):
        return {name: name for name in ours}
    if len(ours) == len(theirs) == 1:
        return {next(iter(ours)): next(iter(theirs))}
    raise DataError(f"the outputs are {', '.join(ours)} and {', '.join(theirs)}: they must have the same names, or be one each")


def _by_example(want: Array, got: Array) -> Sequence[tuple[Array, Array]]:
    """Both example by example, so that an interval counts examples; as they are where they do not go row by row."""
    if want.ndim == 0 or got.ndim == 0 or len(want) != len(got):
        return [(want, got)]
    return [(want[row : row + 1], got[row : row + 1]) for row in range(len(want))]


def _largest(want: Array, got: Array) -> float | None:
    if want.shape != got.shape or want.dtype.kind not in "fiub":
        return None
    a, b = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0))


def _rows(inputs: Sequence[Bucket]) -> int:
    return sum(_length(np.load(next(iter(bucket.values())), mmap_mode="r", allow_pickle=False)) for bucket in inputs)


def _length(array: Array) -> int:
    return len(array) if array.ndim else 1


def _size(arm: Arm) -> int:
    return sum(Path(file).stat().st_size for files in arm.job.graphs.values() for file in files)


def _side_json(side: Side) -> dict[str, Any]:
    arm = side.arm
    options = dict(arm.job.options)
    return {"name": arm.name, "sha256": arm.sha256, "size_bytes": side.size_bytes, "runtime": arm.job.runtime, "options": options}
