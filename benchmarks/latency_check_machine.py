"""The machine under `latency_check.py`: whether it is quiet enough for the proof, what others use of it, and what keeps one of its cores busy."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from latency_check_log import OTHERS_ALLOWED
from latency_check_work import launched

from kdedge.devices.device import Device
from kdedge.latency.check import Arm, CheckSettings, brief
from kdedge.latency.pairs import timed_launch
from kdedge.latency.power import detectable, plan
from kdedge.runtimes import contention

LAUNCHES = 30
CERTAIN = 0.99
"""The chance with which a check on a quiet machine must find what is injected, by the check's own plan. To reach is a share of 90 %."""


@dataclass(frozen=True)
class Quietness:
    """How alike launches of one artifact are. `launch_sd`: of the logarithms of their medians; `noise`: of the log ratios of neighbours, which are
    what a check compares; `detectable`: the slow-down (a fraction) that a check finds at this noise with a chance of 99 %; `medians_ms`: of the
    launches that count, in their order."""

    launch_sd: float
    noise: float
    detectable: float
    medians_ms: tuple[float, ...]

    def finds(self, slow_down: float) -> bool:
        """Whether a check here is certain enough to find a slow-down (a fraction)."""
        return self.detectable <= slow_down


def quietness(device: Device, arm: Arm, settings: CheckSettings, folder: Path, count: int = LAUNCHES) -> Quietness:
    """From launches of one artifact as the check would make them, one after the other.

    Raises:
        SystemExit: fewer than half of the launches count, or the budget is too short for any check.
    """
    budget, tests = settings.budget_seconds or 60.0, len(settings.metrics)
    first = replace(brief(settings), min_seconds=0.0)
    begun = time.monotonic()
    pilot = launched(device, arm, first, folder)
    spent = time.monotonic() - begun - float(pilot.samples_ms.sum()) / 1000
    iteration_ms = statistics.median(pilot.samples_ms.tolist())
    planned = plan(budget, max(0.0, spent), iteration_ms, None, settings.margin, settings.alpha, looks=settings.looks, tests=tests)
    if planned.looks is None:
        raise SystemExit(f"latency_check: {planned.sentence}")
    rule = replace(first, min_iterations=planned.iterations)
    timed = [timed_launch(launched(device, arm, rule, folder)) for _ in range(count)]
    medians = [one.median_ms for one in timed if one.median_ms is not None and not one.problems]
    if len(medians) < max(2, count // 2):
        problems = sorted({problem for one in timed for problem in one.problems})
        raise SystemExit(f"latency_check: only {len(medians)} of {count} launches were undisturbed: {'; '.join(problems)}")
    return quietness_of(medians, planned.pairs, settings.margin, planned.looks.share)


def quietness_of(medians_ms: Sequence[float], pairs: int, margin: float, share: float) -> Quietness:
    """From medians of launches in their order. `pairs`: those of a check; `share`: of alpha, for each of its tests."""
    logs = [math.log(median) for median in medians_ms]
    noise = math.sqrt(statistics.fmean((after - before) ** 2 for before, after in pairwise(logs)))
    return Quietness(statistics.stdev(logs), noise, detectable(noise, pairs, margin, share, CERTAIN), tuple(medians_ms))


class Usage:
    """What other processes use of the cores between its making (`started`) and `close`. `others`: cores, None where the machine does not tell;
    `load`: the load averages of a minute before and after, our own part included."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
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

    def leaves_quiet(self, cores: int) -> bool:
        """Whether others used so little of `cores` that what was measured meanwhile counts."""
        return self.others is not None and self.others <= OTHERS_ALLOWED * cores

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
