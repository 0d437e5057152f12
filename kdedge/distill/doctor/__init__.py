"""What would waste hours of training, found in seconds. One file a question; each check is a function from what was measured to a `Finding`.

Nothing here imports torch; `kdedge.distill.doctor.examine` measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "error"]
# Most urgent first.
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """What one check found. `error`: a run would fail, or nothing worth having would come out. `warning`: it would cost much of what could be
    gained. `note`: a person should know. `figures` are the plain values behind it."""

    level: Level
    check: str
    message: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A layer that can be tapped: its dotted name, and the shape of what it gives for one batch, without the batch dimension."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, most urgent first, and the layers of each model by whose they are (`student`, `teacher`) where they were asked for."""

    recipe: str
    findings: tuple[Finding, ...]
    seconds: float
    layers: dict[str, tuple[Layer, ...]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """2 where a finding is an error, else 0."""
        return 2 if any(finding.level == "error" for finding in self.findings) else 0

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        found = [
            {"level": each.level, "check": each.check, "message": each.message, "advice": each.advice, "figures": each.figures}
            for each in self.findings
        ]
        layers = {whose: {layer.name: list(layer.shape) for layer in each} for whose, each in self.layers.items()}
        counts = {level: sum(each.level == level for each in self.findings) for level in LEVELS}
        return {"recipe": self.recipe, "seconds": round(self.seconds, 3), "counts": counts, "findings": found, "layers": layers}


def by_urgency(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first; those of one level in the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def percent(share: float) -> str:
    """A share of 1 for people."""
    return f"{100 * share:.1f} %"
