"""The HTML page of a check: plots and figures that agree with the verdict, one file that loads nothing, names that are only names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from headless_browser import Browser, find_chromium
from regression_world import EQUAL, SLOW, cell, checked, report

from kdedge.regression.page import html, page_of
from kdedge.report.layout import Plot

HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"

TWO = report(cell(checked(SLOW), key="cpu/int8"), cell(checked(EQUAL, problem="the CPU throttled"), key="gpu/int8"))


@pytest.fixture(scope="module")
def two_cells() -> str:
    return html(TWO)


def test_one_cell_shows_four_plots_and_its_figures() -> None:
    page = page_of(report(cell(checked(SLOW))))
    assert (page.title, page.outcome) == ("after.onnx against before.onnx", "regressed")
    assert page.headline.startswith("median is slower by more than 3 %")
    evidence = next(section for section in page.sections if section.anchor == "evidence")
    assert [block.name.split(",")[0] for block in evidence.blocks if isinstance(block, Plot)] == [
        "Slow-down of each pair by its median latency",
        "Effect of each metric with its interval",
        "Chance that a slow-down of a given size is found",
        "Median latency of every launch",
    ]
    assert {tile.label: tile.value for tile in page.tiles}["pairs that count"] == "10 of 10"


def test_a_check_that_tested_nothing_has_a_page_too() -> None:
    text = html(report(cell(checked(EQUAL, problem="the CPU throttled"))))
    assert "the CPU throttled" in text
    assert "invalid" in text


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    text = html(report(cell(checked(SLOW, name=HOSTILE), key=HOSTILE, device=HOSTILE), names=(HOSTILE, HOSTILE)))
    assert "<h1>" in text
    assert not re.search(r"<script|<img|<link|<iframe", text)
    assert not re.search(r"""(?:src|href)=["'](?!\#)""", text)
    assert "&lt;script&gt;" in text


def test_the_same_report_gives_the_same_bytes(two_cells: str) -> None:
    assert html(TWO) == two_cells


def test_no_two_drawings_share_an_id(two_cells: str) -> None:
    found = re.findall(r'<[^>]* id="([^"]+)"', two_cells)
    assert len(found) == len(set(found)) > 0


def test_in_a_browser_it_fits_the_screen_loads_nothing_and_shows_its_verdict(two_cells: str, tmp_path: Path) -> None:
    program = find_chromium()
    file = tmp_path / "check.html"
    file.write_text(two_cells, encoding="utf-8")
    with Browser(program) as browser:
        for width in (400, 1200):
            opened = browser.open(file, width)
            assert opened.requests == [file.absolute().as_uri()]
            assert (opened.failures, opened.complaints) == ([], [])
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            shown = opened.evaluate("[...document.querySelectorAll('figure > div')].filter(each => each.offsetWidth > 0).length")
            assert shown == opened.evaluate("document.querySelectorAll('figure').length") > 0
            badge = "getComputedStyle(document.querySelector('h1 .badge')).backgroundColor"
            assert opened.evaluate(badge) == "rgb(180, 35, 24)"  # as bad as a gate that failed
