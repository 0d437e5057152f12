"""`kdedge recipe schema|check`: the schema for editors, and a check that runs nothing."""

from __future__ import annotations

import typer

from kdedge.cli.options import RecipeArgument, SetOption


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The recipe's schema, and a check of one.", no_args_is_help=True)
    app.add_typer(group, name="recipe")

    @group.command()
    def schema() -> None:
        """Print the JSON schema of a recipe, for editors."""
        import json

        from kdedge.recipe_file import recipe_schema
        from kdedge.tasks import TASKS

        print(json.dumps(recipe_schema(tuple(TASKS)), indent=2))

    @group.command()
    def check(recipe: RecipeArgument, set_: SetOption = None) -> None:
        """Check a recipe without running it: keys, values, names of losses, targets, devices and gate figures."""
        from kdedge.api import importable
        from kdedge.checks import check_recipe
        from kdedge.recipe_file import read_recipe

        loaded, tree = read_recipe(recipe, set_ or ())
        with importable(recipe.absolute().parent), tree.placing():
            check_recipe(loaded)
        print(f"{recipe}: fine")
