"""Candidates of a search on a device: what they answer, what they take beside another artifact, what their layers take."""

from __future__ import annotations

import json
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
from kdedge.errors import DeviceError, MeasurementError
from kdedge.fidelity.audit import audit
from kdedge.fidelity.validate import SECONDS_AN_EXAMPLE, SECONDS_TO_START, in_order_of_the_split, validation_job
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
    """What a candidate answers on the examples of the bench, in their order (None where it did not run), and its latency in ms."""

    outputs: dict[str, Array] | None
    latency_ms: float | None


class Bench:
    """Runs artifacts on one device over the same inputs. `why_not` says why nothing runs here; "" where it does.

    `feeds`: the inputs, batch after batch; batches of texts may differ in length.
    """

    def __init__(self, device: DeviceIdentity | None, timing: ProfileSection, folder: Path, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.identity, self.folder = device, folder
        self.timing = timing.model_copy(update={name: min(getattr(timing, name), limit) for name, limit in _SHORT.items()})
        self.why_not = "" if device is not None else "no device of this run belongs to the target"
        folder.mkdir()
        self.inputs = _written(feeds, folder)

    def measure(self, artifact: Artifact, beside: Artifact, reference_ms: float | None) -> Timed:
        """Outputs and latency. The latency is that of `beside` when it was timed first (`reference_ms`), times how much longer the quietest launch of
        the artifact took than the quietest of `beside` among it: a machine that slows down during the search slows no candidate."""
        outputs = self._outputs(artifact)
        if outputs is None:
            return Timed(None, None)
        try:
            return Timed(outputs, self._latency(artifact, beside, reference_ms))
        except (DeviceError, MeasurementError) as error:
            self.why_not = str(error)
            return Timed(outputs, None)

    def layer_times(self, artifact: Artifact) -> dict[str, float]:
        """Milliseconds of each node that multiplies, where the runtime times its layers and kept their names; empty elsewhere."""
        result, work = self._validated(artifact)
        if not result:
            return {}
        layers = _executed(work)
        rows = audit(artifact.asked, layers, artifact.runtime, artifact.options).rows
        return {row.node: row.milliseconds for row in rows if row.milliseconds is not None}

    def _outputs(self, artifact: Artifact) -> dict[str, Array] | None:
        written, work = self._validated(artifact)
        return in_order_of_the_split(written, work, self.inputs) if written else None

    def _validated(self, artifact: Artifact) -> tuple[list[dict[str, str]], Path]:
        work = self.folder / "job"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if self.identity is None:
            return [], work
        try:
            device = open_device(self.identity.name)
            result = run_job(device, validation_job(artifact, self.inputs), work, SECONDS_TO_START + SECONDS_AN_EXAMPLE * self.inputs.size)
        except DeviceError as error:
            self.why_not = str(error)
            return [], work
        if result.status != "ok":
            self.why_not = result.reason
            return [], work
        return result.outputs, work

    def _latency(self, artifact: Artifact, beside: Artifact, reference_ms: float | None) -> float:
        if self.identity is None:
            raise DeviceError(self.why_not)
        device = open_device(self.identity.name)
        pairs = [(self._launch(device, beside), self._launch(device, artifact)) for _ in range(min(PAIRS, self.timing.launches))]
        before, after = min(one for one, _ in pairs), min(one for _, one in pairs)
        if artifact is beside:
            return reference_ms if reference_ms is not None else min(before, after)
        return (reference_ms if reference_ms is not None else before) * after / before

    def _launch(self, device: Device, artifact: Artifact) -> float:
        work = self.folder / "launch"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        launch = run_launch(device, launch_job(artifact, self.inputs, self.timing, work), work, 0, self.timing.timeout_seconds)
        if launch.result.status != "ok":
            raise MeasurementError(launch.result.reason)
        return float(np.median(launch.samples_ms))


def _executed(work: Path) -> list[dict[str, Any]]:
    path = work / "executed.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


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
