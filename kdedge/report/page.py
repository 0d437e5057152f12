"""The report: one HTML page that loads nothing, for a person who decides whether to ship."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from kdedge.artifact import ImportPath
from kdedge.errors import MissingExtra
from kdedge.report import audit, comparison, decision, measured, mixed, origin
from kdedge.report.devices import devices
from kdedge.report.layout import Page
from kdedge.report.result import RunResult
from kdedge.report.teacher_cost import teacher_cost
from kdedge.report.teachers import teachers

TOOLS = ("jinja2", "matplotlib")


def write_report(result: RunResult, task: ImportPath, *, folder: Path) -> Path:
    """Write `report.html`; returns its path. Same result, same bytes.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    path = folder / "report.html"
    path.write_text(render(page_of(result, task)), encoding="utf-8")
    return path


def render(page: Page) -> str:
    """The page as HTML: every value escaped, the drawings inline.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup, escape
    except ModuleNotFoundError as error:
        raise MissingExtra("jinja2", "report", "the report") from error
    template = (resources.files("kdedge") / "report" / "page.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Names stand between backticks in every sentence of kdedge; what is between them is escaped like the rest.
    environment.filters["code"] = lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    return environment.from_string(template).render(page=page) + "\n"


def page_of(result: RunResult, task: ImportPath) -> Page:
    """What the page says, as plain values: the decision first, then what it rests on, then where everything comes from."""
    sections = (
        decision.targets(result),
        measured.results(result),
        measured.trade(result),
        measured.attribution(result, task),
        teachers(result),
        comparison.comparison(result),
        teacher_cost(result),
        decision.gate(result),
        measured.fidelity(result),
        measured.speed(result),
        devices(result),
        measured.executed(result),
        audit.audit(result),
        mixed.mixed(result),
        decision.bundles(result),
        origin.notes(result),
        origin.worst(result),
        origin.lineage(result),
        origin.environment(result),
    )
    return Page(
        title=result.recipe,
        outcome=result.verdict.verdict if result.verdict else "",
        headline=decision.headline(result),
        tiles=decision.tiles(result),
        sections=tuple(section for section in sections if section is not None),
    )
