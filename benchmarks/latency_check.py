"""How often the latency check cries wolf and what it finds, live: ResNet-20, 20 s a check, on a quiet machine, beside a busy core, with more work.

Run: python benchmarks/latency_check.py [--only quiet|loaded|injected ...] [--limit N] [--minutes M] [--noisy] [--workspace DIR] [--simulated]

100 checks of an artifact against itself while nothing else runs, 100 while a child process keeps another core busy, and 50 against an artifact with
5 % more work (`latency_check_work.py`). It can be stopped at any time: every finished check is a line of benchmarks/latency_check_runs.jsonl (of
DIR/runs.jsonl with another --time-budget), which later starts read back (remove a line to run it again). A check during which others used more than
0.3 of the cores was not made under its scenario: it is written down as disturbed, is not counted, whatever it said, and is made again.

Each start first looks whether the machine is quiet: 30 launches must be so alike that a check finds the 5 % with a chance of 99 %, by its own plan.
A virtual machine may have loud neighbours that it cannot see. Where it is not quiet nothing is run or, with --noisy, checks beside the proof.

When all are there the tables are written into docs/latency_check.md, that of the simulated devices among them (which --simulated writes alone).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from latency_check_log import SCENARIOS, Line, about, broken, counted, figures_of, next_number, read, setting_of, table
from latency_check_machine import Usage, busy_core, quietness
from latency_check_work import WANTED, Work, arm, base_model, calibrated, write_heavier
from result_page import processor, write_between

from kdedge import __version__
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.errors import KdedgeError, MeasurementError
from kdedge.estimate import Estimate
from kdedge.latency.check import Arm, Checked, CheckSettings, check
from kdedge.regression.arms import with_inputs_of
from kdedge.source import version_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "latency_check.md"
RUNS = ROOT / "benchmarks" / "latency_check_runs.jsonl"
BUDGET_SECONDS = 20.0
DISTURBED_IN_A_ROW = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="run these alone; all are shown")
    parser.add_argument("--limit", type=int, default=max(SCENARIOS.values()), help="so many checks of a scenario in this start")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no check after so many")
    parser.add_argument("--time-budget", type=float, default=BUDGET_SECONDS, help="seconds a check, for a smoke run")
    parser.add_argument("--workspace", type=Path, default=ROOT / "data" / "benchmarks" / "latency_check")
    parser.add_argument("--noisy", action="store_true", help="make checks on a machine that is not quiet too; they are no part of the proof")
    parser.add_argument("--simulated", action="store_true", help="only the simulated devices")
    arguments = parser.parse_args()
    if arguments.simulated:
        write_simulated()
        return
    try:
        benchmark(arguments)
    except KdedgeError as error:
        raise SystemExit(f"latency_check: {error}") from error


def benchmark(arguments: argparse.Namespace) -> None:
    """Run what is missing, then show what is there."""
    if Usage().others is None:
        raise SystemExit("latency_check: /proc/stat does not tell here what other processes use; without it no check can be called quiet")
    arguments.workspace.mkdir(parents=True, exist_ok=True)
    whole = arguments.time_budget == BUDGET_SECONDS
    log = RUNS if whole else arguments.workspace / "runs.jsonl"
    settings = CheckSettings(budget_seconds=arguments.time_budget)
    lines = read(log)
    wanted = [each for each in arguments.only or SCENARIOS if arguments.noisy or len(counted(lines, each, settings)) < SCENARIOS[each]]
    if wanted:
        run(wanted, Course(arguments.workspace, settings, log, lines), arguments)
    show(lines, settings, whole)


def run(scenarios: Sequence[str], course: Course, arguments: argparse.Namespace) -> None:
    """Make the checks that are missing, as long as there is time and nobody else is at the machine.

    Raises:
        SystemExit: the machine is not quiet, and --noisy is not given.
    """
    until = time.monotonic() + 60 * arguments.minutes
    if not course.look_whether_quiet() and not arguments.noisy:
        raise SystemExit("latency_check: this machine is not quiet enough for the proof; try later, another one, or --noisy")
    for scenario in scenarios:
        for _ in range(arguments.limit):
            if time.monotonic() >= until or course.is_complete(scenario):
                break
            if course.disturbed >= DISTURBED_IN_A_ROW:
                print(f"{DISTURBED_IN_A_ROW} checks in a row were disturbed: other processes use this machine; start again later", file=sys.stderr)
                break
            course.one(scenario)


def show(lines: Sequence[Line], settings: CheckSettings, whole: bool) -> None:
    """Print the table and one line of JSON; write the page when all checks of the whole benchmark are there.

    Raises:
        SystemExit: all are there, and more was flagged, or less decided or found, than is claimed.
    """
    there = {scenario: counted(lines, scenario, settings) for scenario in SCENARIOS}
    text = [*table(there, settings), "", *about(lines, there, settings)]
    print("\n".join(text))
    missing = {scenario: count - len(there[scenario]) for scenario, count in SCENARIOS.items() if len(there[scenario]) < count}
    wrong = [] if missing else broken(there)
    if missing:
        counts = ", ".join(f"{count} {scenario}" for scenario, count in missing.items())
        print(f"\nmissing: {counts}; docs/latency_check.md is written when all are there")
    elif whole:
        write_between(PAGE, "latency_check", text)
        write_simulated()
    figures = {scenario: figures_of(found) for scenario, found in there.items()}
    print(
        json.dumps({"benchmark": "latency_check", "setting": setting_of(settings), "missing": missing, "claims_broken": wrong, "scenarios": figures})
    )
    if wrong:
        raise SystemExit(f"latency_check: {'; '.join(wrong)}")


# ---- one check -------------------------------------------------------------------------------------------------------------


class Course:
    """Checks one after the other. `lines`: all that were read and made; `disturbed`: how many of the last were so, in a row; `quiet`: whether the
    machine is, once it was looked at."""

    def __init__(self, workspace: Path, settings: CheckSettings, log: Path, lines: list[Line]) -> None:
        self._folder, self._settings, self._log, self._lines = workspace, settings, log, lines
        self._device: Device = open_device("local")
        self._base, self._image = base_model(workspace)
        self._cores = len(os.sched_getaffinity(0))
        self._machine = {"processor": processor(), "cores": self._cores, "onnxruntime": version_of("onnxruntime")}
        self.disturbed = 0
        self.quiet = False

    def look_whether_quiet(self) -> bool:
        """Launch the artifact often, and write down how much its launches differ."""
        usage = Usage()
        raw = self._folder / "launches"
        found = quietness(self._device, arm(self._base, self._image, self._folder / "inputs-a"), self._settings, raw)
        usage.close()
        self.quiet = found.finds(WANTED / 100) and usage.leaves_quiet(self._cores)
        told = f"launches differ by {100 * found.launch_sd:.2f} %, neighbours by {100 * found.noise:.2f} %"
        print(f"{told}: a check finds {100 * found.detectable:.1f} % with 99 %; to be quiet: {WANTED:g} %", file=sys.stderr)
        self._keep({**self._line("quietness", usage), **asdict(found), "setting": setting_of(self._settings), "quiet_machine": self.quiet})
        return self.quiet

    def is_complete(self, scenario: str) -> bool:
        """Whether a scenario has all its checks, of quiet machines or of others, as this one is."""
        return len(counted(self._lines, scenario, self._settings, self.quiet)) >= SCENARIOS[scenario]

    def _line(self, scenario: str, usage: Usage) -> Line:
        """What every line says: when, on what machine, and what else it did."""
        return {
            "scenario": scenario,
            "disturbed": not usage.leaves_quiet(self._cores),
            "others_cores": round(usage.others or 0.0, 3),
            "load_average": usage.load,
            "started": usage.started,
            "machine": self._machine,
        }

    def one(self, scenario: str) -> None:
        """Make a check and write it down."""
        number = next_number(self._lines, scenario, self._settings, self.quiet)
        work = self._work() if scenario == "injected" else None
        print(f"{scenario} {number + 1} of {SCENARIOS[scenario]}", file=sys.stderr)
        before, after = self._arms(self._folder / "heavier.onnx" if work else self._base)
        usage = Usage()
        with busy_core() if scenario == "loaded" else contextlib.nullcontext():
            told = self._checked(before, after, number)
        usage.close()
        line = {
            **self._line(scenario, usage),
            "number": number,
            "quiet_machine": self.quiet,
            "setting": setting_of(self._settings),
            "kdedge": __version__,
            "artifacts": [before.sha256, after.sha256],
            **({"work": asdict(work)} if work else {}),
            **told,
        }
        self.disturbed = self.disturbed + 1 if line["disturbed"] else 0
        note = f", disturbed: others used {usage.others:.1f} cores" if line["disturbed"] else ""
        print(f"  {line['state']}{note}: {line['reason']}", file=sys.stderr)
        self._keep(line)

    def _arms(self, candidate: Path) -> tuple[Arm, Arm]:
        before = arm(self._base, self._image, self._folder / "inputs-a")
        return before, with_inputs_of(arm(candidate, self._image, self._folder / "inputs-b"), before)

    def _checked(self, before: Arm, after: Arm, number: int) -> Line:
        raw = self._folder / "launches"
        shutil.rmtree(raw, ignore_errors=True)
        raw.mkdir()
        try:
            return told_of(check(self._device, before, after, replace(self._settings, seed=number), raw))
        except MeasurementError as error:  # as the command: exit code 4
            return {"state": "invalid", "reason": str(error), "effect": None, "pairs": [], "seconds": None}
        finally:
            shutil.rmtree(raw, ignore_errors=True)

    def _work(self) -> Work:
        """The heavier artifact: as it was calibrated on this machine, or calibrated now."""
        found = [line for line in self._lines if line["scenario"] == "calibration" and line["machine"] == self._machine and not line["disturbed"]]
        if not found:
            usage = Usage()
            _, work = calibrated(self._device, self._base, self._image, self._folder, lambda text: print(f"  {text}", file=sys.stderr))
            usage.close()
            found = [{**self._line("calibration", usage), "work": asdict(work)}]
            self._keep(found[0])
            if found[0]["disturbed"]:
                raise SystemExit(f"latency_check: others used {usage.others:.1f} cores while the work was calibrated; start again later")
        kept = found[-1]["work"]
        write_heavier(self._base, self._folder / "heavier.onnx", kept["channels"])
        return Work(**{**kept, "effect": Estimate(**kept["effect"])})

    def _keep(self, line: Line) -> None:
        torn = self._log.is_file() and self._log.stat().st_size > 0 and not self._log.read_bytes().endswith(b"\n")
        with self._log.open("a", encoding="utf-8") as handle:
            handle.write(("\n" if torn else "") + json.dumps(line) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        self._lines.append(line)


def told_of(found: Checked) -> Line:
    """What a check said, and each launch: order, then median and p90 in ms, iterations, and why it does not count, of baseline and candidate."""
    verdict = found.verdict
    return {
        "state": verdict.state,
        "reason": verdict.reason,
        "effect": verdict.tests[0].effect.as_json() if verdict.tests else None,
        "p": [verdict.tests[0].p_regressed, verdict.tests[0].p_equivalent] if verdict.tests else None,
        "noise": verdict.noise,
        "detectable": verdict.as_json()["detectable_after"],
        "plan": found.plan,
        "looks": list(verdict.rule.looks.pairs),
        "look": verdict.look,
        "notes": list(verdict.notes),
        "pairs": [
            [pair.order, *([one.median_ms, one.p90_ms, one.iterations, "; ".join(one.problems)] for one in (pair.baseline, pair.candidate))]
            for pair in verdict.pairs
        ],
        "seconds": round(found.seconds, 2),
    }


# ---- the simulated part ----------------------------------------------------------------------------------------------------


def write_simulated() -> None:
    """The tables of the simulated devices, which always are the same."""
    script = Path(__file__).with_name("latency_check_simulated.py")
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode:
        raise SystemExit(f"latency_check: {script.name} says that a claim does not hold")
    write_between(PAGE, "latency_check_simulated", [line for line in done.stdout.strip().splitlines() if not line.startswith("{")])


if __name__ == "__main__":
    main()
