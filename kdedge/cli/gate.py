"""`kdedge gate RECIPE --policy FILE`: decide again, by another policy, on what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, OnOption, QuietOption, RecipeArgument, SetOption, WorkspaceOption

if TYPE_CHECKING:
    from kdedge.gate import Policy


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
        from kdedge.cli.running import outcome_of, present
        from kdedge.gate import decide

        rules = _policy(recipe, set_ or (), policy, on)
        result = outcome_of(recipe, "profile", workspace, on, set_, False, quiet)
        raise typer.Exit(present(result.having(verdict=decide(rules, result.cells)), as_json, quiet))


def _policy(recipe: Path, overrides: Sequence[str], file: Path | None, on: Sequence[str] | None) -> Policy:
    """The rules to judge by, known to be right before anything runs."""
    from kdedge.api import importable
    from kdedge.artifact import ImportPath
    from kdedge.checks import check_recipe
    from kdedge.errors import RecipeError
    from kdedge.gate import parse_policy
    from kdedge.recipe_file import load_rules, read_recipe
    from kdedge.tasks import TASKS

    loaded, tree = read_recipe(recipe, overrides)
    with importable(recipe.absolute().parent), tree.placing():
        check_recipe(loaded, devices_too=not on)
    metric = ImportPath(TASKS[loaded.task]).load().metric
    if file is None:
        return parse_policy(loaded.gate, metric)
    try:
        return parse_policy({str(key): value for key, value in load_rules(file).items()}, metric)
    except RecipeError as error:
        raise RecipeError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
