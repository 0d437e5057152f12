"""Candidates of a search on a device: what they answer, what they take beside another artifact, what their layers take."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Artifact, EncodedInputs, InputBucket
from kdedge.data.npy import save_npy
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.devices.jobs import run_job
from kdedge.errors import LOST, DeviceError, MeasurementError
from kdedge.fidelity.audit import audit
from kdedge.fidelity.validate import SECONDS_AN_EXAMPLE, SECONDS_TO_START, executed_in, in_order_of_the_split, validation_job
from kdedge.latency.launches import launch_job, run_launch
from kdedge.measured import DeviceIdentity
from kdedge.recipe import ProfileSection

#: Launches of a candidate, each beside one of the artifact that it is compared with.
PAIRS = 3
#: Upper limits of a launch here: a search launches many times. Seconds, and iterations.
_SHORT: dict[str, float] = {"warmup_seconds": 0.2, "warmup_iterations": 5, "min_seconds": 0.4, "min_iterations": 32, "max_seconds": 4.0}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Timed:
    """What a candidate answers on the examples of the bench, in their order (None where it did not run), its latency in ms, and why there is
    none."""

    outputs: dict[str, Array] | None
    latency_ms: float | None
    why_not: str = ""


class Bench:
    """Runs artifacts on one device (None: nothing runs, and the reasons say so) over the same inputs.

    `feeds`: the inputs, batch after batch; batches of texts may differ in length.
    """

    def __init__(self, device: DeviceIdentity | None, timing: ProfileSection, folder: Path, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.identity, self.folder = device, folder
        self.timing = timing.model_copy(update={name: min(getattr(timing, name), limit) for name, limit in _SHORT.items()})
        folder.mkdir()
        self.inputs = _written(feeds, folder)

    def measure(self, artifact: Artifact, beside: Artifact, reference_ms: float | None) -> Timed:
        """Outputs and latency. The latency is that of `beside` when it was timed first (`reference_ms`), times how much longer the quietest launch of
        the artifact took than the quietest of `beside` among it: a machine that slows down during the search slows no candidate.

        Raises:
            DeviceError: the device was lost. What a candidate would have taken is not known then, and must not be kept as if it could not run.
        """
        try:
            outputs = self._outputs(artifact)
        except LOST:
            raise
        except (DeviceError, MeasurementError) as error:
            return Timed(None, None, str(error))
        try:
            return Timed(outputs, self._latency(artifact, beside, reference_ms))
        except LOST:
            raise
        except (DeviceError, MeasurementError) as error:
            return Timed(outputs, None, str(error))

    def layer_times(self, artifact: Artifact) -> dict[str, float]:
        """Milliseconds of each node that multiplies, where the runtime times its layers and kept their names; empty elsewhere.

        Raises:
            DeviceError, MeasurementError: it does not run.
        """
        _, work = self._validated(artifact)
        rows = audit(artifact.asked, executed_in(work), artifact.runtime, artifact.options).rows
        return {row.node: row.milliseconds for row in rows if row.milliseconds is not None}

    def _outputs(self, artifact: Artifact) -> dict[str, Array]:
        return in_order_of_the_split(*self._validated(artifact), self.inputs)

    def _validated(self, artifact: Artifact) -> tuple[list[dict[str, str]], Path]:
        work = self._emptied("job")
        limit = SECONDS_TO_START + SECONDS_AN_EXAMPLE * self.inputs.size
        result = run_job(self._device(), validation_job(artifact, self.inputs), work, limit)
        if result.status != "ok":
            raise MeasurementError(result.reason)
        return result.outputs, work

    def _latency(self, artifact: Artifact, beside: Artifact, reference_ms: float | None) -> float:
        pairs = [(self._launch(beside), self._launch(artifact)) for _ in range(min(PAIRS, self.timing.launches))]
        before, after = min(one for one, _ in pairs), min(one for _, one in pairs)
        if artifact is beside:
            return reference_ms if reference_ms is not None else min(before, after)
        return (reference_ms if reference_ms is not None else before) * after / before

    def _launch(self, artifact: Artifact) -> float:
        work = self._emptied("launch")
        launch = run_launch(self._device(), launch_job(artifact, self.inputs, self.timing, work), work, 0, self.timing.timeout_seconds)
        if launch.result.status != "ok":
            raise MeasurementError(launch.result.reason)
        return float(np.median(launch.samples_ms))

    def _device(self) -> Device:
        if self.identity is None:
            raise DeviceError("no device of this run belongs to the target")
        return open_device(self.identity.name)

    def _emptied(self, name: str) -> Path:
        work = self.folder / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return work


def _written(feeds: Sequence[Mapping[str, Array]], folder: Path) -> EncodedInputs:
    """Batches of one shape together."""
    groups: dict[tuple[tuple[int, ...], ...], list[tuple[int, Mapping[str, Array]]]] = {}
    start = 0
    for feed in feeds:
        shape = tuple(array.shape[1:] for array in feed.values())
        groups.setdefault(shape, []).append((start, feed))
        start += len(next(iter(feed.values())))
    buckets = []
    for number, members in enumerate(groups.values()):
        files = {}
        for place, name in enumerate(members[0][1]):
            files[name] = folder / f"bucket{number}-input{place}.npy"
            save_npy(files[name], np.concatenate([feed[name] for _, feed in members]))
        indices = np.concatenate([np.arange(first, first + len(next(iter(feed.values())))) for first, feed in members])
        save_npy(folder / f"bucket{number}-indices.npy", indices)
        buckets.append(InputBucket(files, folder / f"bucket{number}-indices.npy", len(indices)))
    return EncodedInputs(tuple(buckets), start)
