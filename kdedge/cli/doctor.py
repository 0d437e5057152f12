"""`kdedge doctor RECIPE`: what would waste hours of training, found in seconds."""

from __future__ import annotations

from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, QuietOption, RecipeArgument, SetOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def doctor(
        recipe: RecipeArgument,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        taps: Annotated[bool, typer.Option("--taps", help="List the layers of student and teacher that a loss can look at.")] = False,
        set_: SetOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Examine a recipe before it is run: teacher, normalisation, order of labels, losses, layers, cache.

        Exits with 2 where a finding is an error (a run would fail or be worth nothing), else with 0. Nothing is trained, and test data is not used.
        """
        from kdedge.cli.examining import examine_recipe

        raise typer.Exit(examine_recipe(recipe, workspace, set_ or (), taps, as_json, quiet))
