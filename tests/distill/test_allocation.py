"""Memory that a training step frees serves the next step; the system gets it back at the end."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")

PAGES_OF_A_STEP = 4096
STEPS = 50

# In a process of its own: what malloc does depends on all that was freed before. Steps of three blocks of about 5 MiB, 16 MiB in all.
PROGRAM = f"""
import contextlib, resource, sys
import numpy as np
from kdedge.distill.allocation import freed_memory_kept

def step():
    blocks = [np.empty({PAGES_OF_A_STEP} * 4096 // 3, np.uint8) for _ in range(3)]
    for block in blocks:
        block.fill(1)

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

step()
begun = resident()
with freed_memory_kept():
    with freed_memory_kept() if sys.argv[1] == "nested" else contextlib.nullcontext():
        step()
    inside, held = faults({STEPS}), resident() - begun
print(inside, held, resident() - begun, faults({STEPS}))
"""


def measured(how: str, **environment: str) -> list[int]:
    root = Path(__file__).parents[2]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))} | environment
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=root, env=given, capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


@pytest.mark.parametrize("how", ["once", "nested"])
def test_a_step_takes_no_page_from_the_system_but_the_first(how: str) -> None:
    inside, held, *_ = measured(how)
    assert inside < PAGES_OF_A_STEP
    assert held > PAGES_OF_A_STEP // 2


def test_what_was_kept_is_handed_back_at_the_end() -> None:
    _, held, left, _ = measured("once")
    assert left < held / 4


def test_without_it_each_step_takes_its_pages_anew() -> None:
    """What the other tests rest on; a user's own settings for malloc stay, so here nothing is kept inside either."""
    inside, held, _, _ = measured("once", MALLOC_TRIM_THRESHOLD_="131072")
    assert inside > STEPS * PAGES_OF_A_STEP / 4
    assert held < PAGES_OF_A_STEP / 4
