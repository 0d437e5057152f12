"""How long a person waits for nothing to happen: `kdedge --help`, and a finished run run again.

usage: startup.py [RECIPE] [--workspace DIR]     without a recipe, the packaged digits are run first (about a minute)

Prints medians of fresh processes as ratios to a bare `python -c pass` of the same interpreter, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 9


def seconds(command: list[str]) -> float:
    """Wall time of one fresh process, which must succeed or end with a gate's verdict."""
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode not in (0, 1, 3):
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}: {result.stderr}")
    return time.perf_counter() - started


def main() -> None:
    """Interleave the three commands, so that a drifting machine touches all alike."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path)
    parser.add_argument("--workspace", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = arguments.workspace or Path(temporary)
        job = ["run", str(arguments.recipe)] if arguments.recipe else ["demo"]
        kdedge = [sys.executable, "-m", "kdedge"]
        again = [*kdedge, *job, "--workspace", str(workspace), "--quiet", "--json"]
        seconds(again)
        commands = {"python": [sys.executable, "-c", "pass"], "help": [*kdedge, "--help"], "again": again}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(REPEATS):
            for name, command in commands.items():
                times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:<8} {value:.3f} s   {value / medians['python']:.1f} x a bare interpreter   (largest {max(times[name]):.3f} s)")
    print(json.dumps({"benchmark": "startup", "repeats": REPEATS, **{f"{name}_seconds": round(value, 4) for name, value in medians.items()}}))


if __name__ == "__main__":
    main()
