"""The Python interface: what `kdedge run` does, as one function."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from kdedge import progress, ranks
from kdedge.devices import close_devices
from kdedge.distill.tuning import Tuning
from kdedge.pipeline import Until
from kdedge.pipeline import run as run_pipeline
from kdedge.recipe import Recipe
from kdedge.recipe_file import read_recipe
from kdedge.report.result import RunResult
from kdedge.tuning import tune as search
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

    `devices` replaces the recipe's, by name; one of several that cannot be reached costs its own cells alone. `overrides` are `key=value` as for
    `--set`. `listener` and `on_stage` are told of progress and of finished stages. Code that a recipe file names by import path is also looked for in
    the file's folder. Where several processes were launched (`torchrun`), each calls this: the first runs the recipe, training is shared, and all
    get its result.

    Raises:
        KdedgeError: a subclass that says what was wrong, where, and what to do.
    """
    if ranks.waits():
        return cast(RunResult, ranks.serve())
    folder = None if isinstance(recipe, Recipe) else Path(recipe).absolute().parent
    with importable(folder), progress.listening(listener) if listener else contextlib.nullcontext(), ranks.leading() as outcome:
        loaded, tree = (recipe, None) if isinstance(recipe, Recipe) else read_recipe(Path(recipe), overrides)
        try:
            with tree.placing() if tree else contextlib.nullcontext():
                outcome.value = run_pipeline(loaded, Workspace(Path(workspace), on_stage), devices, until=until, remeasure=remeasure)
        finally:
            close_devices()  # a process that goes on holds no lease, and leaves nothing set
    return cast(RunResult, outcome.value)


def tune(
    recipe: Recipe | str | Path,
    trials: int = 20,
    *,
    workspace: str | Path = ".kdedge",
    storage: str | None = None,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    listener: progress.Listener | None = None,
    on_stage: Callable[[StageEvent], None] | None = None,
) -> Tuning:
    """Search a recipe's losses on a part of its training data, as `kdedge tune` does; the arguments are its options.

    Raises:
        KdedgeError: a subclass that says what was wrong, where, and what to do.
    """
    source = None if isinstance(recipe, Recipe) else Path(recipe)
    with importable(source.absolute().parent if source else None), progress.listening(listener) if listener else contextlib.nullcontext():
        loaded, tree = (recipe, None) if isinstance(recipe, Recipe) else read_recipe(Path(recipe), overrides)
        with tree.placing() if tree else contextlib.nullcontext():
            return search(loaded, Workspace(Path(workspace), on_stage), trials, storage=storage, epochs=epochs, source=source)


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
