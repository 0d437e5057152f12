"""Evidence is what can be read; what cannot is absent, and nothing fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdedge.runtimes import evidence
from kdedge.runtimes.memory import peak_memory_bytes
from kdedge.runtimes.reach import in_folder


def test_a_snapshot_is_json_and_names_what_this_machine_shows() -> None:
    found = evidence.snapshot()
    assert json.loads(json.dumps(found)) == found
    assert len(found["load_average"]) == 3
    assert found["affinity"] == sorted(os.sched_getaffinity(0))


def test_a_machine_that_shows_nothing_gives_no_evidence_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(*arguments: Any, **named: Any) -> Any:
        raise PermissionError(13, "hidden")

    monkeypatch.setattr("builtins.open", hidden)
    monkeypatch.setattr("glob.glob", lambda pattern: ["/sys/devices/system/cpu/cpu0/hidden"])
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "getloadavg", hidden)
    assert set(evidence.snapshot()) <= {"context_switches", "page_faults"}


def test_the_environment_that_changes_speed_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    environment = evidence.conditions()["environment"]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "SECRET_TOKEN" not in environment


def test_peak_memory_is_a_peak() -> None:
    before = peak_memory_bytes()
    assert before is not None
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    held = peak_memory_bytes()
    del block
    after = peak_memory_bytes()
    assert held is not None
    assert after is not None
    # Linux counts resident pages on each processor and adds them up lazily, so two readings may differ by some of them.
    slack = 1 << 20
    assert held >= before - slack
    assert after >= held - slack


def test_a_bare_machine_has_no_sensors_and_no_error(tmp_path: Path) -> None:
    bare = in_folder(str(tmp_path))
    assert evidence.machine(bare) == {}
    assert evidence.machine_facts(bare) == {}
    assert evidence.kinds(bare) == []
