"""The Python interface: what `kdedge run` does, as one function."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kdedge import progress
from kdedge.devices import open_device
from kdedge.pipeline import Until
from kdedge.pipeline import run as run_pipeline
from kdedge.recipe import Recipe
from kdedge.recipe_file import load_recipe
from kdedge.report.result import RunResult
from kdedge.workspace import StageEvent, Workspace


def run(
    recipe: Recipe | str | Path,
    *,
    workspace: str | Path = ".kdedge",
    devices: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    until: Until = "report",
    remeasure: bool = False,
    listener: progress.Listener | None = None,
    on_stage: Callable[[StageEvent], None] | None = None,
) -> RunResult:
    """Run a recipe (a file, or a `Recipe`) and return everything that it found out.

    `devices` replaces the recipe's, by name. `overrides` are `key=value` as for `--set`. `listener` and `on_stage` are told of progress and of
    finished stages. Code that a recipe file names by import path is also looked for in the file's folder.

    Raises:
        KdedgeError: a subclass that says what was wrong, where, and what to do.
    """
    folder = None if isinstance(recipe, Recipe) else Path(recipe).absolute().parent
    with importable(folder), progress.listening(listener) if listener else contextlib.nullcontext():
        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), overrides)
        identities = [open_device(name).identity for name in dict.fromkeys(devices)] if devices is not None else None
        return run_pipeline(loaded, Workspace(Path(workspace), on_stage), identities, until=until, remeasure=remeasure)


@contextlib.contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """Inside the block, modules in `folder` can be imported (after all others, so that none is hidden)."""
    if folder is None or str(folder) in sys.path:
        yield
        return
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
