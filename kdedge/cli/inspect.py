"""`kdedge inspect ARTIFACT`: what an ONNX file, a bundle or its manifest says of itself; with `--dialect`, every violation of that
grammar; with `--executed`, what a runtime makes of each node here."""

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
        executed: Annotated[bool, typer.Option("--executed", help="Run it here and show in which precision each node that multiplies ran.")] = False,
        size: Annotated[list[str] | None, typer.Option("--size", metavar="NAME=N", help="Size of a dimension that varies, for --executed.")] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show inputs, outputs, operators, lineage and evidence of an artifact; check it against a dialect (exit code 1 when it breaks it)."""
        import json

        from kdedge.cli.inspecting import describe, lines, printable, violations
        from kdedge.errors import KdedgeError

        if size and not executed:
            raise KdedgeError(f"--size {size[0]}: sizes are for a run: add --executed")
        facts = describe(artifact)
        found = violations(artifact, dialect) if dialect is not None else []
        if executed:
            from kdedge.cli.executing import audit_here, lines_of
            from kdedge.report.executed_json import audit_json

            ran = audit_here(artifact, size or [])
        if as_json:
            checked = {"dialect": dialect, "violations": found} if dialect is not None else {}
            print(json.dumps({**facts, **checked, **({"audit": audit_json(ran)} if executed else {})}))
        else:
            print("\n".join(lines(facts)))
            if dialect is not None:
                print("\n".join((f"{len(found)} violation(s) of dialect {dialect}", *(f"  {line}" for line in found))))
            if executed:
                print("\n".join(("executed", *(printable(f"  {line}") for line in lines_of(ran)))))
        raise typer.Exit(1 if found else 0)
