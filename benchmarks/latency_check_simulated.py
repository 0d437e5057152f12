"""How often the latency check cries wolf, and what it finds, on simulated devices: the part of the proof that needs no machine.

usage: latency_check_simulated.py [--repeats 2000] [--pairs 10] [--iterations 200]

Prints four tables in Markdown, then one line of JSON: false alarms a scenario (identical artifacts, and a true slow-down of just the margin) beside
those of a test that counts iterations; how often no change is proven, beside what is promised; slow-downs of 0 to 10 % found; and what throttling in
the middle becomes. Seeded: it always prints the same.
It ends with an error where more is flagged than alpha allows, and where less is decided or found than is promised: a check that always says
`inconclusive` raises no false alarm either.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.devices.simulation import SCENARIOS, draw_session
from kdedge.latency.check import LOOKS, PAIRS
from kdedge.latency.looks import Looks, spread_looks
from kdedge.latency.pairs import MEDIAN, Order, Pair, orders, timed
from kdedge.latency.power import POWER, detectable_among
from kdedge.latency.verdicts import CheckRule, judge, metric_test

Float64 = npt.NDArray[np.float64]

MARGIN, ALPHA = 0.03, 0.01
NAIVE_ALPHA = 0.05
LAUNCH_SECONDS = 6.0  # 20 launches in two minutes: the drift and the step of the scenarios lie within
SLOW_DOWNS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10)
WHOLE = CheckRule(spread_looks(PAIRS, LOOKS, ALPHA, 2), MARGIN)
"""The rule of a check that is asked for nothing else."""
_NO_FALSE_ALARM = ("throttle", "disconnects")  # they have a table of their own, or differ only in launches that are lost


def main() -> None:
    """Simulate, print, and end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=200)
    arguments = parser.parse_args()
    repeats, pairs, iterations = arguments.repeats, arguments.pairs, arguments.iterations
    alarms: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(name for name in SCENARIOS if name not in _NO_FALSE_ALARM):
        ratios, naive = session_ratios(name, 100 + number, repeats, pairs, iterations)
        alarms[name] = {**false_alarms(ratios, naive), "whole_at_margin": whole_checks(name, 200 + number, repeats, iterations)}
        found[name] = {**power(ratios, pairs), "promised": promised(ratios, pairs)}
    throttled = throttling(repeats, pairs, iterations)
    show(alarms, found, throttled, repeats, f"{pairs} pairs of launches in ABBA order, {iterations} iterations each")
    record = {"benchmark": "latency_check_simulated", "repeats": repeats, "pairs": pairs, "most": upper_count(repeats, ALPHA)}
    wrong = broken(alarms, found, throttled, repeats)
    print(json.dumps({**record, "false_alarms": alarms, "power": found, "throttling": throttled, "claims_broken": wrong}))
    if wrong:
        raise SystemExit(f"latency_check_simulated: {'; '.join(wrong)}")


def show(
    alarms: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
    throttled: Mapping[str, Mapping[str, int]],
    repeats: int,
    sessions: str,
) -> None:
    """Print the tables."""
    print(f"{repeats} sessions a scenario, {sessions}; margin {100 * MARGIN:g} %, alpha {ALPHA:g}:", end=" ")
    print(f"at most {upper_count(repeats, ALPHA)} alarms (99.9 % bound of the binomial)\n")
    _row(
        "scenario",
        "A/A flagged",
        "flagged at a true 3 %",
        "called equivalent at 3 %",
        "whole checks flagged at 3 %",
        "A/A flagged by a test on iterations",
    )
    print("|---" * 6 + "|")
    for name, row in alarms.items():
        counts = (f"{row['flagged']} of {repeats}", row["regressed_at_margin"], row["equivalent_at_margin"], row["whole_at_margin"])
        _row(name, *map(str, counts), f"{100 * row['naive']:.0f} %")
    first, last = WHOLE.looks.pairs[0], WHOLE.looks.last
    print(f"\nWhole checks: {first} and, where these do not decide, {last} pairs, median and p90, as `kdedge check` runs them.\n")
    _row("scenario", "A/A proven equivalent", "promised")
    print("|---" * 3 + "|")
    for name, row in found.items():
        said = "less than half" if row["promised"] is None else f"{100 * row['promised']:.1f} %"
        _row(name, f"{100 * alarms[name]['equivalent'] / repeats:.1f} %", said)
    print()
    _row("scenario", "detectable with 80 %", "found there", *(f"{100 * slow:g} %" for slow in SLOW_DOWNS))
    print("|---" * (3 + len(SLOW_DOWNS)) + "|")
    for name, row in found.items():
        _row(name, f"{100 * row['detectable']:.1f} %", f"{100 * row['found']:.0f} %", *(f"{100 * share:.1f} %" for share in row["shares"]))
    print("\n| throttled from the middle on | verdicts |\n|---|---|")
    for slow, states in throttled.items():
        _row(f"candidate {slow} % slower", ", ".join(f"{state} {count}" for state, count in states.items()))
    print()


def _row(*fields: str) -> None:
    print(f"| {' | '.join(fields)} |")


def broken(
    alarms: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], throttled: Mapping[str, Mapping[str, int]], repeats: int
) -> list[str]:
    """Which claims do not hold, in sentences; each count against its 99.9 % binomial bound."""
    most = upper_count(repeats, ALPHA)
    wrong = []
    for name, row in alarms.items():
        counts = {kind: row[kind] for kind in ("flagged", "regressed_at_margin", "equivalent_at_margin", "whole_at_margin")}
        wrong += [f"{name}: {kind} {count} times of {repeats}, more than {most}" for kind, count in counts.items() if count > most]
        if row["naive"] <= NAIVE_ALPHA:
            wrong.append(f"{name}: a test on iterations flags {100 * row['naive']:.0f} %, so that this scenario shows nothing")
        told = found[name]
        if told["promised"] is not None and row["equivalent"] < lower_count(repeats, told["promised"]):
            wrong.append(f"{name}: {row['equivalent']} of {repeats} unchanged proven equivalent, promised {100 * told['promised']:.1f} %")
        if told["found"] * repeats < lower_count(repeats, POWER):
            wrong.append(f"{name}: {100 * told['found']:.1f} % found of the slow-down that is called detectable with {100 * POWER:.0f} %")
        if told["shares"] != sorted(told["shares"]):
            wrong.append(f"{name}: a larger slow-down is found less often")
    wrong += [
        f"candidate {slow} % slower, throttled: {dict(states)}, not all invalid" for slow, states in throttled.items() if set(states) != {"invalid"}
    ]
    return wrong


def session_ratios(name: str, seed: int, repeats: int, pairs: int, iterations: int) -> tuple[Float64, float]:
    """Log ratios of identical artifacts [repeats, pairs], half of the sessions beginning with each; and how often a test on the iterations of the
    first two launches, at 5 %, flags them."""
    found, flagged = [], []
    for start, order in enumerate(both_orders(pairs)):
        samples, _ = draw_session(SCENARIOS[name], 2 * seed + start, [1.0] * (2 * pairs), repeats // 2, iterations, LAUNCH_SECONDS)
        found.append(log_ratios(order, samples))
        flagged.append(mann_whitney(samples[:, 0], samples[:, 1]) <= NAIVE_ALPHA)
    return np.concatenate(found), float(np.mean(np.concatenate(flagged)))


def both_orders(pairs: int) -> list[tuple[Order, ...]]:
    """The two orders that the seed of a check draws from: that which begins with AB, and that with BA."""
    return sorted({orders(pairs, number) for number in range(64)})


def log_ratios(order: Sequence[Order], samples: Float64) -> Float64:
    """Of launches' medians: [sessions, launches, iterations] to [sessions, pairs]."""
    medians = np.log(np.median(samples, axis=-1))
    candidates = [2 * number + both.index("B") for number, both in enumerate(order)]
    baselines = [2 * number + both.index("A") for number, both in enumerate(order)]
    ratios: Float64 = medians[:, candidates] - medians[:, baselines]
    return ratios


def false_alarms(ratios: Float64, naive: float) -> dict[str, Any]:
    """Counts of verdicts without a change, and with one of just the margin (the model is multiplicative: the same noise serves)."""
    same = Counter(metric_test(MEDIAN, row, MARGIN, ALPHA).state for row in ratios)
    edge = Counter(metric_test(MEDIAN, row + math.log1p(MARGIN), MARGIN, ALPHA).state for row in ratios)
    return {
        "flagged": same["regressed"] + same["improved"],
        "equivalent": same["equivalent"],
        "regressed_at_margin": edge["regressed"],
        "equivalent_at_margin": edge["equivalent"],
        "naive": naive,
    }


def power(ratios: Float64, pairs: int) -> dict[str, Any]:
    """Shares of sessions in which injected slow-downs are found, and that at the slow-down which is promised to be found with 80 %."""
    detectable = detectable_among(ratios.ravel(), pairs, MARGIN, ALPHA) or math.inf
    shares = [
        np.mean([metric_test(MEDIAN, row + math.log1p(slow), MARGIN, ALPHA).state == "regressed" for row in ratios])
        for slow in (*SLOW_DOWNS, detectable)
    ]
    return {"detectable": detectable, "found": float(shares[-1]), "shares": [float(share) for share in shares[:-1]]}


def promised(ratios: Float64, pairs: int) -> float | None:
    """The chance that the stated power gives an unchanged candidate to be proven equivalent; None below one half, where the formula says nothing.

    Not slower by the margin is proven from no change as a slow-down is found from twice the margin (in logarithms): the distance is the same.
    """
    distance = (1 + MARGIN) ** 2 - 1
    if (detectable_among(ratios.ravel(), pairs, MARGIN, ALPHA, 0.5) or math.inf) > distance:
        return None
    low, high = 0.5, 0.9999
    for _ in range(12):
        middle = (low + high) / 2
        holds = (detectable_among(ratios.ravel(), pairs, MARGIN, ALPHA, middle) or math.inf) <= distance
        low, high = (middle, high) if holds else (low, middle)
    return low


def whole_checks(name: str, seed: int, repeats: int, iterations: int) -> int:
    """How many checks flag a slow-down of just the margin, each judged by all of the rule: declared looks, median and p90."""
    flagged = 0
    for start, order in enumerate(both_orders(WHOLE.looks.last)):
        bases = [1 + MARGIN if arm == "B" else 1.0 for both in order for arm in both]
        samples, _ = draw_session(SCENARIOS[name], 2 * seed + start, bases, repeats // 2, iterations, LAUNCH_SECONDS)
        for session in samples:
            pairs = _paired(order, session, np.zeros(len(session), dtype=bool))
            verdicts = (judge(pairs, WHOLE, look) for look in WHOLE.looks.pairs)
            flagged += next(verdict for verdict in verdicts if verdict.final).state == "regressed"
    return flagged


def throttling(repeats: int, pairs: int, iterations: int) -> dict[str, dict[str, int]]:
    """Verdicts by how many percent the candidate is slower, where the device throttles from the middle of the check on."""
    scenario = replace(SCENARIOS["throttle"], throttle_at=LAUNCH_SECONDS * pairs)
    order = orders(pairs, 0)
    rule = CheckRule(Looks((pairs,), ALPHA), MARGIN, (MEDIAN,))
    found: dict[str, dict[str, int]] = {}
    for slow in (0, 10):
        bases = [1 + slow / 100 if arm == "B" else 1.0 for both in order for arm in both]
        samples, throttled = draw_session(scenario, slow, bases, repeats // 10, iterations, LAUNCH_SECONDS)
        found[str(slow)] = dict(Counter(str(judge(_paired(order, session, throttled), rule).state) for session in samples))
    return found


def _paired(order: Sequence[Order], session: Float64, throttled: npt.NDArray[np.bool_]) -> list[Pair]:
    launches = [timed(one, ["throttled"] if hot else []) for one, hot in zip(session, throttled, strict=True)]
    both = [(2 * number + each.index("A"), 2 * number + each.index("B")) for number, each in enumerate(order)]
    return [Pair(number, order[number], launches[a], launches[b]) for number, (a, b) in enumerate(both)]


def mann_whitney(first: Float64, second: Float64) -> Float64:
    """Two-sided p values by the normal approximation, row by row; samples are continuous, so ties do not matter."""
    m, n = first.shape[1], second.shape[1]
    ranks = np.argsort(np.argsort(np.concatenate([first, second], axis=1), axis=1), axis=1)[:, :m].sum(axis=1) + m
    z = (ranks - m * (m + 1) / 2 - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
    return np.array([2 * NormalDist().cdf(-abs(float(value))) for value in z])


def lower_count(n: int, p: float, level: float = 0.999) -> int:
    """The largest count k with P(B >= k) >= level, B ~ Binomial(n, p)."""
    return n - upper_count(n, 1 - p, level)


def upper_count(n: int, p: float, level: float = 0.999) -> int:
    """The smallest count k with P(B <= k) >= level, B ~ Binomial(n, p)."""
    total = 0.0
    for k in range(n + 1):
        total += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p))
        if total >= level:
            return k
    return n


if __name__ == "__main__":
    main()
