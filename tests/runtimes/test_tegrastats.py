from __future__ import annotations

from typing import Any

import pytest
from device_recordings import parts
from hypothesis import given
from hypothesis import strategies as st

from kdedge.runtimes.tegrastats import parse_line

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
