"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", metavar="DIR", help="Where stages keep what they made.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")]
OnOption = Annotated[list[str] | None, typer.Option("--on", metavar="DEVICE", help="Measure on this device instead of the recipe's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object last on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, no table.")]
RemeasureOption = Annotated[bool, typer.Option("--remeasure", help="Repeat the measurements on devices.")]
DEFAULT_WORKSPACE = Path(".kdedge")
