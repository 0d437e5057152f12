"""The Python interface: what `kdedge run` does, as one function."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from kdedge import progress
from kdedge.artifact import DeviceIdentity
from kdedge.devices import open_device
from kdedge.pipeline import Until
from kdedge.pipeline import run as run_pipeline
from kdedge.recipe import Recipe
from kdedge.recipe_file import load_recipe
from kdedge.report.result import RunResult
from kdedge.workspace import Workspace


def run(
    recipe: Recipe | str | Path,
    *,
    workspace: str | Path = ".kdedge",
    devices: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    until: Until = "report",
    remeasure: bool = False,
    listener: progress.Listener | None = None,
) -> RunResult:
    """Run a recipe (a file, or a `Recipe`) and return everything that it found out.

    `devices` replaces the recipe's, by name. `overrides` are `key=value` as for `--set`. The other arguments are those of `kdedge run`.

    Raises:
        KdedgeError: a subclass that says what was wrong, where, and what to do.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), overrides)
    identities: list[DeviceIdentity] | None = [open_device(name).identity for name in devices] if devices is not None else None
    with progress.listening(listener) if listener else contextlib.nullcontext():
        return run_pipeline(loaded, Workspace(Path(workspace)), identities, until=until, remeasure=remeasure)
