"""`kdedge run RECIPE`: all stages, the table, the verdict and where the report is."""

from __future__ import annotations

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


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def run(
        recipe: RecipeArgument,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        on: OnOption = None,
        set_: SetOption = None,
        remeasure: RemeasureOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Run a recipe from teacher to verdict: distill, export, validate, profile, gate, bundle, report."""
        from kdedge.cli.running import run_recipe

        raise typer.Exit(run_recipe(recipe, "report", workspace, on, set_, remeasure, as_json, quiet))
