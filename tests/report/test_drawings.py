"""What stands in the drawings is what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import made_results as made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from kdedge.estimate import Estimate
from kdedge.measured import Cell
from kdedge.report import plots
from kdedge.report.drawings import shares, whisker
from kdedge.report.plots import pareto, timed


def parse(svg: str) -> ElementTree.Element:
    """The drawing as XML; in the page the names of its links need no declaration."""
    return ElementTree.fromstring(f'<x xmlns:xlink="l">{svg}</x>')


def attributes(svg: str, tag: str, name: str) -> list[float]:
    return [float(element.attrib[name]) for element in parse(svg).iter(tag)]


# ---- in tables -------------------------------------------------------------------------------------------------------------


def test_an_interval_stands_where_its_figures_are() -> None:
    # 160 wide with 4 to spare at each end: zero at 80, the reach of 0.02 at 4 and 156.
    svg = whisker(Estimate("difference", -0.01, -0.02, 0.005, 40, "fraction"), 0.02)
    assert attributes(svg, "circle", "cx") == [42.0]
    assert attributes(svg, "line", "x1") == [80.0, 4.0]
    assert attributes(svg, "line", "x2") == [80.0, 99.0]
    assert parse(svg)[0].attrib["aria-label"] == "-1.0 % [-2.0, 0.5]"


def test_a_figure_without_an_interval_is_a_point() -> None:
    assert len(attributes(whisker(Estimate("difference", 0.0, None, None, 2, ""), 1.0), "line", "x1")) == 1


def test_there_is_no_drawing_of_nothing() -> None:
    assert whisker(Estimate("difference", 0.0, 0.0, 0.0, 40, ""), 0.0) == ""
    assert shares({}) == ""


@given(
    st.dictionaries(st.sampled_from(["int8", "fp16", "bf16", "fp32", "other", "<b>"]), st.integers(0, 1000), min_size=1).filter(
        lambda c: any(c.values())
    )
)
def test_shares_fill_the_bar_and_are_in_proportion(counts: dict[str, int]) -> None:
    svg = shares(counts)
    widths = attributes(svg, "rect", "width")
    assert sum(widths) == pytest.approx(120, abs=0.1 * len(widths))
    assert max(widths) == pytest.approx(120 * max(counts.values()) / sum(counts.values()), abs=0.1)
    assert sorted(title.text or "" for title in parse(svg).iter("title")) == sorted(f"{name}: {count}" for name, count in counts.items())


# ---- accuracy against latency ----------------------------------------------------------------------------------------------


def cells(folder: Path, *latencies: float) -> tuple[Cell, ...]:
    targets = ["onnxruntime-x86", "openvino", "torch"]
    return tuple(made.measured(folder, made.artifact(folder, targets[n], "fp32"), wrong=range(n), ms=ms) for n, ms in enumerate(latencies))


def test_what_was_not_timed_on_its_own_device_is_not_drawn(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path)
    proxy = made.measured(tmp_path, made.artifact(tmp_path, "tensorrt", "int8"), wrong=(), ms=1.0, device="emulated", proxy=True)
    assert timed((*result.cells, proxy)) == list(result.cells[:2])
    assert pareto((proxy, *result.cells[2:]), {}, "accuracy") == ""
    svg = pareto((*result.cells, proxy), result.references.scores, "accuracy")
    texts = ["".join(element.itertext()) for element in parse(svg).iter("text")]
    assert [text for text in texts if "fp32" in text or "int8" in text] == ["onnxruntime-x86 fp32", "onnxruntime-x86 int8"]
    assert {"teacher (float, torch)", "student (float, torch)", "median latency of a call, ms", "accuracy, %"} <= set(texts)


@pytest.mark.parametrize(("latencies", "scale"), [((1.0, 2.0, 7.9), "linear"), ((1.0, 20.0), "log"), ((1.0, 1000.0), "log"), ((3.0,), "linear")])
def test_latencies_far_apart_are_drawn_by_their_logarithms(tmp_path: Path, latencies: tuple[float, ...], scale: str) -> None:
    figure = Figure()
    plots._draw(figure, list(cells(tmp_path, *latencies)), {}, "accuracy", narrow=False)
    axes = figure.axes[0]
    assert axes.get_xscale() == scale
    if scale == "linear":
        assert axes.get_xlim()[0] == 0  # twice as far right is twice as slow


def test_the_frontier_holds_what_no_other_beats_in_both(tmp_path: Path) -> None:
    one = made.artifact(tmp_path, "openvino", "fp32")
    fast, slow, beaten = (made.measured(tmp_path, one, wrong=wrong, ms=ms) for wrong, ms in (((0, 1), 1.0), ((0,), 3.0), ((0, 1, 2), 2.0)))
    assert plots._frontier([slow, beaten, fast]) == [(1.0, 38 / 40), (3.0, 39 / 40)]


def test_the_same_cells_are_the_same_bytes_and_the_two_widths_share_no_id(tmp_path: Path) -> None:
    made_cells = cells(tmp_path, 1.0, 2.0)
    wide, narrow = (pareto(made_cells, {}, "accuracy", narrow=narrow) for narrow in (False, True))
    assert wide == pareto(made_cells, {}, "accuracy")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (wide, narrow)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip((wide, narrow), ids, strict=True):
        used = set(re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', svg))
        assert used <= known
    assert "var(--ink)" in wide
    assert "<style" not in wide


def test_a_name_is_no_formula_and_no_markup(tmp_path: Path) -> None:
    made_cells = cells(tmp_path, 1.0)
    svg = pareto(made_cells, {}, "<b>$x_1$</b>")
    assert "<b>$x_1$</b>, %" in ["".join(element.itertext()) for element in parse(svg).iter("text")]
    assert list(parse(svg).iter("b")) == []
