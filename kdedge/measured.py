"""What was measured, as plain data: references, fidelity and latency of an artifact on a device, and what a device is known by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kdedge.artifact import Artifact
from kdedge.estimate import Estimate


@dataclass(frozen=True)
class EnsembleScores:
    """Whether several teachers are worth more than the best of them, on the same held-out examples.

    `members`: the task metric of each, in their order; `best`: the place of the highest. `difference`: metric of the ensemble minus that of the
    best member, paired; `gained` and `lost`: examples that the ensemble scores higher and lower; `p_value`: McNemar's exact test, None where
    scores are not 0 or 1.
    """

    members: tuple[Estimate, ...]
    best: int
    difference: Estimate
    gained: int
    lost: int
    p_value: float | None

    @property
    def better(self) -> bool | None:
        """Whether the ensemble beats its best member: None where the interval of the difference reaches across zero, or there is none."""
        low, high = self.difference.interval or (-1.0, 1.0)
        if low == high == 0:  # the same score on every example
            return False
        return True if low > 0 else False if high < 0 else None


@dataclass(frozen=True)
class References:
    """Outputs that artifacts are compared with, on the same examples in the same order (`.npy`, float32).

    `teacher` is None where the recipe has none; `student` are the float student's in torch fp32 (or the given ONNX file's).
    `scores` holds the task metric of both, and of the pair, as estimates: keys `teacher`, `student`, `agreement_teacher`. `ensemble` is there
    where the teacher has several members.
    """

    labels: Path
    student: dict[str, Path]
    teacher: dict[str, Path] | None
    scores: dict[str, Estimate]
    worst: tuple[str, ...] = ()
    ensemble: EnsembleScores | None = None


@dataclass(frozen=True)
class AuditRow:
    """A node that multiplies: what was asked and what ran.

    `ran`: int8, fp16, bf16 or fp32; "" where no executed layer could be told to be this node. `layer`: the runtime's name for it; `why`: what
    the graph shows of the reason, where it ran otherwise than asked or was asked in float.
    """

    node: str
    operator: str
    asked: str
    ran: str
    macs: int | None
    layer: str = ""
    milliseconds: float | None = None
    why: str = ""

    @property
    def as_asked(self) -> bool | None:
        """None where it is not known what ran."""
        return None if not self.ran else self.ran == self.asked


@dataclass(frozen=True)
class Audit:
    """What was asked of an artifact and what a runtime made of it.

    `macs`: multiply-accumulates by the dtype that they ran in, "unknown" for nodes that no executed layer could be told to be. `conversions`: how
    many layers only convert or reorder data, by operator, and `conversion_ms` what they take together (None where the runtime times no layers).
    `layers`: executed layers that multiply and belong to no node that was asked. `findings`: sentences.
    """

    rows: tuple[AuditRow, ...]
    macs: dict[str, int]
    conversions: dict[str, int] = field(default_factory=dict)
    conversion_ms: float | None = None
    layers: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def integer_share(self) -> float | None:
        """Share of the multiply-accumulates that ran in integers; what is unknown counts as not. None where none could be counted."""
        total = sum(self.macs.values())
        return self.macs.get("int8", 0) / total if total else None


Status = Literal["ok", "failed", "not-run"]


@dataclass(frozen=True)
class Fidelity:
    """How an artifact's outputs relate to the float student (conversion drift) and to the teacher (distillation gap).

    `figures`: estimates by the names of the JSON (`metric`, `agreement_student`, `agreement_teacher`, `kl_student`, `kl_teacher`, `sqnr_db`);
    `largest_error`: largest absolute logit difference from the float student. `executed`: how many layers ran in which dtype; `audit`: what
    became of each node that multiplies (None where it is not known which there are). `lost`: it failed because the device was lost.
    """

    status: Status
    reason: str
    figures: dict[str, Estimate] = field(default_factory=dict)
    largest_error: float | None = None
    executed: dict[str, int] = field(default_factory=dict)
    layers: Path | None = None
    runtime_version: str = ""
    outputs: dict[str, Path] = field(default_factory=dict)
    audit: Audit | None = None
    lost: bool = False


@dataclass(frozen=True)
class Latency:
    """What launches on one device say. `figures`: `latency_median`, `latency_p90` (ms); `samples`: one `.npy` of int64 ns a launch.

    `device_figures`: the same by the device's own clock, where it has one (CUDA events); `copies`: host-device copies in ms. `invalid`: one
    sentence a launch, "" where it counts; figures are of those that do. `energy`: `energy_gross` and `energy_net` (mJ an inference) and
    `power_idle` (mW), from launches of their own; `energy_reason`: how they were taken, or why there are none. `sustained`: what one long launch
    says (`kdedge.latency.sustained`). `observed`: what the device told of itself meanwhile (`kdedge.latency.observed`). `lost`: it failed because
    the device was lost.
    """

    status: Status
    reason: str
    figures: dict[str, Estimate] = field(default_factory=dict)
    device_figures: dict[str, Estimate] = field(default_factory=dict)
    load_ms: Estimate | None = None
    first_inference_ms: Estimate | None = None
    peak_memory_mb: float | None = None
    samples: tuple[Path, ...] = ()
    launches: int = 0
    notes: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    energy: dict[str, Estimate] = field(default_factory=dict)
    energy_reason: str = ""
    sustained: dict[str, float] = field(default_factory=dict)
    observed: dict[str, str] = field(default_factory=dict)
    lost: bool = False

    @property
    def is_invalid(self) -> bool:
        """Whether all launches ran and none counts, or the device was lost: no failure of the artifact, and no latency either."""
        return self.status == "failed" and (self.lost or (bool(self.invalid) and all(self.invalid)))


@dataclass(frozen=True)
class Cell:
    """One artifact on one device. `proxy`: the device is outside the artifact's target: its fidelity counts, its latency never."""

    artifact: Artifact
    device: str
    status: Status
    reason: str
    fidelity: Fidelity
    latency: Latency
    proxy: bool = False

    @property
    def audit(self) -> Audit | None:
        """What ran as it was asked; without any time where the device is a proxy."""
        found = self.fidelity.audit
        if found is None or not self.proxy:
            return found
        return replace(found, rows=tuple(replace(row, milliseconds=None) for row in found.rows), conversion_ms=None)


@dataclass(frozen=True)
class DeviceIdentity:
    """What a measurement is keyed by. `machines`: the kinds that this device is, as in `Target.machines` (e.g. x86_64, cuda);
    `fingerprint`: facts that must be equal for two measurements to be comparable (model, OS, runtime versions, cores).

    `away`: of a device that could not be reached when the run began, how it is (`lost`, `gone`, `does not answer`), and `reason` why; "" where it
    is there. Nothing else is known of such a device, and nothing is measured on it.
    """

    name: str
    kind: str
    machines: tuple[str, ...]
    fingerprint: dict[str, str]
    away: str = ""
    reason: str = ""
