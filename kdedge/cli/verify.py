"""`kdedge verify BUNDLE [--on DEVICE]`: nothing missing, nothing changed, and the artifact still answers as it did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def verify(
        bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.", show_default=False)],
        on: Annotated[str, typer.Option("--on", metavar="DEVICE", help="Run it on this device instead of here.")] = "",
        files_only: Annotated[bool, typer.Option("--files-only", help="Check the files, do not run the artifact.")] = False,
    ) -> None:
        """Check a bundle's files against its manifest, then run its self-check, or its golden examples on a device."""
        from kdedge.bundle.verify import verify as verify_bundle
        from kdedge.devices import close_devices

        try:
            report = verify_bundle(bundle, run=not files_only, device=on)
        finally:
            close_devices()
        print(report.text)
        raise typer.Exit(report.exit_code)
