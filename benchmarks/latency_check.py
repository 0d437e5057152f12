"""How often the latency check cries wolf and what it finds, live: ResNet-20, 20 s a check, on a quiet machine, beside a busy core, with more work.

Run: python benchmarks/latency_check.py [--only quiet|loaded|injected ...] [--limit N] [--minutes M] [--workspace DIR] [--simulated]

100 checks of an artifact against itself while nothing else runs, 100 while a child process keeps another core busy, and 50 against an artifact with
5 % more work (`latency_check_work.py`). It can be stopped at any time: every finished check is a line of benchmarks/latency_check_runs.jsonl (of
DIR/runs.jsonl with another --time-budget), which later starts read back (remove a line to run it again). A check during which others used more than
0.3 of the cores was not made under its scenario: it is written down as disturbed, is not counted, whatever it said, and is made again. When all are
there the tables are written into docs/latency_check.md, that of the simulated devices among them (which --simulated writes alone).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from latency_check_log import OTHERS_ALLOWED, SCENARIOS, Line, about, broken, counted, figures_of, next_number, read, setting_of, table
from latency_check_work import Work, arm, base_model, calibrated, write_heavier
from result_page import processor, write_between

from kdedge import __version__
from kdedge.devices import open_device
from kdedge.devices.device import Device
from kdedge.errors import KdedgeError, MeasurementError
from kdedge.estimate import Estimate
from kdedge.latency.check import Arm, Checked, CheckSettings, check
from kdedge.regression.arms import with_inputs_of
from kdedge.runtimes import contention
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
    until = time.monotonic() + 60 * arguments.minutes
    course = Course(arguments.workspace, settings, log, lines)
    for scenario in arguments.only or SCENARIOS:
        for _ in range(arguments.limit):
            if time.monotonic() >= until or len(counted(lines, scenario, settings)) >= SCENARIOS[scenario]:
                break
            if course.disturbed >= DISTURBED_IN_A_ROW:
                print(f"{DISTURBED_IN_A_ROW} checks in a row were disturbed: other processes use this machine; start again later", file=sys.stderr)
                break
            course.one(scenario)
    show(lines, settings, whole)


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


class Usage:
    """What other processes use of the cores between its making and `close`. `others`: cores, None where the machine does not tell;
    `load`: the load averages of a minute before and after, our own part included."""

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._begun, self._before, self._own = time.monotonic(), self._busy(), self._used()
        self.load = [os.getloadavg()[0]]
        self.others: float | None = None if self._before is None else 0.0

    def close(self) -> None:
        """Children that have ended by now count as ours."""
        after = self._busy()
        self.load.append(os.getloadavg()[0])
        if self._before is not None and after is not None:
            busy = (after - self._before) / 1000 - (self._used() - self._own)
            self.others = busy / (time.monotonic() - self._begun)

    def _busy(self) -> float | None:
        try:
            return contention.busy_ms(Path("/proc/stat").read_text(), self._cores, os.sysconf("SC_CLK_TCK"))
        except OSError:
            return None

    def _used(self) -> float:
        spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in spent)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A child process that never rests, on the last of our cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("latency_check: the scenario `loaded` needs a second core")
    code = f"import os\nos.sched_setaffinity(0, {{{cores[-1]}}})\nprint('ready', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit("latency_check: the child that is to keep a core busy did not start")
            yield
        finally:
            process.kill()


class Course:
    """Checks one after the other. `lines`: all that were read and made; `disturbed`: how many of the last were so, in a row."""

    def __init__(self, workspace: Path, settings: CheckSettings, log: Path, lines: list[Line]) -> None:
        self._folder, self._settings, self._log, self._lines = workspace, settings, log, lines
        self._device: Device = open_device("local")
        self._base, self._image = base_model(workspace)
        self._cores = len(os.sched_getaffinity(0))
        self._machine = {"processor": processor(), "cores": self._cores, "onnxruntime": version_of("onnxruntime")}
        self.disturbed = 0

    def one(self, scenario: str) -> None:
        """Make a check and write it down."""
        number = next_number(self._lines, scenario, self._settings)
        work = self._work() if scenario == "injected" else None
        print(f"{scenario} {number + 1} of {SCENARIOS[scenario]}", file=sys.stderr)
        before, after = self._arms(self._folder / "heavier.onnx" if work else self._base)
        usage = Usage()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        with busy_core() if scenario == "loaded" else contextlib.nullcontext():
            told = self._checked(before, after, number)
        usage.close()
        quiet = usage.others is not None and usage.others <= OTHERS_ALLOWED * self._cores
        self.disturbed = 0 if quiet else self.disturbed + 1
        line = {
            "scenario": scenario,
            "number": number,
            "disturbed": not quiet,
            "others_cores": round(usage.others or 0.0, 3),
            "load_average": usage.load,
            "started": started,
            "machine": self._machine,
            "setting": setting_of(self._settings),
            "kdedge": __version__,
            "artifacts": [before.sha256, after.sha256],
            **({"work": asdict(work)} if work else {}),
            **told,
        }
        print(f"  {line['state']}{'' if quiet else f', disturbed: others used {usage.others:.1f} cores'}: {line['reason']}", file=sys.stderr)
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
            quiet = usage.others is not None and usage.others <= OTHERS_ALLOWED * self._cores
            found = [
                {
                    "scenario": "calibration",
                    "disturbed": not quiet,
                    "others_cores": usage.others,
                    "load_average": usage.load,
                    "started": datetime.now(UTC).isoformat(timespec="seconds"),
                    "machine": self._machine,
                    "work": asdict(work),
                }
            ]
            self._keep(found[0])
            if not quiet:
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
