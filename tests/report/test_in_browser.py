"""The report in a real browser: it fits a phone and a desktop, and asks for nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import made_results as made
import pytest
from headless_browser import Browser, find_chromium

from kdedge.report.page import page_of, render

PHONE, DESKTOP = 390, 1280

# Text that a reader would have to scroll sideways for: it ends right of the window, and stands in nothing that can be scrolled.
CUT = """[...document.querySelectorAll("body *")]
  .filter(e => !e.closest("svg") && !e.closest(".wide") && !e.closest("pre") && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.tagName + " " + e.textContent.slice(0, 40))"""
SHOWN = """[...document.querySelectorAll("figure > div")].filter(e => getComputedStyle(e).display !== "none").map(e => e.className)"""
SCROLLS = """[...document.querySelectorAll(".wide")].filter(e => e.scrollWidth > e.clientWidth).map(e => e.closest("section").id)"""
CONTRASTS = """(() => {
  const light = c => { const [r, g, b] = c.match(/\\d+/g).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const colour = name => { const e = document.createElement("i"); e.style.color = `var(--${name})`; document.body.append(e);
    const found = getComputedStyle(e).color; e.remove(); return light(found); };
  const found = {};
  for (const ground of ["ground", "raised"]) for (const text of ["ink", "soft", "good", "bad", "open", "idle"]) {
    const [a, b] = [colour(text), colour(ground)].sort((x, y) => y - x); found[`${text} on ${ground}`] = (a + 0.05) / (b + 0.05); }
  return found; })()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(find_chromium()) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(render(page_of(made.whole_result(folder), made.TASK)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [320, PHONE, 720, 1024, DESKTOP])
def test_nothing_is_wider_than_the_window_and_nothing_is_asked_for(browser: Browser, page: Path, width: int) -> None:
    opened = browser.open(page, width)
    assert opened.evaluate("innerWidth") == width
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate(CUT) == []
    assert opened.requests == [page.as_uri()]
    assert (opened.failures, opened.complaints) == ([], [])
    assert opened.evaluate("performance.getEntriesByType('resource').length") == 0


def test_a_desktop_shows_every_table_whole_and_a_phone_shows_cards(browser: Browser, page: Path) -> None:
    desktop = browser.open(page, DESKTOP)
    assert desktop.evaluate(SCROLLS) == []
    assert desktop.evaluate("getComputedStyle(document.querySelector('#results tbody tr')).display") == "table-row"
    assert desktop.evaluate(SHOWN) == ["full"]
    phone = browser.open(page, PHONE)
    assert phone.evaluate("getComputedStyle(document.querySelector('#results tbody tr')).display") == "grid"
    # Every figure of a card says what it is.
    assert phone.evaluate("getComputedStyle(document.querySelector('#results tbody td'), '::before').content") == '"accuracy"'
    assert phone.evaluate(SHOWN) == ["narrow"]


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_by_day_and_by_night(browser: Browser, page: Path, dark: bool) -> None:
    contrasts = browser.open(page, DESKTOP, dark=dark).evaluate(CONTRASTS)
    assert len(contrasts) == 12
    # WCAG 2.2, 1.4.3: at least 4.5 to 1.
    assert {pair: ratio for pair, ratio in contrasts.items() if ratio < 4.5} == {}


def test_what_an_enemy_named_neither_runs_nor_breaks_the_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(render(page_of(made.hostile_result(tmp_path / "hostile"), made.TASK)), encoding="utf-8")
    opened = browser.open(path, PHONE)
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert opened.evaluate("document.querySelectorAll('script, img').length") == 0
    assert opened.requests == [path.as_uri()]
    assert (opened.failures, opened.complaints) == ([], [])
