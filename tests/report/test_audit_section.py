"""What the report and the JSON say of what ran: one table, a sentence for integers that are slower, a curve for mixed precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import made_results as made
import pytest

from kdedge.artifact import MixedTrial
from kdedge.measured import Audit, AuditRow, Cell
from kdedge.report import audit as module
from kdedge.report import figures
from kdedge.report.layout import Bullets, Folded, Plot, Section, Table
from kdedge.report.mixed import mixed
from kdedge.report.page import page_of, render
from kdedge.report.result import RunResult

FLOAT = Audit((AuditRow("conv", "Conv", "fp32", "fp32", 1_000_000, "conv"),), {"fp32": 1_000_000}, {"ReorderOutput": 1}, 0.001)
MIXED = Audit(
    rows=(
        AuditRow("conv", "Conv", "int8", "int8", 310_000, "conv_token_1", 0.02),
        AuditRow("wide", "Conv", "int8", "fp32", 690_000, "wide", 0.06, "its output is not quantized"),
        AuditRow("lost", "Gemm", "int8", "", None),
    ),
    macs={"int8": 310_000, "fp32": 690_000},
    conversions={"DequantizeLinear": 10, "QuantizeLinear": 4},
    conversion_ms=0.2,
    findings=("1 of 2 convolutions asked in int8 ran in fp32: its output is not quantized",),
)
TRIALS = (
    MixedTrial((), 0.004, 0.98, 1.0),
    MixedTrial(("stem",), 0.002, 0.99, 1.1),
    MixedTrial(("stem", "a", "b", "c", "d", "e"), 0.0001, 1.0, 1.5, chosen=True),
)


def result(folder: Path, integer_ms: float = 0.2, trials: tuple[MixedTrial, ...] = ()) -> RunResult:
    """A float cell of 0.115 ms, and an integer one of which 31 % ran in integers."""
    plain, quantized = made.artifact(folder, "onnxruntime-x86", "fp32"), made.artifact(folder, "onnxruntime-x86", "int8", trials=trials)
    cells = (made.measured(folder, plain, wrong=(0,), ms=0.115), made.measured(folder, quantized, wrong=(0,), ms=integer_ms))
    audited = with_audit(cells[0], FLOAT), with_audit(cells[1], MIXED)
    return made.whole_result(folder).having(cells=audited, artifacts=(plain, quantized), verdict=None)


def with_audit(cell: Cell, found: Audit | None) -> Cell:
    return replace(cell, fidelity=replace(cell.fidelity, audit=found))


def section(found: Section | None) -> Section:
    assert found is not None
    return found


def test_one_table_explains_integers_that_are_slower_than_floats(tmp_path: Path) -> None:
    blocks = section(module.audit(result(tmp_path))).blocks
    table = next(block for block in blocks if isinstance(block, Table))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["onnxruntime-x86 fp32", "100 % fp32", "0 of 1", "1, 0.001 ms", "0.1150 ms"],
        ["onnxruntime-x86 int8", "69 % fp32, 31 % int8", "1 of 3", "14, 0.2 ms", "0.2000 ms"],
    ]
    said = next(block for block in blocks if isinstance(block, Bullets)).lines
    assert said == (
        "onnxruntime-x86 int8 is slower than onnxruntime-x86 fp32 on local (0.2 ms against 0.115 ms): "
        "31 % of its multiplications ran in integers, and it has 14 conversions, which take 0.2 ms",
        "onnxruntime-x86 int8 on local: 1 of 2 convolutions asked in int8 ran in fp32: its output is not quantized",
    )


def test_integers_that_are_faster_need_no_explanation(tmp_path: Path) -> None:
    assert module.slower(result(tmp_path, integer_ms=0.05).cells) == ()


def test_integers_within_the_noise_of_floats_need_no_explanation(tmp_path: Path) -> None:
    # 0.1160 [0.1137, 0.1195] against 0.1150 [0.1127, 0.1185]
    assert module.slower(result(tmp_path, integer_ms=0.116).cells) == ()


def test_without_intervals_the_values_are_compared_and_the_sentence_says_so(tmp_path: Path) -> None:
    def bare(cell: Cell) -> Cell:
        figures = {"latency_median": replace(cell.latency.figures["latency_median"], low=None, high=None)}
        return replace(cell, latency=replace(cell.latency, figures=figures))

    (said,) = module.slower([bare(cell) for cell in result(tmp_path).cells])
    assert "(0.2 ms against 0.115 ms, without an interval)" in said


def test_no_time_of_a_proxy_is_shown_but_what_ran_there_is(tmp_path: Path) -> None:
    whole = result(tmp_path)
    proxies = whole.having(cells=tuple(replace(cell, proxy=True) for cell in whole.cells))
    blocks = section(module.audit(proxies)).blocks
    assert [row[3].text for block in blocks if isinstance(block, Table) for row in block.rows] == ["1", "14"]
    assert [row[5].text for block in blocks if isinstance(block, Folded) for row in block.table.rows] == ["-", "-", "-"]
    cell = proxies.as_json()["artifacts"][1]
    assert cell["audit"]["conversion_ms"] is None
    assert [row["milliseconds"] for row in cell["audit"]["rows"]] == [None, None, None]
    assert cell["integer_share"] == pytest.approx(0.31)


def test_large_numbers_have_three_digits_at_every_step() -> None:
    assert [figures.count(number) for number in (999, 2_208_064, 999_499, 999_999, 1_000_000)] == ["999", "2.21 M", "999 k", "1 M", "1 M"]


def test_a_proxys_time_explains_nothing(tmp_path: Path) -> None:
    assert module.slower([replace(cell, proxy=True) for cell in result(tmp_path).cells]) == ()


def test_every_node_stands_in_a_folded_table_of_what_was_not_asked_in_float32(tmp_path: Path) -> None:
    (folded,) = [block for block in section(module.audit(result(tmp_path))).blocks if isinstance(block, Folded)]
    assert folded.title == "onnxruntime-x86 int8 on local: node by node"
    assert [[cell.text for cell in row] for row in folded.table.rows] == [
        ["conv", "Conv", "int8", "int8", "310 k", "0.02 ms", "-"],
        ["wide", "Conv", "int8", "fp32", "690 k", "0.06 ms", "its output is not quantized"],
        ["lost", "Gemm", "int8", "unknown", "-", "-", "-"],
    ]
    page = render(page_of(result(tmp_path), made.TASK))
    assert "<details><summary>onnxruntime-x86 int8 on local: node by node</summary>" in page


def test_a_share_is_rounded_neither_to_all_nor_to_nothing() -> None:
    found = Audit((), {"int8": 9_999, "fp32": 1})
    assert module.shares(found) == "> 99.9 % int8, < 0.1 % fp32"
    assert module.shares(Audit((), {"int8": 997, "fp32": 3})) == "99.7 % int8, 0.3 % fp32"
    assert module.shares(Audit((), {"int8": 1})) == "100 % int8"
    assert module.shares(Audit((), {})) == "-"


def test_without_an_audit_there_is_no_section_and_the_json_is_null(tmp_path: Path) -> None:
    plain = made.whole_result(tmp_path)
    assert module.audit(plain) is None
    assert {(cell["audit"], cell["integer_share"]) for cell in plain.as_json()["artifacts"]} == {(None, None)}


def test_the_json_has_every_node_with_what_was_asked_and_what_ran(tmp_path: Path) -> None:
    cell = json.loads(json.dumps(result(tmp_path).as_json(), allow_nan=False))["artifacts"][1]
    assert cell["integer_share"] == pytest.approx(0.31)
    assert [(row["node"], row["asked"], row["ran"]) for row in cell["audit"]["rows"]] == [
        ("conv", "int8", "int8"),
        ("wide", "int8", "fp32"),
        ("lost", "int8", None),
    ]
    assert cell["audit"]["conversion_ms"] == 0.2


# ---- mixed precision -------------------------------------------------------------------------------------------------------


def test_the_search_is_shown_as_a_curve_and_a_table_with_the_choice(tmp_path: Path) -> None:
    found = section(mixed(result(tmp_path, trials=TRIALS)))
    plot = next(block for block in found.blocks if isinstance(block, Plot))
    for drawing in (plot.wide, plot.narrow):
        assert "median latency of a call, ms" in drawing
        assert ">chosen<" in drawing
    table = next(block for block in found.blocks if isinstance(block, Table))
    assert [(row[0].text, row[0].note, row[1].text, row[4].text) for row in table.rows] == [
        ("1", "", "none", "1 ms"),
        ("2", "", "`stem`", "1.1 ms"),
        ("3", "chosen", "`stem`, `a`, `b`, `c` and 2 more", "1.5 ms"),
    ]


def test_a_search_that_timed_nothing_is_drawn_over_the_number_of_float_layers(tmp_path: Path) -> None:
    trials = tuple(replace(trial, latency_ms=None) for trial in TRIALS)
    plot = next(block for block in section(mixed(result(tmp_path, trials=trials))).blocks if isinstance(block, Plot))
    assert "layers that stay float" in plot.wide


def test_no_search_no_section(tmp_path: Path) -> None:
    assert mixed(result(tmp_path)) is None


def test_the_json_has_every_trial(tmp_path: Path) -> None:
    cell = result(tmp_path, trials=TRIALS).as_json()["artifacts"][1]
    assert [trial["chosen"] for trial in cell["trials"]] == [False, False, True]
    assert cell["trials"][1] == {"kept": ["stem"], "kl": 0.002, "agreement": 0.99, "latency_ms": 1.1, "chosen": False}
