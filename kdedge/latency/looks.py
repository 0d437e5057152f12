"""When the data of a check may be looked at: declared before the first launch, each look with its share of the error rate."""

from __future__ import annotations

from dataclasses import dataclass

from kdedge.errors import MeasurementError
from kdedge.latency.signed_rank import fewest_pairs, smallest_p

_EARLY = 0.75  # simulated: with looks after 10 and 12 pairs power falls from 0.79 to 0.70, and one pair is spared on average


@dataclass(frozen=True)
class Looks:
    """After how many counted pairs a verdict is tried. `tests`: how many metrics are tested at each.

    Bonferroni: every test of every look has an equal share of `alpha`, so that the chance of one false rejection among all is at most `alpha`,
    however the looks depend on one another. A test that goes on "until significant" has no such bound.

    Raises:
        MeasurementError: no look, odd or falling numbers of pairs, or a look so early that its share can never be reached.
    """

    pairs: tuple[int, ...]
    alpha: float = 0.01
    tests: int = 1

    def __post_init__(self) -> None:
        if not self.pairs or self.tests < 1 or not 0 < self.alpha < 1:
            raise MeasurementError(f"a check needs a look, a test, and an alpha between 0 and 1; got {self}")
        if any(pairs % 2 or pairs < 2 for pairs in self.pairs) or list(self.pairs) != sorted(set(self.pairs)):
            raise MeasurementError(f"looks are even numbers of pairs, rising; got {_listed(self.pairs)}")
        if smallest_p(self.pairs[0]) > self.share:
            raise MeasurementError(
                f"a look after {self.pairs[0]} pairs can reach p = {smallest_p(self.pairs[0]):.2g} at best, and its share of alpha {self.alpha:g} is "
                f"{self.share:.2g}: begin with {fewest_even(self.share)} pairs, or look fewer times"
            )

    @property
    def share(self) -> float:
        """The level of one test at one look."""
        return self.alpha / (len(self.pairs) * self.tests)

    @property
    def last(self) -> int:
        """The most pairs that are counted."""
        return self.pairs[-1]

    def number_of(self, pairs: int) -> int:
        """Which look it is after so many counted pairs, from 1.

        Raises:
            MeasurementError: that look was not declared.
        """
        if pairs not in self.pairs:
            raise MeasurementError(
                f"a look after {pairs} pairs was not declared (declared: after {_listed(self.pairs)}): "
                "looking whenever it suits raises the rate of false alarms"
            )
        return self.pairs.index(pairs) + 1


def fewest_even(share: float) -> int:
    """The fewest pairs, half of them in each order, with which a test at level `share` can reject."""
    fewest = fewest_pairs(share)
    return fewest + fewest % 2


def spread_looks(pairs: int, count: int, alpha: float = 0.01, tests: int = 1) -> Looks:
    """`count` looks, the last after `pairs`, the others evenly between the earliest that can decide and it; fewer where there is no room, or where
    the first would spare less than a quarter of the pairs: each look costs all the others a part of alpha.

    Raises:
        MeasurementError: even a single look after `pairs` cannot decide, or `count` is below 1.
    """
    if count < 1:
        raise MeasurementError(f"a check looks at least once, not {count} times")
    for looks in range(count, 1, -1):
        first = fewest_even(alpha / (looks * tests))
        steps = [first + round((pairs - first) * number / (looks - 1) / 2) * 2 for number in range(looks)]
        if steps[0] <= _EARLY * pairs and len(set(steps)) == looks and steps == sorted(steps):
            return Looks(tuple(steps), alpha, tests)
    return Looks((pairs,), alpha, tests)


def _listed(pairs: tuple[int, ...]) -> str:
    return ", ".join(map(str, pairs)) or "none"
