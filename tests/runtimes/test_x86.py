from __future__ import annotations

from pathlib import Path

import pytest
from device_recordings import laid_out

from kdedge.runtimes import evidence, linux, x86
from kdedge.runtimes.reach import in_folder


def test_governor_clock_turbo_and_throttle_count(tmp_path: Path) -> None:
    desktop = laid_out("constructed_x86_desktop", tmp_path)
    assert linux.governors(desktop) == ["powersave"]
    assert linux.cpu_khz(desktop) == {"cpu0": 3_400_000}
    assert linux.throttle_events(desktop) == 5
    assert evidence.machine_facts(desktop) == {"turbo": True}


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("intel_pstate/no_turbo", "1", False),
        ("intel_pstate/no_turbo", "0", True),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
        ("cpufreq/boost", "perhaps", None),
        ("other", "1", None),
    ],
)
def test_turbo_is_told_the_other_way_round_by_intel(path: str, text: str, expected: bool | None, tmp_path: Path) -> None:
    file = tmp_path / "sys/devices/system/cpu" / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert x86.turbo(in_folder(str(tmp_path))) is expected


def test_only_whole_packages_count_their_energy(tmp_path: Path) -> None:
    counters = x86.packages(laid_out("constructed_x86_desktop", tmp_path))
    assert [(counter.name, counter.range_uj) for counter in counters] == [("package-0", 262_143_328_850)]


def test_a_counter_that_only_root_may_read_is_not_there(tmp_path: Path) -> None:
    desktop = laid_out("constructed_x86_desktop", tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert x86.packages(desktop) == []
