"""`kdedge devices list|probe|emulate|simulate|serve`: what can be measured on from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The devices that measurements run on.", no_args_is_help=True)
    app.add_typer(group, name="devices")

    @group.command(name="list")
    def list_(as_json: JsonOption = False) -> None:
        """List this machine, your own devices (devices.yaml) and the kinds that can be named without it. Connects to none."""
        from kdedge.cli.probing import list_here

        list_here(as_json)

    @group.command()
    def probe(
        devices: Annotated[list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Names or patterns; default: this machine.")] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Connect to devices and say what they are: facts, runtimes, sensors, and their entry in the catalog."""
        from kdedge.cli.probing import probe_here

        raise typer.Exit(probe_here(tuple(devices or ("local",)), as_json))

    @group.command()
    def emulate(
        cpu: Annotated[str, typer.Option("--cpu", metavar="CPU", help="cortex-a53, cortex-a72, cortex-a76 or max.")] = "cortex-a76",
        refresh: Annotated[bool, typer.Option("--refresh", help="Set it up anew.")] = False,
    ) -> None:
        """Set up an emulated arm64 board on this machine: right results, no times."""
        from kdedge.cli.emulating import emulate as emulate_here

        raise typer.Exit(emulate_here(cpu, refresh))

    @group.command()
    def simulate(
        scenario: Annotated[str, typer.Argument(metavar="[SCENARIO]", help="Draw launches of this one; default: list all.")] = "",
        launches: Annotated[int, typer.Option("--launches", min=1, help="How many.")] = 10,
        milliseconds: Annotated[float, typer.Option("--milliseconds", min=1e-3, help="What an iteration takes undisturbed.")] = 1.0,
        seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
        as_json: JsonOption = False,
    ) -> None:
        """List imagined devices that drift, throttle or disconnect, or show what launches on one look like."""
        from kdedge.cli.probing import simulate_here

        simulate_here(scenario, launches, milliseconds, seed, as_json)

    @group.command()
    def serve(
        bind: Annotated[str, typer.Option("--bind", metavar="ADDRESS", help="Serve a network, with a one-time token.")] = "127.0.0.1",
        port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8765,
        fetch: Annotated[bool, typer.Option("--fetch", help="Get onnxruntime-web from npm.")] = False,
        runtime: Annotated[Path | None, typer.Option("--runtime", metavar="DIR", help="A folder with onnxruntime-web.")] = None,
        certificate: Annotated[Path | None, typer.Option("--certificate", metavar="FILE", help="Serve HTTPS by this certificate (PEM).")] = None,
        key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The certificate's private key (PEM).")] = None,
    ) -> None:
        """Serve the page by which any phone's browser becomes a device; prints its address and a QR code."""
        from kdedge.cli.serving import serve as serve_here

        raise typer.Exit(serve_here(bind, port, fetch, runtime, certificate, key))
