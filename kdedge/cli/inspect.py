"""`kdedge inspect ARTIFACT`: what an ONNX file, a bundle or its manifest says of itself; with `--dialect`, every violation of that grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def inspect(
        artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An ONNX file, or a bundle's folder.", show_default=False)],
        dialect: Annotated[str | None, typer.Option("--dialect", metavar="D", help="List what breaks this dialect's grammar.")] = None,
    ) -> None:
        """Show inputs, outputs, lineage and operators of an artifact; check it against a dialect."""
        from kdedge.cli.inspecting import describe, violations

        print(describe(artifact))
        if dialect is not None:
            found = violations(artifact, dialect)
            for line in found:
                print(line)
            print(f"{len(found)} violation(s) of dialect {dialect}")
            raise typer.Exit(1 if found else 0)
