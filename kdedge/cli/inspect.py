"""`kdedge inspect ARTIFACT`: what an ONNX file, a bundle or its manifest says of itself; with `--dialect`, every violation of that
grammar; with `--executed`, what a runtime makes of each node here; with `--device`, the least time that it can take on a device of the catalog."""

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
        size: Annotated[list[str] | None, typer.Option("--size", metavar="NAME=N", help="Size of a dimension that varies.")] = None,
        device: Annotated[str | None, typer.Option("--device", metavar="D", help="The least latency on this device of the catalog.")] = None,
        power_mode: Annotated[str | None, typer.Option("--power-mode", metavar="M", help="The device's power mode, for --device.")] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show inputs, outputs, operators, lineage and evidence of an artifact; check it against a dialect (exit code 1 when it breaks it)."""
        import json

        from kdedge.cli.inspecting import describe, lines, printable, violations
        from kdedge.errors import KdedgeError

        if size and not executed and device is None:
            raise KdedgeError(f"--size {size[0]}: sizes are for a run: add --executed, or --device D for a bound")
        if power_mode is not None and device is None:
            raise KdedgeError(f"--power-mode {power_mode}: a power mode is of a device: add --device D")
        facts = describe(artifact)
        found = violations(artifact, dialect) if dialect is not None else []
        if executed:
            from kdedge.cli.executing import audit_here, lines_of
            from kdedge.report.executed_json import audit_json

            ran = audit_here(artifact, size or [])
        if device is not None:
            from kdedge.cli import bounding

            bound = bounding.bound_here(artifact, device, size or [], power_mode)
        if as_json:
            checked = {"dialect": dialect, "violations": found} if dialect is not None else {}
            found_out = {**({"audit": audit_json(ran)} if executed else {}), **({"roofline": bounding.as_data(bound)} if device is not None else {})}
            print(json.dumps({**facts, **checked, **found_out}))
        else:
            print("\n".join(lines(facts)))
            if dialect is not None:
                print("\n".join((f"{len(found)} violation(s) of dialect {dialect}", *(printable(f"  {line}") for line in found))))
            if executed:
                print("\n".join(("executed", *(printable(f"  {line}") for line in lines_of(ran)))))
            if device is not None:
                print("\n".join(("roofline", *(printable(f"  {line}") for line in bounding.lines_of(bound)))))
        raise typer.Exit(1 if found else 0)
