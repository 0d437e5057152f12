"""One artifact on one device, timed in fresh processes: the latency half of a cell."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdedge import progress
from kdedge.artifact import Artifact, EncodedInputs
from kdedge.data.npy import save_npy
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.devices.jobs import run_job
from kdedge.errors import DeviceError, MeasurementError
from kdedge.latency.summary import Launch, summarize
from kdedge.measured import DeviceIdentity, Latency
from kdedge.recipe import ProfileSection
from kdedge.runtimes.job import Job, LaunchRule

TOOLS = ("numpy",)


def profile(artifact: Artifact, inputs: EncodedInputs, device: DeviceIdentity, settings: ProfileSection, *, folder: Path) -> Latency:
    """Time the artifact in `settings.launches` fresh processes on the device, with the session options that it ships with.

    A launch that fails makes the whole measurement `failed` with its reason; the launches before it keep their samples. Writes the raw samples of
    every launch (`launch-NN.npy`, int64 ns) and its warm-up (`warmup-NN.npy`).
    """
    what = f"profiling {artifact.target} {artifact.precision} on {device.name}"
    launches: list[Launch] = []
    files: list[Path] = []
    try:
        opened = open_device(device.name)
        job = launch_job(artifact, inputs, settings, folder)
        for number in range(settings.launches):
            progress.advance(what, number, settings.launches)
            launch = run_launch(opened, job, folder, number, settings.timeout_seconds)
            if launch.result.status == "not-run":
                return Latency("not-run", launch.result.reason)
            if launch.result.status != "ok":
                return Latency("failed", _which(number, settings, launch.result.reason), samples=tuple(files), launches=number)
            launches.append(launch)
            files.append(folder / f"launch-{number:02d}.npy")
    except (DeviceError, MeasurementError) as error:
        return Latency("failed", _which(len(launches), settings, str(error)), samples=tuple(files), launches=len(launches))
    progress.advance(what, settings.launches, settings.launches)
    return replace(latency_of(launches), samples=tuple(files))


def latency_of(launches: Sequence[Launch]) -> Latency:
    """The figures of launches that all went well."""
    summary = summarize(launches)
    return Latency(
        status="ok",
        reason="",
        figures=summary.figures,
        device_figures=summary.device_figures,
        load_ms=summary.load_ms,
        first_inference_ms=summary.first_inference_ms,
        peak_memory_mb=summary.peak_memory_mb,
        launches=len(launches),
        notes=summary.notes,
    )


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
    )


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


def _which(number: int, settings: ProfileSection, reason: str) -> str:
    return f"launch {number + 1} of {settings.launches}: {reason}"
