"""What `mixed` must keep, read from the recipe's conditions, and by how much a choice of layers falls short of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdedge.conditions import NATS, SHARES, TIMES, Condition, read_condition
from kdedge.errors import RecipeError
from kdedge.recipe import MixedSection

#: A limit of zero (KL, or examples that may differ) counts as this large where a shortfall is measured against it.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Budget:
    """A floor of agreement with the float student, a ceiling of KL from it, and a ceiling of the median latency that is never traded."""

    agreement: Condition | None
    kl: Condition | None
    latency: Condition | None

    def met(self, kl: float, agreement: float) -> bool:
        """Whether the fidelity is what was asked for."""
        return (self.agreement is None or self.agreement.holds(agreement)) and (self.kl is None or self.kl.holds(kl))

    def fast_enough(self, latency_ms: float | None) -> bool:
        """Whether the hard limit allows it; what was not timed cannot break it."""
        return self.latency is None or latency_ms is None or self.latency.holds(latency_ms)

    def shortfall(self, kl: float, agreement: float) -> float:
        """How far the fidelity is from what was asked, as a share of what is allowed: 0 where it is met, 1 where the loss is twice as large as
        allowed. The larger of the two where both are asked."""
        gaps = [0.0]
        if self.kl is not None and not self.kl.holds(kl):
            gaps.append((kl - self.kl.limit) / max(self.kl.limit, _SMALLEST))
        if self.agreement is not None and not self.agreement.holds(agreement):
            gaps.append((self.agreement.limit - agreement) / max(1 - self.agreement.limit, _SMALLEST))
        return max(gaps)

    def __str__(self) -> str:
        named = (("agreement_student", self.agreement), ("kl_student", self.kl), ("latency_median", self.latency))
        return ", ".join(f"{name} {bound.text}" for name, bound in named if bound is not None)


def read_budget(section: MixedSection) -> Budget:
    """The budget of `quantize.mixed`.

    Raises:
        RecipeError: a comparison in the wrong direction, an unknown unit, an agreement outside of 0 to 1, a latency that nothing can have.
    """
    found = Budget(
        agreement=_bound("agreement_student", section.agreement_student, SHARES, ">", share=True),
        kl=_bound("kl_student", section.kl_student, NATS, "<"),
        latency=_bound("latency_median", section.latency_median, TIMES, "<"),
    )
    if found.latency is not None and found.latency.limit <= 0:
        raise RecipeError(f"quantize.mixed.latency_median: `{found.latency.text}`: nothing takes no time: write how long a call may last")
    return found


def _bound(key: str, text: str | tuple[str, ...] | None, units: Mapping[str, str], direction: str, *, share: bool = False) -> Condition | None:
    if text is None:
        return None
    where = f"quantize.mixed.{key}"
    found = read_condition(where, text, units, share=share)
    if not found.operator.startswith(direction):
        raise RecipeError(f"{where}: `{found.text}`: this is a limit of {'at least: >= or >' if direction == '>' else 'at most: <= or <'}")
    return found
