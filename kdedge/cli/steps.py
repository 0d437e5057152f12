"""`kdedge distill|export|validate|profile|bundle|report RECIPE`: the same run, up to that step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kdedge.cli.options import (
    DEFAULT_WORKSPACE,
    JsonOption,
    OnOption,
    QuietOption,
    RecipeArgument,
    RemeasureOption,
    SetOption,
    WorkspaceOption,
)

if TYPE_CHECKING:
    from kdedge.pipeline import Until

_STEPS: dict[Until, str] = {
    "distill": "Run up to the student: get the teacher, distill.",
    "export": "Run up to the artifacts: export and quantize the student for each target.",
    "validate": "Run up to fidelity: compare each artifact with the student and the teacher on the devices.",
    "profile": "Run up to latency and memory of each artifact on the devices.",
    "bundle": "Run up to the bundles of what passes the gate.",
    "report": "Run up to the report; the same as `run`.",
}


def register(app: typer.Typer) -> None:
    """Add one command a step."""
    for step, text in _STEPS.items():
        _add(app, step, text)


def _add(app: typer.Typer, step: Until, text: str) -> None:
    @app.command(name=step, help=text)
    def command(
        recipe: RecipeArgument,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        on: OnOption = None,
        set_: SetOption = None,
        remeasure: RemeasureOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        from kdedge.cli.running import run_recipe

        raise typer.Exit(run_recipe(recipe, step, workspace, on, set_, remeasure, as_json, quiet))
