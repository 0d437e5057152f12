"""`kdedge baseline set|list|show`: artifacts that checks run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="How the baseline is called.", show_default=False)]
_INPUTS = typer.Option("--inputs", metavar="FILE.npz", help="Inputs of a model file that comes alone.")
_SIZE = typer.Option("--size", metavar="NAME=N", help="A dimension that varies, where inputs are drawn.")
_DEVICE = typer.Option("--on", metavar="DEVICE", help="The device whose environment is written down.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Artifacts that are kept, to be run again beside each candidate.", no_args_is_help=True)
    app.add_typer(group, name="baseline")

    @group.command(name="set")
    def set_(
        name: NameArgument,
        artifact: Annotated[
            str, typer.Argument(metavar="ARTIFACT", help="A bundle, a model file, or a run (its folder or name) with one bundle.", show_default=False)
        ],
        on: Annotated[str, _DEVICE] = "local",
        inputs: Annotated[Path | None, _INPUTS] = None,
        size: Annotated[list[str] | None, _SIZE] = None,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        as_json: JsonOption = False,
    ) -> None:
        """Keep an artifact, with its inputs and the environment of a device, under a name."""
        from kdedge.cli.keeping import set_here

        set_here(name, artifact, on, inputs, tuple(size or ()), workspace, as_json)

    @group.command(name="list")
    def list_(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
        """List the baselines of the workspace."""
        from kdedge.cli.keeping import list_here

        list_here(workspace, as_json)

    @group.command()
    def show(name: NameArgument, workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
        """Say what a baseline is, and check that it is what was set."""
        from kdedge.cli.keeping import show_here

        show_here(name, workspace, as_json)
