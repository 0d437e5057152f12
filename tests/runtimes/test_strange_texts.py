"""Whatever a board or a phone prints, a reader makes plain JSON of it and raises nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdedge.runtimes import android, evidence, jetson, linux, raspberry_pi, tegrastats
from kdedge.runtimes.reach import Reach

LONG = "9" * 5000  # more digits than Python turns into a number
PIECES = [
    *(
        "CPU@",
        "1.2.3",
        "C",
        ".",
        "-",
        "\t",
        "\n",
        " ",
        "²",
        "٣",
        LONG,
        "NaN",
        "inf",
        "1e999",
        ",",
        "[",
        "]",
        "%",
        "@",
        "GR3D_FREQ ",
        "RAM ",
        "/",
        "MB",
    ),
    *("CPU [", "VDD_IN ", "mW/", "3V3_A current(1)=", "3V3_V volt(2)=", "throttled=0x", "ffff", "cpu ", "level: ", "scale: ", "temperature: "),
    *("Temperature{mValue=", ", mType=3, mName=CPU, mStatus=", "}", "Current temperatures from HAL:", "Thermal Status: ", "NV Power Mode: "),
]
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
PARSERS: list[Callable[[str], Any]] = [
    *(tegrastats.parse_line, raspberry_pi.parse_throttled, raspberry_pi.parse_pmic, android.parse_thermal, android.parse_battery),
    *(linux.parse_time_in_state, jetson.parse_release, jetson.parse_nvpmodel),
]


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: f"{parse.__module__.rpartition('.')[2]}-{parse.__name__}")
@given(TEXTS)
@example("CPU@1.2.3C")
@example("RAM\t1/2MB\nnext line")
@example("GR3D_FREQ 5%@[,]")
@example(f"RAM {LONG}/1MB")
@example("3V3_A current(1)=1.2.3A")
@example(f"throttled=0x{LONG}")
@example("Temperature{mValue=NaN, mType=3, mName=CPU, mStatus=0}")
@example(f"scale: {LONG}\nlevel: {LONG}")
@example("²  ²")
@settings(deadline=None)
def test_no_text_is_fatal_to_a_parser(parse: Callable[[str], Any], text: str) -> None:
    json.dumps(parse(text), allow_nan=False)


@given(TEXTS)
@example("cpu  1 2 3 4 5 6 7 eight")
@example("²")
@example(LONG[:400])
@settings(deadline=None)
def test_no_machine_is_fatal_to_a_snapshot(text: str) -> None:
    def matching(pattern: str) -> list[str]:
        return [pattern.replace("[0-9]*", "0").replace("*", "0")]

    def run(argv: Sequence[str]) -> str:
        return text

    machine = Reach(lambda path: text, matching, run)
    json.dumps([evidence.machine(machine), evidence.machine_facts(machine)], allow_nan=False)


def test_a_tab_or_a_line_break_ends_a_word_of_tegrastats() -> None:
    assert tegrastats.parse_line("RAM 1/2MB\tNEW\nCPU@45.5C") == {
        "ram_used_mb": 1,
        "ram_total_mb": 2,
        "temperatures_c": {"CPU": 45.5},
        "unknown": ["NEW"],
    }
