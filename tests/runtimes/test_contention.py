"""Who else used the processors while a loop ran: what is read, and that a core that was really shared is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runtime import fake_session

from kdedge.latency.validity import drops_pair
from kdedge.runtimes import contention, launch
from kdedge.runtimes.job import Job, LaunchRule, Result
from kdedge.runtimes.reach import here, in_folder

# constructed after proc(5): user nice system idle iowait irq softirq steal guest guest_nice
STAT = """cpu  1110 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 4000 500 6 7 80 90 9
cpu1 200 0 0 9000 0 0 0 0 0 0
cpu2 0 0 0 0 0 0 0 0 0 0
intr 5 4 3
"""


def files(root: Path, contents: dict[str, str]) -> None:
    for path, text in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_what_all_processes_used_of_the_allowed_cores_leaves_idle_disk_and_stolen_time_out() -> None:
    assert contention.busy_ms(STAT, [0], 100) == 1630.0  # 100 + 20 + 30 + 6 + 7 ticks of 10 ms
    assert contention.busy_ms(STAT, [0, 1], 1000) == 363.0
    for cores in ([], [0, 7], [2]):  # not there, or made up of zeros
        assert contention.busy_ms(STAT, cores, 100) is None
    assert contention.busy_ms("", [0], 100) is None


def test_each_thread_tells_how_long_it_ran_and_waited_and_where(tmp_path: Path) -> None:
    fields = " ".join(str(number) for number in range(3, 53))  # each field holds its own number
    odd_name = f"12 (a) b ({'9 ' * 3}) {fields}"
    files(
        tmp_path,
        {
            "proc/self/task/12/schedstat": "5000 700 3\n",
            "proc/self/task/12/stat": odd_name,
            "proc/self/task/13/schedstat": "1 2 3\n",
            "proc/self/task/14/schedstat": "",
        },
    )
    assert contention.threads(in_folder(str(tmp_path))) == {"12": {"ran_ns": 5000, "waited_ns": 700, "core": 39}, "13": {"ran_ns": 1, "waited_ns": 2}}


def test_migrations_and_pressure_are_read_where_they_are() -> None:
    assert contention.migrations("cat (1, #threads: 1)\n---\nse.nr_migrations        :          17\nnr_switches : 4\n") == 17
    assert contention.migrations("nr_switches : 4") is None
    assert contention.pressure_us("some avg10=0.00 avg60=0.10 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99") == 1234
    assert contention.pressure_us("") is None


@pytest.mark.parametrize(
    ("capacities", "expected"),
    [
        ({0: 1024, 1: 1024}, {"0": "capacity 1024", "1": "capacity 1024"}),
        # constructed: an eight-core phone chip with one prime, one middle and one small core of each
        ({0: 250, 4: 790, 7: 1024}, {"0": "capacity 250", "4": "capacity 790", "7": "capacity 1024"}),
        ({0: 1024, 1: 985, 2: 930, 3: 915}, {"0": "capacity 1024", "1": "capacity 1024", "2": "capacity 1024", "3": "capacity 915"}),
    ],
)
def test_kinds_of_cores_are_told_by_capacity_within_a_tenth(capacities: dict[int, int], expected: dict[str, str], tmp_path: Path) -> None:
    files(tmp_path, {f"sys/devices/system/cpu/cpu{core}/cpu_capacity": f"{value}\n" for core, value in capacities.items()})
    assert contention.core_kinds(in_folder(str(tmp_path))) == expected


def test_a_hybrid_processor_without_capacities_names_its_kinds(tmp_path: Path) -> None:
    files(tmp_path, {"sys/devices/cpu_core/cpus": "0-1,4\n", "sys/devices/cpu_atom/cpus": "5\n"})
    assert contention.core_kinds(in_folder(str(tmp_path))) == {"0": "cpu_core", "1": "cpu_core", "4": "cpu_core", "5": "cpu_atom"}
    for text in ("", "a", "0-1,x", "0-b"):
        assert contention.core_list(text) == []


def test_a_machine_that_hides_everything_leaves_only_what_the_process_knows_of_itself(tmp_path: Path) -> None:
    bare = in_folder(str(tmp_path))
    assert set(contention.moment(bare)) == {"own_ms", "switches"}
    assert contention.core_kinds(bare) == {}
    loop = contention.loop(contention.moment(bare), contention.moment(bare), 5_000_000, bare)
    assert (loop["seconds"], "core_kinds" in loop) == (0.005, False)


def test_kinds_are_kept_only_where_cores_differ(tmp_path: Path) -> None:
    for folder, second, kept in (("alike", 1000, False), ("unlike", 400, True)):
        root = tmp_path / folder
        files(root, {"sys/devices/system/cpu/cpu0/cpu_capacity": "1024", "sys/devices/system/cpu/cpu1/cpu_capacity": str(second)})
        assert ("core_kinds" in contention.loop({}, {}, 1, in_folder(str(root)))) == kept


def test_a_moment_is_json_and_its_counters_only_grow() -> None:
    first = contention.moment(here())
    last = contention.moment(here())
    assert json.loads(json.dumps(first)) == first
    assert last["own_ms"] >= first["own_ms"]
    for name, thread in first.get("threads", {}).items():
        assert last["threads"][name]["waited_ns"] >= thread["waited_ns"]


@contextmanager
def competitor(core: int) -> Iterator[None]:
    """A process that never rests on this core."""
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint('ready', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This thread on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_loop_whose_core_another_process_wanted_too_drops_its_pair(tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity") or not os.access("/proc/self/schedstat", os.R_OK):
        pytest.skip("needs a Linux that pins processes to cores and counts how long a thread waits for one (/proc/self/schedstat)")
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    core = min(os.sched_getaffinity(0))
    with competitor(core), pinned(core):
        result = launched(tmp_path)
    assert "shared" in drops_pair(result)
    loop = result.facts["loop"]
    assert loop["cores"] == 1
    # All that waited and all that ran lies within the loop; what the two moments themselves take is a small part of it.
    (grown,) = [
        (thread["ran_ns"] - loop["before"]["threads"][name]["ran_ns"], thread["waited_ns"] - loop["before"]["threads"][name]["waited_ns"])
        for name, thread in loop["after"]["threads"].items()
        if name == str(os.getpid())
    ]
    assert sum(grown) / 1e9 > 0.5 * loop["seconds"]


def launched(folder: Path) -> Result:
    """A launch of an iteration that computes for about a millisecond, for two seconds."""
    session: Any = fake_session()
    answer = session.run

    def run(inputs: Any) -> Any:
        end = time.thread_time_ns() + 1_000_000
        while time.thread_time_ns() < end:
            pass
        return answer(inputs)

    session.run = run
    rule = LaunchRule(0.0, 2, 2.0, 64, 30.0)
    return launch.run(Job("launch", "fake", {"main": ["m"]}, {}, [{"image": "x.npy"}], batch=1, launch=rule), str(folder), session)
