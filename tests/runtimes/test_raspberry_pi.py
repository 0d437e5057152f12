from __future__ import annotations

from pathlib import Path

import pytest
from device_recordings import laid_out, parts

from kdedge.runtimes import evidence
from kdedge.runtimes import raspberry_pi as pi

BOARD = parts("constructed_raspberry_pi_5")


def test_the_bits_of_get_throttled() -> None:
    assert pi.parse_throttled("throttled=0x50005") == 0x50005
    assert pi.parse_throttled("VCHI initialization failed") is None
    assert pi.now(0x50005) == ["under-voltage", "throttled"]
    assert pi.since_start(0xE0000) == ["frequency capped", "throttled", "soft temperature limit"]
    assert (pi.now(0x50000), pi.since_start(0x5)) == ([], [])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0x0, 0x0, []),
        (0x0, 0x10000, ["under-voltage"]),  # it came and went meanwhile
        (0x0, 0x80008, ["soft temperature limit"]),
        (0x50000, 0x50000, []),  # it had happened before: nothing new can be told
        (0x50000, 0xD0000, ["soft temperature limit"]),
        (0x50005, 0x50000, ["under-voltage", "throttled"]),  # it still went on at the start
    ],
)
def test_what_happened_between_two_readings(before: int, after: int, expected: list[str]) -> None:
    assert pi.happened(before, after) == expected


def test_bits_that_were_set_hide_what_happens_again() -> None:
    assert pi.masked(0x50000) == ["under-voltage", "throttled"]
    assert pi.masked(0x5) == []


@pytest.mark.parametrize(
    "text",
    [
        BOARD["run vcgencmd pmic_read_adc"],
        "3V3_SYS_A current(2)=0.5A\n3V3_SYS_V volt(3)=3.3V\nVDD_CORE_A current(4)=2A\nVDD_CORE_V volt(5)=0.8V\nEXT5V_V volt(24)=5.1V",
        "3V3_SYS_A=0.5\n3V3_SYS_V=3.3\nVDD_CORE_A: 2.0A\nVDD_CORE_V: 0.8V\nEXT5V_V: 5.1V",
    ],
)
def test_the_pmics_rails_are_joined_by_their_names(text: str) -> None:
    found = pi.parse_pmic(text)
    assert found["rails_mw"] == pytest.approx({"3V3_SYS": 1650.0, "VDD_CORE": 1600.0})
    assert found["sum_mw"] == pytest.approx(3250.0)
    assert found["volts"] == {"EXT5V": 5.1}
    assert "unknown" not in found
    assert pi.fitted_milliwatts(3250.0) == pytest.approx(1.1451 * 3250 + 587.9)


def test_what_is_no_rail_is_kept() -> None:
    assert pi.parse_pmic("error=1 error_msg=Command not registered") == {"unknown": ["error=1 error_msg=Command not registered"]}


def test_a_snapshot_holds_the_bits(tmp_path: Path) -> None:
    board = laid_out("constructed_raspberry_pi_5", tmp_path)
    assert evidence.kinds(board) == ["raspberry-pi"]
    assert evidence.machine(board)["pi_throttled"] == 0x50000
    assert evidence.machine_facts(board) == {"module": "Raspberry Pi 5 Model B Rev 1.0"}
