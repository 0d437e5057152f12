"""`kdedge gate RECIPE --policy FILE`: decide again, by another policy, on what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, OnOption, QuietOption, RecipeArgument, SetOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def gate(
        recipe: RecipeArgument,
        policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="YAML of gate rules; without it the recipe's own.")] = None,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        on: OnOption = None,
        set_: SetOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Judge a run by a policy; what was measured before is read from the workspace, not measured again."""
        import json

        from kdedge.cli.running import run_recipe
        from kdedge.recipe_file import load_rules

        rules = [f"gate={json.dumps(load_rules(policy))}"] if policy else []
        raise typer.Exit(run_recipe(recipe, "bundle", workspace, on, [*(set_ or ()), *rules], False, as_json, quiet))
