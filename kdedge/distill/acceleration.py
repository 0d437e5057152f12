"""Hugging Face Accelerate: which device, how many processes, which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdedge.errors import MissingExtra

try:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
except ModuleNotFoundError as missing:
    raise MissingExtra(missing.name or "accelerate", "train", "training") from missing


@contextmanager
def accelerated(precision: str) -> Iterator[Accelerator]:
    """An `Accelerator` for one training run in `fp32` or `bf16`; the process group is that of `torchrun` or `accelerate launch`, if any.

    Accelerate keeps one precision a process. A teacher and a student may be trained in different ones, and the caller may use Accelerate for
    something else, so what stood there before is put back at the end.
    """
    before = dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()
    try:
        yield Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(before)
