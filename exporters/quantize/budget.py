"""What `mixed` must keep, read from the recipe's conditions, and by how much a choice of layers falls short of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdedge.errors import RecipeError
from kdedge.recipe import MixedSection

_CONDITION = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")
_UNITS: dict[str, dict[str, float]] = {
    "agreement_student": {"": 1.0, "%": 0.01},
    "kl_student": {"": 1.0, "nats": 1.0},
    "latency_median": {"s": 1000.0, "ms": 1.0, "us": 0.001, "µs": 0.001},
}
#: A limit of zero (KL, or examples that may differ) counts as this large where a shortfall is measured against it.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Bound:
    """One side of a budget: `limit` in nats, in ms or as a share, itself allowed unless `strict`; `text` is how the user wrote it."""

    limit: float
    strict: bool
    text: str

    def above(self, value: float) -> bool:
        """Whether `value` is enough for a floor."""
        return value > self.limit if self.strict else value >= self.limit

    def below(self, value: float) -> bool:
        """Whether `value` is little enough for a ceiling."""
        return value < self.limit if self.strict else value <= self.limit


@dataclass(frozen=True)
class Budget:
    """A floor of agreement with the float student, a ceiling of KL from it, and a ceiling of the median latency that is never traded."""

    agreement: Bound | None
    kl: Bound | None
    latency: Bound | None

    def met(self, kl: float, agreement: float) -> bool:
        """Whether the fidelity is what was asked for."""
        return (self.agreement is None or self.agreement.above(agreement)) and (self.kl is None or self.kl.below(kl))

    def fast_enough(self, latency_ms: float | None) -> bool:
        """Whether the hard limit allows it; what was not timed cannot break it."""
        return self.latency is None or latency_ms is None or self.latency.below(latency_ms)

    def shortfall(self, kl: float, agreement: float) -> float:
        """How far the fidelity is from what was asked, as a share of what is allowed: 0 where it is met, 1 where the loss is twice as large as
        allowed. The larger of the two where both are asked."""
        gaps = [0.0]
        if self.kl is not None and not self.kl.below(kl):
            gaps.append((kl - self.kl.limit) / max(self.kl.limit, _SMALLEST))
        if self.agreement is not None and not self.agreement.above(agreement):
            gaps.append((self.agreement.limit - agreement) / max(1 - self.agreement.limit, _SMALLEST))
        return max(gaps)

    def __str__(self) -> str:
        named = (("agreement_student", self.agreement), ("kl_student", self.kl), ("latency_median", self.latency))
        return ", ".join(f"{name} {bound.text}" for name, bound in named if bound is not None)


def read_budget(section: MixedSection) -> Budget:
    """The budget of `quantize.mixed`.

    Raises:
        RecipeError: a comparison in the wrong direction, an unknown unit, an agreement outside of 0 to 1.
    """
    found = Budget(
        agreement=_bound("agreement_student", section.agreement_student, ">"),
        kl=_bound("kl_student", section.kl_student, "<"),
        latency=_bound("latency_median", section.latency_median, "<"),
    )
    if found.agreement is not None and not 0 <= found.agreement.limit <= 1:
        raise RecipeError(f"quantize.mixed.agreement_student: `{found.agreement.text}`: this is a share: write it as 0.99 or as 99 %")
    return found


def _bound(key: str, text: str | tuple[str, ...] | None, direction: str) -> Bound | None:
    if text is None:
        return None
    where, match = f"quantize.mixed.{key}: `{text}`", _CONDITION.fullmatch(text) if isinstance(text, str) else None
    allowed = "at least: >= or >" if direction == ">" else "at most: <= or <"
    if match is None or not isinstance(text, str) or not match.group(1).startswith(direction):
        raise RecipeError(f"{where}: this is a limit of {allowed}")
    operator, number, unit = match.groups()
    if unit not in _UNITS[key]:
        units = ", ".join(f"`{name}`" if name else "none" for name in _UNITS[key])
        raise RecipeError(f"{where}: there is no unit `{unit}` here (allowed: {units})")
    return Bound(float(number) * _UNITS[key][unit], operator == direction, " ".join(text.split()))
