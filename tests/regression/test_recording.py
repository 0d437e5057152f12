"""Launches of a run go into the history: once, on devices of their target, with those that did not count marked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_results import artifact, device

from kdedge.latency.history.records import SeriesKey
from kdedge.latency.history.store import open_history
from kdedge.measured import Cell, Fidelity, Latency
from kdedge.regression.recording import record_profiles

HERE = device()


def timed(folder: Path, milliseconds: tuple[float, ...] = (1.0, 3.0, 2.0), invalid: tuple[str, ...] = (), seed: int = 0) -> Cell:
    """A cell of launches of 100 iterations around these times."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    files = []
    for number, level in enumerate(milliseconds):
        files.append(folder / f"launch-{number:02d}.npy")
        np.save(files[-1], (level * 1e6 + generator.integers(0, 1000, 100)).astype(np.int64))
    latency = Latency("ok", "", samples=tuple(files), launches=len(files), invalid=invalid)
    return Cell(artifact(folder, "onnxruntime-x86", "int8"), HERE.name, "ok", "", Fidelity("ok", ""), latency)


def test_a_cell_is_a_session_with_every_launch_and_its_samples(tmp_path: Path) -> None:
    history = open_history(str(tmp_path / "history.sqlite"))
    found = timed(tmp_path / "a", invalid=("", "the CPU throttled", ""))
    assert record_profiles("digits", [found], [HERE], history) == 1
    (session,) = history.sessions()
    assert (session.kind, session.device, dict(session.fingerprint)) == ("profile", HERE.name, dict(HERE.fingerprint))
    assert [launch.line for launch in session.launches] == ["digits/onnxruntime-x86/int8"] * 3
    assert [launch.median_ms for launch in session.launches] == pytest.approx([1.0, 3.0, 2.0], abs=1e-3)
    assert [launch.invalid for launch in session.launches] == ["", "the CPU throttled", ""]
    # The point of a series is the median over the launches that count: of 1 and 2.
    (point,) = history.series(SeriesKey("digits/onnxruntime-x86/int8", HERE.name, session.environment))
    assert point.value == pytest.approx(1.5, abs=1e-3)
    assert point.launches == 2


def test_what_is_told_twice_is_kept_once_and_a_new_measurement_is_new(tmp_path: Path) -> None:
    history = open_history(str(tmp_path / "history.sqlite"))
    found = timed(tmp_path / "a")
    for _ in range(2):
        record_profiles("digits", [found], [HERE], history)
    assert len(history.sessions()) == 1
    record_profiles("digits", [timed(tmp_path / "b", seed=1)], [HERE], history)
    assert len(history.sessions()) == 2


def test_proxies_and_what_was_not_timed_are_left_out(tmp_path: Path) -> None:
    history = open_history(str(tmp_path / "history.sqlite"))
    found = timed(tmp_path / "a")
    proxy = dataclasses.replace(found, proxy=True)
    failed = dataclasses.replace(found, latency=dataclasses.replace(found.latency, status="failed", reason="crashed"))
    untimed = dataclasses.replace(found, latency=Latency("not-run", "not asked for"))
    assert record_profiles("digits", [proxy, failed, untimed], [HERE], history) == 0
    assert history.sessions() == ()
