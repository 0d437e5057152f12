"""`kdedge history`: what was measured over time, and where it stepped."""

from __future__ import annotations

from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def history(
        line: Annotated[str, typer.Argument(metavar="[LINE]", help="Show series whose name contains this; default: all.")] = "",
        on: Annotated[str, typer.Option("--on", metavar="DEVICE", help="Of this device alone.")] = "",
        margin: Annotated[str, typer.Option("--margin", metavar="SHARE", help="Smaller steps are not marked.")] = "3%",
        url: Annotated[str, typer.Option("--history", metavar="URL", help="Database of launches.")] = "",
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        as_json: JsonOption = False,
    ) -> None:
        """List series of latencies, plot them, and warn where they stepped. The exit code is 0 whatever they did."""
        import json

        from kdedge.cli.checking import opened_history, share_of
        from kdedge.errors import KdedgeError
        from kdedge.regression.trends import lines_of, trends

        smallest = share_of(margin, "--margin")
        with opened_history(url, workspace) as kept:
            if kept is None:
                raise KdedgeError("--history none keeps nothing, so there is nothing to show")
            found = trends(kept, line, on, smallest)
        if as_json:
            print(json.dumps([trend.as_json() for trend in found]))
            return
        for trend in found:
            print("\n".join(lines_of(trend)))
        if not found:
            print("no launches are kept of that; `kdedge check` and `kdedge profile` keep theirs")
