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
        """Judge a run by a policy. What was measured before is read from the workspace; nothing is bundled, and the last run's files stay."""
        import json

        from kdedge.cli.running import outcome_of, present
        from kdedge.gate import decide, parse_policy
        from kdedge.recipe_file import load_recipe, load_rules

        overrides = [*(set_ or ()), *([f"gate={json.dumps(load_rules(policy))}"] if policy else ())]
        result = outcome_of(recipe, "profile", workspace, on, overrides, False, quiet)
        rules = parse_policy(load_recipe(recipe, overrides).gate, result.task_metric)
        raise typer.Exit(present(result.having(verdict=decide(rules, result.cells)), as_json, quiet))
