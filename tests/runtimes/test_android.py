from __future__ import annotations

from pathlib import Path

from device_recordings import laid_out, parts
from hypothesis import given
from hypothesis import strategies as st

from kdedge.runtimes import android, evidence, linux

PHONE = parts("constructed_android_phone")


def test_big_and_little_cores_by_their_capacity(tmp_path: Path) -> None:
    found = android.clusters(android.capacities(laid_out("iree_pixel6_cpu_capacity", tmp_path)))
    assert found == [
        {"cores": [0, 1], "strength": 1024, "mask": "3"},
        {"cores": [2, 3], "strength": 820, "mask": "c"},
        {"cores": [4, 5, 6, 7], "strength": 280, "mask": "f0"},
    ]


def test_where_the_kernel_tells_no_capacity_the_highest_clock_decides(tmp_path: Path) -> None:
    for core, khz in enumerate((1_800_000, 2_400_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
    phone = laid_out("constructed_raspberry_pi_5", tmp_path)  # adds nothing of a core
    assert [cluster["cores"] for cluster in android.clusters(android.capacities(phone))] == [[1], [0]]


def test_what_the_hardware_says_comes_before_what_is_cached() -> None:
    found = android.parse_thermal(PHONE["run dumpsys thermalservice"])
    assert (found["thermal_status"], found["thermal_status_name"]) == (1, "light")
    assert found["temperatures_c"] == {"BIG": 61.0, "VIRTUAL-SKIN": 39.5}  # a share (type 8) is no temperature
    assert found["throttling"] == {"VIRTUAL-SKIN": 1}
    assert found["unknown"] == ["Temperature{mValue=warm, mType=0, mName=NEW, mStatus=0}"]


def test_without_the_hardwares_word_the_cached_readings_count() -> None:
    text = PHONE["run dumpsys thermalservice"].partition("Current temperatures")[0]
    assert android.parse_thermal(text)["temperatures_c"] == {"BIG": 44.0, "VIRTUAL-SKIN": 38.5}


def test_the_battery_in_plain_units() -> None:
    found = android.parse_battery(PHONE["run dumpsys battery"])
    assert found["powered_by"] == ["USB"]
    assert (found["battery_percent"], found["battery_c"], found["battery_millivolts"], found["charge_uah"]) == (81.0, 29.5, 4260, 3_406_000)
    assert found["charging"] == "charging"
    assert found["unknown"] == ["Max charging current: 500000", "health: 2", "present: true", "technology: Li-ion"]
    assert android.parse_battery("error: closed") == {}


def test_residency_is_the_share_of_the_time_between_two_readings() -> None:
    before, after = linux.parse_time_in_state("500000 100\n2850000 10\nnonsense\n"), linux.parse_time_in_state("500000 120\n2850000 90\n1000000 0\n")
    assert linux.residency(before, after) == {"500000": 0.2, "2850000": 0.8}
    assert linux.residency(after, after) == {}


def test_a_phones_snapshot_has_its_status_its_heat_and_its_battery(tmp_path: Path) -> None:
    phone = laid_out("constructed_android_phone", tmp_path)
    found = evidence.machine(phone)
    assert (found["thermal_status"], found["temperatures_c"]["BIG"], found["battery_percent"]) == (1, 61.0, 81.0)
    assert found["ticks_by_khz"] == {"policy7": {"500000": 9000, "2850000": 100}}
    assert [cluster["mask"] for cluster in evidence.machine_facts(phone)["clusters"]] == ["80", "70", "f"]


@given(st.text(alphabet="Temperature{}mValueTypeNameStatus=,:0123456789. \n\t-", max_size=200))
def test_no_dump_is_fatal(text: str) -> None:
    android.parse_thermal(text)
    android.parse_thermal("Thermal Status: 99\n" + text)
    android.parse_battery(text)
