from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from device_recordings import parts
from hypothesis import given
from hypothesis import strategies as st

from kdedge.runtimes import evidence, reach
from kdedge.runtimes.reach import Reach, in_folder
from kdedge.runtimes.tegrastats import COMMAND, activity, parse_line

LINES = parts("constructed_tegrastats")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("jetpack4", {"gpu_percent": 10, "gpu_mhz": [921]}),
        ("jetpack5", {"gpu_percent": 7, "gpu_mhz": [114]}),
        ("jetpack6", {"gpu_percent": 42, "gpu_mhz": [1300, 1200]}),
        ("jetpack7", {"gpu_percent": 99}),
        ("thor", {"gpu_mhz": [1000, 1000, 900]}),
    ],
)
def test_the_gpus_load_and_clocks_in_each_shape(release: str, expected: dict[str, Any]) -> None:
    found = parse_line(LINES[release])
    assert {name: found[name] for name in ("gpu_percent", "gpu_mhz") if name in found} == expected


@pytest.mark.parametrize("release", ["jetpack4", "jetpack5", "jetpack6", "jetpack7", "thor"])
def test_every_word_of_a_known_release_is_understood(release: str) -> None:
    assert "unknown" not in parse_line(LINES[release])


def test_a_line_by_hand() -> None:
    found = parse_line(LINES["jetpack5"])
    assert found["time"] == "01-02-2025 10:11:12"
    assert (found["ram_used_mb"], found["ram_total_mb"]) == (3000, 6851)
    assert (found["swap_used_mb"], found["swap_total_mb"], found["swap_cached_mb"]) == (160, 3426, 0)
    assert found["cpus"][:3] == [{"load_percent": 20, "mhz": 1400}, {"load_percent": 10, "mhz": 1190}, None]
    assert (found["emc_percent"], found["emc_mhz"]) == (2, 204)
    assert found["temperatures_c"] == {"AUX": 45.0, "CPU": 46.5, "PMIC": 50.0}  # the GPU's -256 C means off
    assert found["rails_mw"]["VDD_IN"] == {"now": 2700, "average": 2800}


def test_rails_of_each_board_and_none_that_is_not_connected() -> None:
    assert list(parse_line(LINES["jetpack4"])["rails_mw"]) == ["POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"]
    assert list(parse_line(LINES["jetpack6"])["rails_mw"]) == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    assert list(parse_line(LINES["thor"])["rails_mw"]) == ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"]


def test_engines_that_are_off_and_on() -> None:
    assert parse_line(LINES["jetpack6"])["engines"] == {
        "NVENC": {"percent": 79, "mhz": 166},
        "NVDEC": None,
        "NVJPG1": None,
        "VIC": {"percent": 36, "mhz": 115},
        "OFA": None,
        "PVA0_FREQ": None,
        "APE": {"mhz": 174},
    }
    assert parse_line(LINES["thor"])["engines"]["NVDEC1_FREQ"] == {"mhz": 300}


def test_what_a_later_release_adds_is_kept_and_spoils_nothing() -> None:
    found = parse_line(LINES["tomorrow"])
    assert found["unknown"] == ["NEW_UNIT{7}", "QUANTUM", "entangled"]
    assert (found["gpu_percent"], found["rails_mw"]["VDD_IN"]["now"]) == (5, 1)


@given(st.lists(st.sampled_from([*LINES["jetpack6"].split(), *LINES["thor"].split(), "[", "@", "%", "C", "\x00"]), max_size=30))
def test_no_line_is_fatal(words: list[str]) -> None:
    assert isinstance(parse_line(" ".join(words)), dict)


def saying(line: str) -> Reach:
    """A Jetson whose tegrastats says that."""
    files = {"/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3"}

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    def run(argv: Any) -> str:
        if tuple(argv) != COMMAND:
            raise FileNotFoundError(argv[0])
        return line

    return Reach(read, lambda pattern: [], run)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("jetpack6", {"gpu_percent": 42, "emc_percent": 3, "emc_mhz": 2133, "engines": {"NVENC": 79, "VIC": 36}}),
        ("jetpack7", {"gpu_percent": 99, "emc_percent": 15, "emc_mhz": 204}),
        ("thor", {"emc_percent": 1, "emc_mhz": 665}),
    ],
)
def test_a_snapshot_of_a_jetson_has_what_only_tegrastats_tells(release: str, expected: dict[str, Any]) -> None:
    assert evidence.snapshot(saying(LINES[release]))["activity"] == expected
    assert "activity" not in evidence.machine(saying(LINES[release]))  # which is asked between timed iterations, too


def test_where_there_is_no_tegrastats_or_no_jetson_nothing_is_made_up(tmp_path: Path) -> None:
    assert activity(in_folder(str(tmp_path))) == {}
    assert activity(saying("")) == {}
    assert "activity" not in evidence.snapshot(in_folder(str(tmp_path)))


@pytest.mark.parametrize("program", ["while true; do echo 'RAM 1/2MB EMC_FREQ 7%@3199 GR3D_FREQ 5%'; sleep 0.1; done", "exec sleep 600"])
def test_a_program_that_never_ends_is_read_once_and_ended(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tegrastats does: a line an interval, for ever. One that says nothing is not waited for."""
    script = tmp_path / "tegrastats"
    script.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/process\n{program}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert activity(reach.here()) == ({} if "exec" in program else {"emc_percent": 7, "emc_mhz": 3199, "gpu_percent": 5})
    process = Path("/proc", (tmp_path / "process").read_text().strip())
    for _ in range(200):
        if not process.exists() or "Z" in (process / "stat").read_text().rpartition(")")[2]:
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")
