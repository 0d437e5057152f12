"""kill -9 at any moment loses no finished work and changes no byte of what comes out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.limit_train=256",
    "data.limit_test=96",
    "data.calibration=32",
    "teacher.train.epochs=2",
    "distill.epochs=3",
    "distill.checkpoint_seconds=0",
    "profile.launches=1",
    "profile.warmup_seconds=0.05",
    "profile.min_seconds=0.1",
    "export.0.precision=[fp32, int8]",
    "gate={}",
)
KILLS = 20
# Files that hold measured times; everything else must repeat to the byte.
MEASURED = ("validate.validate", "launches.profile", "pack.pack")


def command(workspace: Path) -> list[str]:
    sets = [word for item in SMALL for word in ("--set", item)]
    return [sys.executable, "-m", "kdedge", "run", str(ROOT / "examples" / "digits.yaml"), "--workspace", str(workspace), *sets, "--json", "--quiet"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def finish(workspace: Path) -> dict[str, Any]:
    result = subprocess.run(command(workspace), capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def hashes(workspace: Path) -> dict[str, str]:
    found = {}
    for path in sorted((workspace / "stages").rglob("*")):
        name = path.relative_to(workspace / "stages").as_posix()
        if path.is_file() and not name.startswith(MEASURED):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def cells(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(cell["target"], cell["precision"], cell["status"]) for cell in result["artifacts"]]


def kill_inside(stage: str | None, delay: float, workspace: Path) -> bool:
    """Start a run and kill all of it `delay` seconds after `stage` began (or after the start); False where it was over before."""
    process = subprocess.Popen(command(workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True)
    while stage is not None and process.poll() is None and not list((workspace / "partial").glob(f"{stage}-*")):
        time.sleep(0.002)
    time.sleep(delay)
    alive = process.poll() is None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        alive = False
    process.wait()
    return alive


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_twenty_times_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = finish(tmp_path / "unbroken")
    expected = hashes(tmp_path / "unbroken")
    assert expected
    stages = sorted({path.name.rpartition("-")[0] for path in (tmp_path / "unbroken" / "stages").iterdir()})

    chance = random.Random(20)
    broken = tmp_path / "broken"
    (broken / "partial").mkdir(parents=True)
    killed_inside: set[str] = set()
    kills = 0
    # Once inside each stage, in whatever order the run meets them; then at random moments until there are twenty.
    while remaining := [stage for stage in stages if stage not in killed_inside]:
        process = subprocess.Popen(command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True)
        inside = None
        while process.poll() is None and inside is None:
            inside = next((stage for stage in remaining if list((broken / "partial").glob(f"{stage}-*"))), None)
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert inside is not None, f"the run ended (code {process.returncode}) before it was inside {remaining}"
        killed_inside.add(inside)
    # What is left of the run is short now, so the random moments meet runs that start anew.
    while kills < KILLS:
        again = tmp_path / f"again{kills % 4}"
        kills += kill_inside(None, chance.uniform(1.0, 14.0), again)

    assert kills >= KILLS
    for workspace in (broken, *sorted(tmp_path.glob("again*"))):
        result = finish(workspace)
        assert hashes(workspace) == expected, workspace.name
        assert cells(result) == cells(unbroken)
        assert not list((workspace / "partial").iterdir())
