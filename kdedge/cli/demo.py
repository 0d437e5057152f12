"""`kdedge demo`: the packaged digits recipe, start to report."""

from __future__ import annotations

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, OnOption, QuietOption, RemeasureOption, SetOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def demo(
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        on: OnOption = None,
        set_: SetOption = None,
        remeasure: RemeasureOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Run the main job on real handwritten digits: teacher, student, six artifacts, gate, bundles, report."""
        from importlib import resources

        from kdedge.cli.running import run_recipe

        with resources.as_file(resources.files("kdedge") / "demo.yaml") as recipe:
            raise typer.Exit(run_recipe(recipe, "report", workspace, on, set_, remeasure, as_json, quiet))
