from __future__ import annotations

from pathlib import Path

import pytest
from device_recordings import laid_out

from kdedge.runtimes import evidence, jetson, linux
from kdedge.runtimes.reach import in_folder


def test_an_orin_tells_its_module_release_and_power_mode(tmp_path: Path) -> None:
    orin = laid_out("constructed_jetson_orin_nano", tmp_path)
    assert jetson.is_jetson(orin)
    assert jetson.facts(orin) == {
        "module": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "36.4.3",
        "power_mode": "MAXN_SUPER",
        "power_mode_id": 2,
    }


def test_what_nvpmodel_says_besides_is_kept() -> None:
    assert jetson.parse_nvpmodel("NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n0\n") == {
        "power_mode": "15W",
        "power_mode_id": 0,
        "unknown": ["NVPM WARN: fan mode is not set!"],
    }
    assert jetson.parse_release("R nothing") == {}


def test_a_part_that_is_off_has_no_temperature(tmp_path: Path) -> None:
    orin = laid_out("constructed_jetson_orin_nano", tmp_path)
    assert linux.temperatures(orin) == {"thermal_zone0:cpu-thermal": 51.25, "thermal_zone1:gpu-thermal": 52.031}


def test_the_gpu_is_told_from_the_video_engines(tmp_path: Path) -> None:
    clocks = jetson.gpu_clocks(laid_out("constructed_jetson_orin_nano", tmp_path))
    assert clocks == {
        "17000000.gpu": {"current_hz": 1_020_000_000, "minimum_hz": 306_000_000, "maximum_hz": 1_020_000_000, "governor": "nvhost_podgov"}
    }


def test_rails_are_read_without_the_sum_of_shunts_and_what_is_not_connected(tmp_path: Path) -> None:
    orin = laid_out("constructed_jetson_orin_nano", tmp_path)
    rails = jetson.rails(orin)
    assert [(rail.label, rail.averaging) for rail in rails] == [
        ("VDD_IN", {"update_interval": 10, "samples": 1}),
        ("VDD_CPU_GPU_CV", {"update_interval": 10, "samples": 1}),
    ]
    assert [jetson.milliwatts(orin, rail) for rail in rails] == [6000.0, 1248.0]  # 5 V x 1.2 A, 4.992 V x 0.25 A


def test_thor_has_other_clocks_and_a_chip_that_tells_its_power(tmp_path: Path) -> None:
    thor = laid_out("constructed_jetson_thor", tmp_path)
    assert {name: clock["current_hz"] for name, clock in jetson.gpu_clocks(thor).items()} == {
        "gpu-gpc-0": 1_575_000_000,
        "gpu-nvd-0": 1_692_000_000,
    }
    rails = {rail.label: jetson.milliwatts(thor, rail) for rail in jetson.rails(thor)}
    assert rails == {"VDD_GPU": 6000.0, "VIN": 24060.0}  # power1_input is in microwatts
    assert jetson.facts(thor)["unknown"] == ["NVPM WARN: fan mode is not set!"]


def test_over_current_counters_come_with_whether_they_throttle(tmp_path: Path) -> None:
    orin = laid_out("constructed_jetson_orin_nano", tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon2/oc1_throt_en").write_text("0\n")
    assert jetson.over_current(orin) == {
        "oc1": {"events": 0, "throttles": False},
        "oc2": {"events": 0, "throttles": True},
        "oc3": {"events": 41, "throttles": True},
    }


def test_a_snapshot_holds_what_a_jetson_has(tmp_path: Path) -> None:
    found = evidence.machine(laid_out("constructed_jetson_orin_nano", tmp_path))
    assert found["gpu_hz"] == {"17000000.gpu": 1_020_000_000}
    assert found["over_current"]["oc3"]["events"] == 41
    assert found["cpu_khz"] == {"cpu0": 1_728_000, "cpu1": 729_600}
    assert found["ticks_by_khz"] == {"policy0": {"729600": 1500, "1728000": 500}}
    assert found["memory_available_bytes"] == 5_000_000 * 1024


@pytest.mark.parametrize("text", ["", "garbage", "-1", "\0\0"])
def test_garbage_in_any_file_is_absent_and_never_fatal(text: str, tmp_path: Path) -> None:
    laid_out("constructed_jetson_orin_nano", tmp_path)
    orin = in_folder(str(tmp_path))
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        kept = path.read_bytes()
        path.write_text(text)
        evidence.machine(orin)
        evidence.machine_facts(orin)
        jetson.rails(orin)
        path.write_bytes(kept)


def test_a_machine_that_is_no_jetson_has_nothing_of_one(tmp_path: Path) -> None:
    desktop = laid_out("constructed_x86_desktop", tmp_path)
    assert not jetson.is_jetson(desktop)
    assert (jetson.state(desktop), jetson.facts(desktop), jetson.rails(desktop)) == ({}, {}, [])
