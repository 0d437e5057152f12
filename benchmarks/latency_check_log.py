"""The log of `latency_check.py`: its lines, which of them count, and what they come to."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdedge.estimate import Estimate
from kdedge.latency.check import CheckSettings
from kdedge.latency.power import POWER

SCENARIOS = {"quiet": 100, "loaded": 100, "injected": 50}
TITLES = {"quiet": "A/A, quiet", "loaded": "A/A, another core busy", "injected": "5 % more work"}
OTHERS_ALLOWED = 0.3
MOST_FLAGGED, LEAST_FOUND = 0.01, 0.90
LEAST_DECIDED = POWER
"""Of the checks on a quiet machine. One that always says `inconclusive` flags nothing either."""
STATES = ("regressed", "improved", "equivalent", "inconclusive", "invalid")
Line = dict[str, Any]


# ---- the log ---------------------------------------------------------------------------------------------------------------


def setting_of(settings: CheckSettings) -> Line:
    """What was declared: figures of other settings are not mixed."""
    return {"margin": settings.margin, "alpha": settings.alpha, "budget_seconds": settings.budget_seconds, "looks": settings.looks}


def read(log: Path) -> list[Line]:
    """The finished checks, calibrations and looks whether the machine is quiet. A line that a kill cut off is none."""
    found = []
    for text in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            line = json.loads(text)
            line["scenario"], line["disturbed"], line["machine"], line["started"], line["load_average"]
            if line["scenario"] in SCENARIOS:
                line["number"], line["state"], line["setting"], line["others_cores"]
            found.append(line)
        except (ValueError, TypeError, LookupError):
            print(f"{log}: a line is no finished check and is left out: {text[:60]}", file=sys.stderr)
    return found


def counted(lines: Sequence[Line], scenario: str, settings: CheckSettings, quiet: bool = True) -> list[Line]:
    """The checks of a scenario that count: the first undisturbed one of each number. `quiet`: those on machines that were found to be so before
    (the proof), or those on others."""
    found: dict[int, Line] = {}
    for line in lines:
        ours = line["scenario"] == scenario and line["setting"] == setting_of(settings) and line.get("quiet_machine", False) == quiet
        if ours and not line["disturbed"]:
            found.setdefault(line["number"], line)
    return [found[number] for number in sorted(found)][: SCENARIOS[scenario]]


def next_number(lines: Sequence[Line], scenario: str, settings: CheckSettings, quiet: bool = True) -> int:
    """The smallest number that has no undisturbed check yet, on quiet machines or on others."""
    there = {line["number"] for line in counted(lines, scenario, settings, quiet)}
    return next(number for number in range(len(there) + 1) if number not in there)


# ---- what is shown ---------------------------------------------------------------------------------------------------------


def clopper_pearson(successes: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a proportion (Clopper and Pearson 1934, Biometrika 26:404), by bisection: each end leaves 2.5 % beyond."""
    low = 0.0 if successes == 0 else _root(lambda p: 0.025 - at_least(successes, n, p))
    high = 1.0 if successes == n else _root(lambda p: (1 - at_least(successes + 1, n, p)) - 0.025)
    return low, high


def at_least(k: int, n: int, p: float) -> float:
    """The chance of k or more successes of n."""
    return math.fsum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


def _root(falling: Callable[[float], float]) -> float:
    """Where a falling function of [0, 1] crosses zero."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def figures_of(found: Sequence[Line]) -> Line:
    """Of one scenario: states with counts, and the share that was flagged with its exact interval."""
    states = Counter(line["state"] for line in found)
    flagged = states["regressed"]
    effects = [line["effect"]["value"] for line in found if line["effect"]]
    detectable = [line["detectable"] for line in found if line.get("detectable") is not None]
    return {
        "checks": len(found),
        **{state: states[state] for state in STATES},
        "flagged_interval": clopper_pearson(flagged, len(found)) if found else None,
        "effect_percent": statistics.median(effects) if effects else None,
        "detectable": statistics.median(detectable) if detectable else None,
        "pairs": statistics.median(len(line["pairs"]) for line in found) if found else None,
        "dropped_pairs": sum(bool(a[3] or b[3]) for line in found for _, a, b in line["pairs"]),
        "seconds": statistics.median(line["seconds"] or 0.0 for line in found) if found else None,
    }


def table(there: Mapping[str, Sequence[Line]], settings: CheckSettings) -> list[str]:
    """Markdown: one row a scenario."""
    lines = [
        "| scenario | checks | regressed | 95 % interval | improved | equivalent | inconclusive | invalid | effect | detectable | pairs | dropped |",
        "|---" * 12 + "|",
    ]
    for scenario, found in there.items():
        row = figures_of(found)
        if not found:
            lines.append(f"| {TITLES[scenario]} | 0 |" + " - |" * 10)
            continue
        low, high = row["flagged_interval"]
        states = " | ".join(str(row[state]) for state in STATES[1:])
        effect = "-" if row["effect_percent"] is None else f"{row['effect_percent']:+.2f} %"
        detectable = "-" if row["detectable"] is None else f"{100 * row['detectable']:.1f} %"
        flagged = f"{row['regressed']} | {100 * low:.1f} to {100 * high:.1f} %"
        lines.append(
            f"| {TITLES[scenario]} | {row['checks']} | {flagged} | {states} | {effect} | {detectable} | {row['pairs']:g} | {row['dropped_pairs']} |"
        )
    return lines


def about(lines: Sequence[Line], there: Mapping[str, Sequence[Line]], settings: CheckSettings) -> list[str]:
    """What was run, where, and how the two questions were answered."""
    found = [line for scenario in there.values() for line in scenario]
    if not found:
        return ["No check is there yet.", *_beside(lines, settings)]
    ran_on = [line["machine"] for line in found]
    machines = "; ".join(sorted({f"{one['processor']}, {one['cores']} cores, ONNX Runtime {one['onnxruntime']}" for one in ran_on}))
    loads = [load for line in found for load in line["load_average"]]
    others = [line["others_cores"] for line in found]
    text = [
        f"ResNet-20, float, batch 1, one thread; margin {100 * settings.margin:g} %, alpha {100 * settings.alpha:g} %, "
        f"{settings.budget_seconds:g} s a check. On {machines}. Load average of a minute, our own launches included: {min(loads):.1f} to "
        f"{max(loads):.1f}; other processes used {statistics.median(others):.2f} cores (median; at most {max(others):.2f}), the child that keeps a "
        "core busy not among them."
    ]
    setting = setting_of(settings)
    disturbed = Counter(line["scenario"] for line in lines if line["scenario"] in SCENARIOS and line["disturbed"] and line["setting"] == setting)
    if disturbed:
        counts = ", ".join(f"{count} {scenario}" for scenario, count in disturbed.items())
        text.append(f"Not counted and made again, since others used more than {OTHERS_ALLOWED:g} of the cores: {counts}.")
    for scenario in ("quiet", "loaded"):
        if checks := there[scenario]:
            flagged = sum(line["state"] == "regressed" for line in checks)
            chance = 100 * at_least(flagged, len(checks), settings.alpha)
            text.append(
                f"{TITLES[scenario]}: {flagged} of {len(checks)} flagged; were the rate just alpha, so many or more would be with {chance:.0f} %."
            )
    works = {json.dumps(line["work"], sort_keys=True): line["work"] for line in there["injected"]}
    text += [
        f"The injected work is a convolution of {work['channels']} channels, {100 * work['macs_share']:.1f} % of the network's multiplications; "
        f"{work['effect']['n']} pairs of longer launches showed that it takes {Estimate(**work['effect'])}."
        for work in works.values()
    ]
    return ["\n".join([*text, *_beside(lines, settings)])]


def _beside(lines: Sequence[Line], settings: CheckSettings) -> list[str]:
    """What checks said on machines that are not quiet enough for the proof, one sentence a scenario: nothing that was run is left out."""
    text = []
    for scenario in SCENARIOS:
        found = counted(lines, scenario, settings, quiet=False)
        if found:
            row = figures_of(found)
            decided = row["checks"] - row["inconclusive"] - row["invalid"]
            noises = [line["noise"] for line in found if line.get("noise") is not None]
            noise = f"{100 * statistics.median(noises):.1f} %" if noises else "not known"
            where = "; ".join(sorted({line["machine"]["processor"] for line in found}))
            text.append(
                f"Beside the proof, on machines that are not quiet ({where}; noise of a pair of launches {noise}): {TITLES[scenario]}: "
                f"{row['regressed']} of {row['checks']} flagged, {decided} decided."
            )
    return text


def broken(there: Mapping[str, Sequence[Line]]) -> list[str]:
    """Which of the claims do not hold, in sentences."""
    rows = {scenario: figures_of(found) for scenario, found in there.items()}
    wrong = [
        f"{TITLES[scenario]}: {rows[scenario]['regressed']} of {rows[scenario]['checks']} flagged, more than {100 * MOST_FLAGGED:g} %"
        for scenario in ("quiet", "loaded")
        if rows[scenario]["regressed"] > MOST_FLAGGED * rows[scenario]["checks"]
    ]
    quiet = rows["quiet"]
    decided = quiet["checks"] - quiet["inconclusive"] - quiet["invalid"]
    if decided < LEAST_DECIDED * quiet["checks"]:
        wrong.append(f"{TITLES['quiet']}: {decided} of {quiet['checks']} decided, fewer than {100 * LEAST_DECIDED:g} %")
    if rows["injected"]["regressed"] < LEAST_FOUND * rows["injected"]["checks"]:
        wrong.append(
            f"{TITLES['injected']}: {rows['injected']['regressed']} of {rows['injected']['checks']} found, fewer than {100 * LEAST_FOUND:g} %"
        )
    return wrong
