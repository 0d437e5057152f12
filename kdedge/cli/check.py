"""`kdedge check BASELINE CANDIDATE`: has it become slower?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, QuietOption, WorkspaceOption

MarginOption = Annotated[str, typer.Option("--margin", metavar="SHARE", help="The slow-down that is accepted, such as 3%.")]
OnDevices = Annotated[list[str] | None, typer.Option("--on", metavar="DEVICE", help="Where to run; may be repeated. Default: this machine.")]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def check(
        baseline: Annotated[
            str, typer.Argument(metavar="BASELINE", help="A bundle, a model file, a run (its folder or name), or a kept baseline's name.")
        ],
        candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="The same, of what may have become slower.")],
        on: OnDevices = None,
        margin: MarginOption = "3%",
        alpha: Annotated[float, typer.Option("--alpha", help="The chance of a false alarm at the margin.")] = 0.01,
        pairs: Annotated[int, typer.Option("--pairs", help="Pairs of launches; with --time-budget as many as fit.")] = 16,
        looks: Annotated[int, typer.Option("--looks", help="How often the verdict may be tried on the way; alpha is shared.")] = 2,
        time_budget: Annotated[str, typer.Option("--time-budget", metavar="TIME", help="Fit launches into this, such as 60s or 5min.")] = "",
        seed: Annotated[int, typer.Option("--seed", help="Draws which of both begins.")] = 0,
        inputs: Annotated[Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Inputs of model files that come alone.")] = None,
        size: Annotated[list[str] | None, typer.Option("--size", metavar="NAME=N", help="A dimension that varies, where inputs are drawn.")] = None,
        allow_env_mismatch: Annotated[bool, typer.Option("--allow-env-mismatch", help="Compare although runtimes or options differ.")] = False,
        history: Annotated[str, typer.Option("--history", metavar="URL", help="Database of launches; `none` keeps nothing.")] = "",
        junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
        markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Append a summary in Markdown.")] = None,
        html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots.")] = None,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Launch a baseline and a candidate in turns, and say whether the candidate is slower than the margin allows."""
        from kdedge.cli.checking import Asked, check_here

        asked = Asked(baseline, candidate, tuple(on or ("local",)), margin, alpha, pairs, looks, time_budget, seed, allow_env_mismatch)
        outputs = {"junit": junit, "markdown": markdown, "html": html}
        raise typer.Exit(check_here(asked, inputs, tuple(size or ()), history, outputs, workspace, as_json, quiet))
