"""`kdedge tune RECIPE`: search temperature, the teacher's weight, loss and standardisation on a part of the training data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, QuietOption, RecipeArgument, SetOption, WorkspaceOption

if TYPE_CHECKING:
    from rich.console import Console

    from kdedge.distill.tuning import Tuning

TrialsOption = Annotated[int, typer.Option("--trials", min=1, metavar="N", help="How many trials there are in all; those that are done count.")]
_STORAGE = "Where trials are kept: a URL that Optuna takes (sqlite:///FILE, postgresql://...) or journal:FILE. Several processes may share it."
StorageOption = Annotated[str | None, typer.Option("--storage", metavar="URL", help=_STORAGE)]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, metavar="E", help="Epochs of a trial; those of the recipe otherwise.")]
_MOST_ROWS = 40


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def tune(
        recipe: RecipeArgument,
        trials: TrialsOption = 20,
        storage: StorageOption = None,
        epochs: EpochsOption = None,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        set_: SetOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Find the losses: temperature, teacher's weight, loss and standardisation, on a part of the training data."""
        from kdedge.api import tune as search
        from kdedge.cli.running import listener_of
        from kdedge.report.tuning import tuning_json

        with listener_of(quiet) as (listener, on_stage):
            found = search(
                recipe, trials, workspace=workspace, storage=storage, epochs=epochs, overrides=set_ or (), listener=listener, on_stage=on_stage
            )
        if not quiet:
            print_tuning(found)
        if as_json:
            print(json.dumps(tuning_json(found)))
        if found.interrupted:
            raise KeyboardInterrupt


def print_tuning(tuning: Tuning, console: Console | None = None) -> None:
    """Print the trials, best first, what they say, and where everything is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kdedge.distill.tuning import conclusion
    from kdedge.report.figures import interval
    from kdedge.report.tuning import row

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 150
    ranked = sorted(tuning.trials, key=lambda trial: (trial.outcome != "complete", -(trial.value or 0.0), trial.number))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "losses", "origin", tuning.metric, "epochs", "outcome"):
        table.add_column(Text(heading), no_wrap=heading != "losses")
    for trial in ranked[:_MOST_ROWS]:
        table.add_row(*map(Text, row(trial, tuning)))
    console.print(table)
    if len(ranked) > _MOST_ROWS:
        console.print(f"... and {len(ranked) - _MOST_ROWS} more in {tuning.log}", markup=False, soft_wrap=True)
    running = f", {tuning.count('running')} at work elsewhere" if tuning.count("running") else ""
    console.print(f"trials: {len(tuning.trials)} of {tuning.total} ({tuning.added} now{running})", markup=False)
    for name, score in (("best", tuning.best_score), ("the recipe's own", tuning.own_score)):
        if score is not None:
            console.print(f"{name}: {tuning.metric} {interval(score)} on {tuning.held_out} held-out training examples", markup=False)
    console.print(conclusion(tuning), markup=False)
    for name, path in (("tuned recipe", tuning.tuned), ("report", tuning.report)):
        if path is not None:
            console.print(f"{name}: {path}", markup=False, soft_wrap=True)
