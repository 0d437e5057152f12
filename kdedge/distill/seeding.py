"""Randomness as a pure function of (seed, purpose, place), so that a resumed run needs no recorded state of any generator."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose: 32 bits of the SHA-256 of the seed and the purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch. Cheap (microseconds on a CPU), so that every training step can afford it."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@contextmanager
def reproducible() -> Iterator[None]:
    """Ask torch for deterministic kernels inside the block (a kernel that has none warns), and leave the process as it was after it."""
    enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    states = random.getstate(), np.random.get_state()
    # cuBLAS is deterministic only with a fixed workspace, which it reads when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Only the CPU's generator is put back: reading a GPU's would start a context on every GPU of the machine.
    with torch.random.fork_rng(devices=[]):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
            # Filling every new tensor with NaN finds reads of memory that nobody wrote; it costs time in each step and changes no result.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            random.setstate(states[0])
            np.random.set_state(states[1])
