"""`kdedge compare A B`: two artifacts side by side, their outputs, their latency and their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, QuietOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def compare(
        first: Annotated[
            str, typer.Argument(metavar="A", help="A bundle, a model file, a run with one bundle, or a kept baseline's name.", show_default=False)
        ],
        second: Annotated[str, typer.Argument(metavar="B", help="The same, of what is compared with A.", show_default=False)],
        on: Annotated[str, typer.Option("--on", metavar="DEVICE", help="Where to run both.")] = "local",
        pairs: Annotated[int, typer.Option("--pairs", help="Pairs of launches; with --time-budget as many as fit.")] = 16,
        time_budget: Annotated[str, typer.Option("--time-budget", metavar="TIME", help="Fit launches into this, such as 60s or 5min.")] = "",
        inputs: Annotated[Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Inputs of model files that come alone.")] = None,
        size: Annotated[list[str] | None, typer.Option("--size", metavar="NAME=N", help="A dimension that varies, where inputs are drawn.")] = None,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Run two artifacts on the same inputs: how far apart their outputs are, how much slower B is, how large both are. Judges nothing."""
        from kdedge.cli.side_by_side import compare_here

        raise typer.Exit(compare_here(first, second, on, pairs, time_budget, inputs, tuple(size or ()), workspace, as_json, quiet))
