"""Two runs at once on one workspace share the work and say the same."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import whole_runs

# A stage as a line on standard error: its name, and whether it was read from the cache or how long it took.
STAGE = re.compile(r"(\w+\.\w+(?: \S+)*?)\s+(cached|[\d.]+ s)")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_once_make_each_stage_once_and_say_the_same(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    running = [whole_runs.start(workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    (first, first_said), (second, second_said) = [whole_runs.ended(process) for process in running]
    assert first == second

    reported = [Counter(), Counter()]  # type: list[Counter[str]]
    made: Counter[str] = Counter()
    for counts, said in zip(reported, (first_said, second_said), strict=True):
        for line in said.splitlines():
            if found := STAGE.fullmatch(line):
                counts[found[1]] += 1
                made[found[1]] += found[2] != "cached"
    assert reported[0] == reported[1] == Counter(dict.fromkeys(made, 1))
    assert made == Counter(dict.fromkeys(made, 1))
    assert sum(made.values()) == len(list((workspace / "stages").iterdir()))
    assert whole_runs.leftovers(workspace) == []
