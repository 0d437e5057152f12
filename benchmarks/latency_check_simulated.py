"""How often the latency check cries wolf, and what it finds, on simulated devices: the part of the proof that needs no machine.

usage: latency_check_simulated.py [--repeats 2000] [--pairs 10] [--iterations 200]

Prints three tables in Markdown, then one line of JSON: false alarms a scenario (identical artifacts, and a true slow-down of just the margin) beside
those of a test that counts iterations; slow-downs of 0 to 10 % found; and what throttling in the middle becomes. Seeded: it always prints the same.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.devices.simulation import SCENARIOS, draw_session
from kdedge.latency.looks import Looks
from kdedge.latency.pairs import MEDIAN, Order, Pair, orders, timed
from kdedge.latency.power import detectable_among
from kdedge.latency.verdicts import CheckRule, judge, metric_test

Float64 = npt.NDArray[np.float64]

MARGIN, ALPHA = 0.03, 0.01
NAIVE_ALPHA = 0.05
LAUNCH_SECONDS = 6.0  # 20 launches in two minutes: the drift and the step of the scenarios lie within
SLOW_DOWNS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10)
_NO_FALSE_ALARM = ("throttle", "disconnects")  # they have a table of their own, or differ only in launches that are lost


def main() -> None:
    """Simulate, print, and end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=200)
    arguments = parser.parse_args()
    repeats, pairs = arguments.repeats, arguments.pairs
    most = upper_count(repeats, ALPHA)
    alarms, found = {}, {}
    for number, name in enumerate(name for name in SCENARIOS if name not in _NO_FALSE_ALARM):
        ratios, naive = session_ratios(name, 100 + number, repeats, pairs, arguments.iterations)
        alarms[name] = false_alarms(ratios, naive)
        found[name] = power(ratios, pairs)
    throttled = throttling(repeats, pairs, arguments.iterations)

    print(f"{repeats} sessions a scenario, {pairs} pairs of launches in ABBA order, {arguments.iterations} iterations each; ", end="")
    print(f"margin {100 * MARGIN:g} %, alpha {ALPHA:g}: at most {most} alarms (99.9 % bound of the binomial)\n")
    print(
        "| scenario | A/A flagged | A/A proven equivalent | flagged at a true 3 % | called equivalent at 3 % | A/A flagged by a test on iterations |"
    )
    print("|---|---|---|---|---|---|")
    for name, row in alarms.items():
        shares = (
            f"{100 * row['equivalent'] / repeats:.1f} % | {row['regressed_at_margin']} | {row['equivalent_at_margin']} | {100 * row['naive']:.0f} %"
        )
        print(f"| {name} | {row['flagged']} of {repeats} | {shares} |")
    print(f"\n| scenario | detectable with 80 % | found there |{''.join(f' {100 * slow:g} % |' for slow in SLOW_DOWNS)}")
    print("|---|---|---|" + "---|" * len(SLOW_DOWNS))
    for name, row in found.items():
        print(
            f"| {name} | {100 * row['detectable']:.1f} % | {100 * row['found']:.0f} % |"
            + "".join(f" {100 * share:.1f} % |" for share in row["shares"])
        )
    print("\n| throttled from the middle on | verdicts |\n|---|---|")
    for slow, states in throttled.items():
        print(f"| candidate {slow} % slower | {', '.join(f'{state} {count}' for state, count in states.items())} |")
    print()
    record = {"benchmark": "latency_check_simulated", "repeats": repeats, "pairs": pairs, "most": most}
    print(json.dumps({**record, "false_alarms": alarms, "power": found, "throttling": throttled}))
    wrong = [name for name, row in alarms.items() if max(row["flagged"], row["regressed_at_margin"], row["equivalent_at_margin"]) > most]
    if wrong or any(set(states) != {"invalid"} for states in throttled.values()):
        raise SystemExit(f"more false alarms than alpha allows, or a throttled check that was not invalid: {', '.join(wrong) or 'throttle'}")


def session_ratios(name: str, seed: int, repeats: int, pairs: int, iterations: int) -> tuple[Float64, float]:
    """Log ratios of identical artifacts [repeats, pairs], half of the sessions beginning with each; and how often a test on the iterations of the
    first two launches, at 5 %, flags them."""
    found, flagged = [], []
    for start, first in enumerate(("AB", "BA")):
        order = next(drawn for drawn in (orders(pairs, number) for number in range(64)) if drawn[0] == first)
        samples, _ = draw_session(SCENARIOS[name], 2 * seed + start, [1.0] * (2 * pairs), repeats // 2, iterations, LAUNCH_SECONDS)
        found.append(log_ratios(order, samples))
        flagged.append(mann_whitney(samples[:, 0], samples[:, 1]) <= NAIVE_ALPHA)
    return np.concatenate(found), float(np.mean(np.concatenate(flagged)))


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
    promised = detectable_among(ratios.ravel(), pairs, MARGIN, ALPHA) or math.inf
    shares = [
        np.mean([metric_test(MEDIAN, row + math.log1p(slow), MARGIN, ALPHA).state == "regressed" for row in ratios])
        for slow in (*SLOW_DOWNS, promised)
    ]
    return {"detectable": promised, "found": float(shares[-1]), "shares": [float(share) for share in shares[:-1]]}


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
