"""`kdedge init NAME --task T`: a commented starter recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def init(
        name: Annotated[str, typer.Argument(help="The recipe's name; NAME.yaml is written here.")],
        task: Annotated[str, typer.Option("--task", metavar="TASK", help="The kind of problem.")] = "image-classification",
    ) -> None:
        """Write a commented starter recipe."""
        from kdedge.errors import RecipeError
        from kdedge.starter import starter

        text = starter(name, task)
        path = Path(f"{name}.yaml")
        try:
            with path.open("x") as handle:
                handle.write(text)
        except FileExistsError as error:
            raise RecipeError(f"{path} exists already and is left as it is; choose another name") from error
        except OSError as error:
            raise RecipeError(f"{path} cannot be written: {error.strerror}") from error
        print(f"wrote {path}; next: edit its data section, then `kdedge run {path}`")
