"""Warm-up and timed runs, cut by the rule of a launch out of one row of times that a program gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdedge.runtimes.job import LaunchRule
from kdedge.runtimes.launch import SAMPLES_FILE, WARMUP_FILE


def warm(samples: npt.NDArray[np.int64], rule: LaunchRule) -> int:
    """How many runs at the beginning are warm-up, samples in ns: until both of the rule's minima are met or its limit is over; never all of them."""
    elapsed = np.concatenate([[0], np.cumsum(samples)])
    minima = max(int(np.searchsorted(elapsed, rule.warmup_seconds * 1e9)), rule.warmup_iterations)
    limit = int(np.searchsorted(elapsed, rule.max_seconds * 1e9))
    return min(minima, limit, len(samples) - 1)


def enough(samples: npt.NDArray[np.int64], rule: LaunchRule) -> bool:
    """Whether timed samples (ns) meet the rule, or its limit of time is over."""
    seconds = float(samples.sum()) / 1e9
    return seconds >= rule.max_seconds or (len(samples) >= rule.min_iterations and seconds >= rule.min_seconds)


def runs(rule: LaunchRule, mean: float) -> int:
    """How many runs the rule needs, by a run's mean in seconds (0: not known yet); each phase ends at its limit of time."""
    if mean <= 0:
        return rule.warmup_iterations + rule.min_iterations
    most = max(1, math.ceil(rule.max_seconds / mean))
    warmup = max(rule.warmup_iterations, math.ceil(rule.warmup_seconds / mean))
    timed = max(rule.min_iterations, math.ceil(rule.min_seconds / mean))
    return min(warmup, most) + min(timed, most)


def save_samples(folder: Path, warmup: npt.NDArray[np.int64], timed: npt.NDArray[np.int64]) -> None:
    """Write the files of a launch, as the worker does."""
    np.save(folder / WARMUP_FILE, warmup.astype(np.int64))
    np.save(folder / SAMPLES_FILE, timed.astype(np.int64))
