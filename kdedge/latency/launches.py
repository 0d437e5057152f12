"""One artifact on one device, timed in fresh processes: the latency half of a cell."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdedge import progress
from kdedge.artifact import Artifact, EncodedInputs
from kdedge.data.npy import save_npy
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.devices.jobs import run_job
from kdedge.errors import LOST, DeviceError, MeasurementError
from kdedge.latency.energy import energy_figures
from kdedge.latency.observed import observed
from kdedge.latency.summary import FEWEST_FOR_INTERVAL, Launch, summarize
from kdedge.latency.sustained import sustained_figures
from kdedge.latency.validity import invalid_because, invalid_together
from kdedge.measured import DeviceIdentity, Latency, Status
from kdedge.recipe import ProfileSection
from kdedge.runtimes.job import Job, LaunchRule, SustainedRule

TOOLS = ("numpy",)


def profile(artifact: Artifact, inputs: EncodedInputs, device: DeviceIdentity, settings: ProfileSection, *, folder: Path) -> Latency:
    """Time the artifact in `settings.launches` fresh processes on the device, with the session options that it ships with.

    A launch that fails makes the whole measurement `failed` with its reason; the launches before it keep their samples. A launch during which the
    machine throttled keeps its samples and counts for no figure (`kdedge.latency.validity`). Writes the raw samples of every launch
    (`launch-NN.npy`, int64 ns) and its warm-up (`warmup-NN.npy`). Where `settings` ask for energy, it is measured in launches of its own.
    """
    what = f"profiling {artifact.target} {artifact.precision} on {device.name}"
    try:
        opened = open_device(device.name)
        job = launch_job(artifact, inputs, settings, folder)
    except (DeviceError, MeasurementError) as error:
        return Latency("failed", _which(0, _count(settings), str(error)), lost=isinstance(error, LOST))
    timed = run_launches(opened, job, folder, _count(settings), _timeout(settings), what)
    files = tuple(folder / f"launch-{number:02d}.npy" for number in range(len(timed.launches)))
    if timed.status != "ok":
        return Latency(timed.status, timed.reason, samples=() if timed.status == "not-run" else files, launches=len(files), lost=timed.lost)
    latency = latency_of(timed.launches) if settings.mode == "burst" else sustained_of(timed.launches[0])
    latency = replace(latency, samples=files)
    if not settings.energy or latency.status != "ok":
        return latency
    (folder / "energy").mkdir()
    return with_energy(latency, run_launches(opened, energy_job(job, settings), folder / "energy", _energy_count(settings), _timeout(settings), what))


@dataclass(frozen=True)
class Timed:
    """Launches one after the other: all went well (`ok`), or the first that did not says why. `lost`: the device was."""

    status: Status
    reason: str
    launches: tuple[Launch, ...]
    lost: bool = False


def run_launches(device: Device, job: Job, folder: Path, count: int, timeout: float, what: str = "") -> Timed:
    """`count` fresh processes of one job. `what`: how progress is told; "" tells none. A lost device is a `failed` launch."""
    launches: list[Launch] = []
    try:
        for number in range(count):
            if what:
                progress.advance(what, number, count)
            launch = run_launch(device, job, folder, number, timeout)
            if launch.result.status == "not-run":
                return Timed("not-run", launch.result.reason, tuple(launches))
            if launch.result.status != "ok":
                return Timed("failed", _which(number, count, launch.result.reason), tuple(launches))
            launches.append(launch)
    except (DeviceError, MeasurementError) as error:
        return Timed("failed", _which(len(launches), count, str(error)), tuple(launches), isinstance(error, LOST))
    if what:
        progress.advance(what, count, count)
    return Timed("ok", "", tuple(launches))


def latency_of(launches: Sequence[Launch]) -> Latency:
    """The figures of launches that all went well, from those during which the machine did too.

    Where it throttled during each, there is no latency: `failed`, with `invalid` in its reason.
    """
    invalid = tuple(invalid_because(launch.result) for launch in launches)
    valid = [launch for launch, reason in zip(launches, invalid, strict=True) if not reason]
    dropped = [launch.result for launch, reason in zip(launches, invalid, strict=True) if reason]
    if not valid:
        reason = f"invalid: in all {len(launches)} launches {invalid_together(dropped)}"
        return Latency("failed", reason, launches=len(launches), invalid=invalid, observed=observed(dropped))
    summary = summarize(valid)
    notes = [f"dropped {len(dropped)} of {len(launches)} launches: {invalid_together(dropped)}"] if dropped else []
    return Latency(
        status="ok",
        reason="",
        figures=summary.figures,
        device_figures=summary.device_figures,
        load_ms=summary.load_ms,
        first_inference_ms=summary.first_inference_ms,
        peak_memory_mb=summary.peak_memory_mb,
        launches=len(launches),
        notes=(*notes, *summary.notes),
        invalid=invalid if dropped else (),
        observed=observed([launch.result for launch in launches]),
    )


def sustained_of(launch: Launch) -> Latency:
    """What one long launch says. Throttling does not make it invalid: it is what the launch measures."""
    summary = summarize([launch])
    figures, notes = sustained_figures(launch.samples_ms, launch.result.facts["sustained"])
    return Latency(
        status="ok",
        reason="",
        load_ms=summary.load_ms,
        first_inference_ms=summary.first_inference_ms,
        peak_memory_mb=summary.peak_memory_mb,
        launches=1,
        notes=("one launch from cold: it has no figure with an interval", *notes),
        sustained=figures,
        observed=observed([launch.result]),
    )


def with_energy(latency: Latency, timed: Timed) -> Latency:
    """The latency, and what an inference takes by launches that sampled the supplies; those during which the machine throttled do not count."""
    if timed.status != "ok":
        return replace(latency, energy_reason=f"energy {timed.status}: {timed.reason}")
    results = [launch.result for launch in timed.launches]
    valid = [result for result in results if not invalid_because(result)]
    if not valid:
        return replace(latency, energy_reason=f"energy invalid: in all {len(results)} launches {invalid_together(results)}")
    figures, how = energy_figures(valid)
    dropped = [result for result in results if invalid_because(result)]
    said = f"; dropped {len(dropped)} of {len(results)} launches: {invalid_together(dropped)}" if dropped else ""
    return replace(latency, energy=figures, energy_reason=how + said)


def launch_job(artifact: Artifact, inputs: EncodedInputs, settings: ProfileSection, folder: Path) -> Job:
    """The job of every launch, on a small input pack (`inputs-N.npy`): the first examples of the first bucket, which holds the usual length."""
    batch, fixed = artifact.batch
    bucket = inputs.buckets[0]
    pack = {}
    for number, (name, path) in enumerate(sorted(bucket.files.items())):
        pack[name] = folder / f"inputs-{number}.npy"
        save_npy(pack[name], np.load(path, mmap_mode="r", allow_pickle=False)[:batch])
    return Job(
        kind="launch",
        runtime=artifact.runtime,
        graphs={graph.name: [str(file) for file in graph.files] for graph in artifact.graphs},
        options=dict(artifact.options),
        buckets=[{name: str(path) for name, path in pack.items()}],
        batch=batch,
        fixed_batch=fixed,
        launch=LaunchRule(
            warmup_seconds=settings.warmup_seconds,
            warmup_iterations=settings.warmup_iterations,
            min_seconds=settings.min_seconds,
            min_iterations=settings.min_iterations,
            max_seconds=settings.max_seconds,
        ),
        sustained=SustainedRule(seconds=settings.sustained_seconds) if settings.mode == "sustained" else None,
    )


def energy_job(job: Job, settings: ProfileSection) -> Job:
    """The same work, long enough for its supplies to be read many times."""
    rule = replace(job.launch, min_seconds=settings.energy_seconds, max_seconds=max(settings.energy_seconds, job.launch.max_seconds))
    return replace(job, kind="energy", launch=rule, sustained=None)


def run_launch(device: Device, job: Job, folder: Path, number: int, timeout: float) -> Launch:
    """One fresh process. Keeps its raw samples beside the others and nothing else of its job.

    Raises:
        DeviceError: the device is lost.
        MeasurementError: the worker says that all is well, but its samples are not there.
    """
    work = folder / "job"
    work.mkdir()
    try:
        result = run_job(device, job, work, timeout, f"launch-{number:02d}")
        if result.status != "ok":
            return Launch(np.empty(0), result)
        for name, kept in (("warmup_ns.npy", "warmup"), ("samples_ns.npy", "launch")):
            if not (work / name).is_file():
                raise MeasurementError(f"the worker wrote no {name}")
            shutil.move(work / name, folder / f"{kept}-{number:02d}.npy")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    samples = np.load(folder / f"launch-{number:02d}.npy", allow_pickle=False)
    if samples.ndim != 1 or samples.size == 0:
        raise MeasurementError(f"the worker timed {samples.size} iterations; at least one is needed")
    return Launch(samples.astype(np.float64) / 1e6, result)


def _count(settings: ProfileSection) -> int:
    return settings.launches if settings.mode == "burst" else 1


def _energy_count(settings: ProfileSection) -> int:
    """As many as an interval needs; fewer where the user wants fewer launches."""
    return min(settings.launches, FEWEST_FOR_INTERVAL)


def _timeout(settings: ProfileSection) -> float:
    """For one launch; a long one gets its own time besides."""
    longest = settings.sustained_seconds if settings.mode == "sustained" else 0.0
    return settings.timeout_seconds + max(longest, settings.energy_seconds if settings.energy else 0.0)


def _which(number: int, count: int, reason: str) -> str:
    return f"launch {number + 1} of {count}: {reason}"
