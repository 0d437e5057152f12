"""Audits of what ran, and searches for mixed precision, as the JSON that machines read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdedge.artifact import MixedTrial
from kdedge.measured import Audit


def trials_json(trials: Sequence[MixedTrial]) -> list[dict[str, Any]]:
    """The trials of the JSON result."""
    return [
        {"kept": list(trial.kept), "kl": trial.kl, "agreement": trial.agreement, "latency_ms": trial.latency_ms, "chosen": trial.chosen}
        for trial in trials
    ]


def audit_json(found: Audit | None) -> dict[str, Any] | None:
    """The object of the JSON result; null where it is not known what was asked, or what ran."""
    if found is None:
        return None
    return {
        "macs": dict(found.macs),
        "conversions": dict(found.conversions),
        "conversion_ms": found.conversion_ms,
        "layers": list(found.layers),
        "findings": list(found.findings),
        "rows": [
            {
                "node": row.node,
                "operator": row.operator,
                "asked": row.asked,
                "ran": row.ran or None,
                "macs": row.macs,
                "layer": row.layer,
                "milliseconds": row.milliseconds,
                "why": row.why,
            }
            for row in found.rows
        ],
    }
