"""The summary in Markdown: the verdict first, figures beside the margin, pairs as dots, and names that are only names."""

from __future__ import annotations

import re

import pytest
from regression_world import EQUAL, OPEN, SLOW, cell, checked, four_states, report

from kdedge.regression.markdown import markdown
from kdedge.regression.text_plot import MOST_ROWS, WIDTH, text_plot


def table(text: str) -> list[list[str]]:
    """The fields of the rows under the head."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[field.strip() for field in row.strip("|").split("|")] for row in rows[2:]]


def test_the_verdict_comes_first_and_every_cell_has_its_figures_beside_the_margin() -> None:
    text = markdown(four_states())
    assert text.strip().splitlines()[0] == "## kdedge check: regressed"
    rows = table(text)
    assert [row[:4] for row in rows if row[3] != "p90 latency"] == [
        ["cpu/fp32", "board", "**equivalent**", "median latency"],
        ["cpu/int8", "board", "**regressed**", "median latency"],
        ["gpu/fp16", "board", "**inconclusive**", "median latency"],
        ["gpu/int8", "board", "**invalid**", "-"],
    ]
    slow = rows[2]
    assert re.fullmatch(r"10\.\d+ % \[\d+\.\d+, 10\.\d+\]", slow[4])
    assert slow[5:9] == ["3 %", "0.00098", "1", "10"]
    assert "- not compared: gpu/fp32 stands in models/before.onnx only" in text


def test_what_is_open_says_what_would_decide() -> None:
    found = checked(OPEN)
    text = markdown(report(cell(found)))
    assert found.verdict.pairs_needed is not None
    assert f"- what would decide: {found.verdict.pairs_needed} pairs at this noise" in text


def test_names_are_no_markup() -> None:
    hostile = "a|b`c`<script>alert(1)</script>\n# head *x* [l](http://e) _y_ ~z~ @me #1"
    text = markdown(report(cell(checked(SLOW, name=hostile), device=hostile), names=(hostile, hostile)))
    assert all(len(row) == 10 for row in table(text))
    assert not re.search(r"<script|`c`|\*x\*|\[l\]|(?m:^# head)|@me", text)
    assert "a&#124;b&#96;c&#96;&#60;script&#62;" in text
    assert "resnet_int8" in markdown(report(cell(checked(SLOW, name="resnet_int8"))))  # what means nothing stays readable


@pytest.mark.parametrize(("ratios", "side"), [(EQUAL, "before"), (SLOW, "behind")])
def test_dots_stand_on_their_side_of_the_margin(ratios: tuple[float, ...], side: str) -> None:
    found = checked(ratios)
    lines = text_plot(found.verdict, found.verdict.tests[0])
    rows = [line for line in lines if re.match(r" +\d+ (AB|BA) ", line)]
    assert len(rows) == 10
    for row in rows:
        assert (row.index("o") > row.index(":")) == (side == "behind"), row
    assert len({row.index(":") for row in rows}) == 1
    assert all(len(line) <= WIDTH + 8 and line.isascii() for line in lines[:-1])


def test_a_far_pair_is_an_arrow_and_presses_nothing_together() -> None:
    found = checked((0.0,) * 11 + (1.0,))
    lines = text_plot(found.verdict, found.verdict.tests[0])
    assert lines[12].endswith(">")
    assert lines[1].index(":") - lines[1].index("|" if "|" in lines[1] else "o") > WIDTH // 3


def test_of_many_pairs_forty_are_drawn_from_the_first_to_the_last() -> None:
    found = checked((0.0,) * 200)
    rows = [line for line in text_plot(found.verdict, found.verdict.tests[0]) if re.match(r" +\d+ (AB|BA) ", line)]
    assert len(rows) == MOST_ROWS
    assert rows[0].split()[0] == "1"
    assert rows[-1].split()[0] == "200"


def test_without_a_test_there_is_no_plot() -> None:
    text = markdown(report(cell(checked(EQUAL, problem="the CPU throttled"))))
    assert "```" not in text
    assert "the CPU throttled" in text
