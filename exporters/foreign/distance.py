"""How far a quantized file is from the file that it came from: both run in ONNX Runtime on examples that calibration has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.errors import ExportError
from kdedge.estimate import Estimate
from kdedge.exporters.equivalence import quiet_options, session_of
from kdedge.exporters.foreign.inputs import Feed
from kdedge.fidelity.divergence import decibels, kl_divergence
from kdedge.intervals import function_of_means, mean_estimate, proportion
from kdedge.runtimes.onnxruntime import said_by

Array = npt.NDArray[Any]

#: Rows whose sums are this near to 1 hold probabilities.
SUM_OF_PROBABILITIES = 1e-3


@dataclass(frozen=True)
class OutputDistance:
    """One output. `sqnr`: total power of the original's values to that of the error, dB. `agreement`: share of rows with the same largest entry,
    `kl`: KL(original || quantized) of a row in nats; both for distributions along the last axis, and for logits [N, C]. `equal`: share of equal
    elements, for outputs of whole numbers or booleans. None where it does not apply. `reshaped`: calls on which a size of it, which depends on values
    (how many objects are found), was another than the original's; nothing is measured of it then."""

    name: str
    shape: tuple[int, ...]
    sqnr: Estimate | None = None
    agreement: Estimate | None = None
    kl: Estimate | None = None
    equal: Estimate | None = None
    reshaped: int = 0

    @property
    def figures(self) -> dict[str, Estimate]:
        """What was measured, by name."""
        every = {"sqnr": self.sqnr, "agreement": self.agreement, "kl": self.kl, "equal": self.equal}
        return {name: one for name, one in every.items() if one is not None}


class Runner:
    """An ONNX file in ONNX Runtime on the CPU, one thread. `as_written`: without the runtime's own rewrites of Q/DQ, so that a file that was written
    for other kernels gives what its Q/DQ mean.

    Raises:
        ExportError: the file cannot be opened or run.
    """

    def __init__(self, path: Path, as_written: bool = False) -> None:
        self.title = path.name
        try:
            self.session = session_of(path, lambda: quiet_options(as_written))
        except Exception as error:  # ONNX Runtime's classes all come straight from Exception
            raise ExportError(f"`{self.title}` cannot be opened by ONNX Runtime: {said_by(error)}") from error
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, feed: Feed) -> dict[str, Array]:
        """The outputs of one call, by name."""
        try:
            return dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))
        except Exception as error:  # as above
            raise ExportError(f"`{self.title}` fails on an example: {said_by(error)}") from error


def measure(original: Path, quantized: Path, feeds: Iterable[Feed], as_written: bool) -> tuple[OutputDistance, ...]:
    """The distance of each output of `quantized` from the original's, over some calls.

    Raises:
        ExportError: a file does not run, or an output has another number of axes than the original's, or is not finite where that is.
    """
    want_of, got_of = Runner(original), Runner(quantized, as_written)
    gathered = {name: Gathered(name) for name in want_of.outputs}
    for feed in feeds:
        wanted, found = want_of(feed), got_of(feed)
        for name, one in gathered.items():
            one.add(wanted[name], found[name])
    return tuple(one.finish() for one in gathered.values())


@dataclass
class Gathered:
    """One output of two models, call after call: `add` what both gave, then `finish`."""

    name: str
    shape: tuple[int, ...] = ()
    powers: list[tuple[float, float]] = field(default_factory=list)
    divergences: list[Array] = field(default_factory=list)
    same: int = 0
    elements: int = 0
    equal: int = 0
    reshaped: int = 0
    numbers: bool = True

    def add(self, want: Any, got: Any) -> None:
        """Take one call's output of the original and of the other.

        Raises:
            ExportError: it has another number of axes than the original's, or is not finite where that is.
        """
        if not isinstance(want, np.ndarray) or want.dtype.kind not in "fiub":
            self.numbers = False  # a sequence, a map, strings: of the runtime's own operators
            return
        if got.ndim != want.ndim:
            raise ExportError(f"output `{self.name}` has the shape {list(got.shape)}, that of the original is {list(want.shape)}")
        self.shape = want.shape
        if got.shape != want.shape:
            self.reshaped += 1
            return
        if want.dtype.kind != "f":
            self.elements += want.size
            self.equal += int((want == got).sum())
            return
        a, b = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            raise ExportError(f"output `{self.name}` is not finite on an example where the original's is")
        self.powers.append((float((a[finite] ** 2).sum()), float(((a[finite] - b[finite]) ** 2).sum())))
        if rows := _as_logits(a, b):
            self.divergences.append(kl_divergence(*rows))
            self.same += int((rows[0].argmax(axis=1) == rows[1].argmax(axis=1)).sum())

    def finish(self) -> OutputDistance:
        """The distance over all calls."""
        if not self.numbers or self.reshaped:
            return OutputDistance(self.name, self.shape, reshaped=self.reshaped)
        if self.elements:
            return OutputDistance(self.name, self.shape, equal=proportion("equal", self.equal, self.elements))
        sqnr = function_of_means("sqnr", np.asarray(self.powers), decibels, "dB") if self.powers else None
        if not self.divergences or len(self.divergences) != len(self.powers):
            return OutputDistance(self.name, self.shape, sqnr)
        rows = np.concatenate(self.divergences)
        return OutputDistance(self.name, self.shape, sqnr, proportion("agreement", self.same, len(rows)), mean_estimate("kl", rows, "nats"))


def _as_logits(want: Array, got: Array) -> tuple[Array, Array] | None:
    """Rows [n, C] of logits: probabilities along the last axis as their logarithms, an output [N, C] of anything else as it is."""
    if want.ndim < 2 or want.shape[-1] < 2 or want.size == 0 or not np.isfinite(want).all():
        return None
    rows = want.reshape(-1, want.shape[-1]), got.reshape(-1, want.shape[-1])
    if (rows[0] >= 0).all() and np.abs(rows[0].sum(axis=1) - 1).max() <= SUM_OF_PROBABILITIES:
        smallest = np.finfo(np.float32).tiny
        return np.log(np.maximum(rows[0], smallest)), np.log(np.maximum(rows[1], smallest))
    return rows if want.ndim == 2 else None
