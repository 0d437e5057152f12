"""Examine a recipe for `kdedge doctor`: progress on standard error, findings on standard output, the exit code back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdedge import progress
from kdedge.cli.running import listener_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kdedge.distill.doctor import Diagnosis, Layer

_LOG_WIDTH = 120  # of what is no terminal: a log has no edge
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def examine_recipe(recipe: Path, workspace: Path, overrides: Sequence[str], taps: bool, as_json: bool, quiet: bool) -> int:
    """Examine, print, and return the exit code: 2 where there is an error, else 0."""
    from kdedge.api import importable
    from kdedge.examining import examine
    from kdedge.recipe_file import read_recipe
    from kdedge.workspace import Workspace

    with listener_of(quiet) as (listener, on_stage), importable(recipe.absolute().parent), progress.listening(listener):
        loaded, tree = read_recipe(recipe, overrides)
        with tree.placing():
            found = examine(loaded, Workspace(workspace, on_stage), taps=taps)
    if not quiet:
        print_diagnosis(found)
    if as_json:
        print(json.dumps(found.as_json()))
    return found.exit_code


def print_diagnosis(found: Diagnosis, console: Console | None = None) -> None:
    """Print the findings, most urgent first, each with what to do about it; then the layers, where they were asked for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _LOG_WIDTH
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column()
    for each in found.findings:
        style = _STYLES[each.level]
        text = Text(each.message)
        if each.advice:
            text.append(f"\n-> {each.advice}", style="bold" if each.level in ("error", "warning") else "")
        table.add_row(Text(each.level, style=style), Text(each.check), text)
    console.print(table)
    for whose, layers in found.layers.items():
        console.print(_listed(whose, layers))
    counts = [(level, sum(each.level == level for each in found.findings)) for level in ("error", "warning", "note")]
    said = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts if count) or "nothing to complain about"
    console.print(f"{found.recipe}: {said} ({found.seconds:.1f} s)", markup=False)


def _listed(whose: str, layers: Sequence[Layer]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title=f"layers of the {whose}", title_justify="left", header_style="bold")
    table.add_column("layer", no_wrap=True)
    table.add_column("gives", no_wrap=True)
    for layer in layers:
        table.add_row(Text(layer.name), Text(str(["N", *layer.shape]).replace("'", "")))
    return table
