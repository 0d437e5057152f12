"""What the history holds, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["profile", "check"]


@dataclass(frozen=True)
class LaunchRecord:
    """One fresh process. `line`: what of which this artifact is a version (`digits/onnxruntime-x86/int8`); `arm`: A or B in a check, else ""; `pair`:
    its place in the plan. Times in ms; `p90_ms` is None where the launch was too short for one. `invalid`: why it does not count, "" where it does.
    `samples`: every timed iteration in ns (int64), None where they are not kept or not asked for."""

    line: str
    sha256: str
    median_ms: float
    iterations: int
    arm: str = ""
    pair: int = 0
    p90_ms: float | None = None
    invalid: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    samples: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Session:
    """One run of the profiler, or one check. `id`: unique over all machines. `verdict`: of a check, "" for a profile; `told`: its JSON."""

    id: str
    kind: Kind
    started: datetime
    device: str
    fingerprint: Mapping[str, str]
    launches: tuple[LaunchRecord, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)
    tool_version: str = ""

    @property
    def environment(self) -> str:
        """Sixteen digits that are equal where measurements are comparable."""
        return environment_key(self.fingerprint)


@dataclass(frozen=True)
class Point:
    """One session in a series. `value`: the median over its valid launches, in ms; `launches`: how many those are; `verdict` as in `Session`."""

    session: str
    started: datetime
    sha256: str
    value: float
    launches: int
    verdict: str


@dataclass(frozen=True)
class SeriesKey:
    """What may be compared over time: one line of artifacts on one device in one environment."""

    line: str
    device: str
    environment: str


def environment_key(fingerprint: Mapping[str, str]) -> str:
    """Sixteen digits that stand for a fingerprint."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()[:16]
