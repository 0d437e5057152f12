"""`kdedge inspect ARTIFACT`: what an ONNX file, a bundle or its manifest says of itself; with `--dialect`, every violation of that grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def inspect(
        artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An ONNX file, or a bundle's folder.", show_default=False)],
        dialect: Annotated[str | None, typer.Option("--dialect", metavar="D", help="List what breaks this dialect's grammar.")] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show inputs, outputs, operators, lineage and evidence of an artifact; check it against a dialect (exit code 1 when it breaks it)."""
        import json

        from kdedge.cli.inspecting import describe, lines, violations

        facts = describe(artifact)
        found = violations(artifact, dialect) if dialect is not None else []
        if as_json:
            print(json.dumps({**facts, **({"dialect": dialect, "violations": found} if dialect is not None else {})}))
        else:
            print("\n".join(lines(facts)))
            if dialect is not None:
                print("\n".join((f"{len(found)} violation(s) of dialect {dialect}", *(f"  {line}" for line in found))))
        raise typer.Exit(1 if found else 0)
