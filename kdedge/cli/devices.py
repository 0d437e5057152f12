"""`kdedge devices list`: what can be measured on from here."""

from __future__ import annotations

import typer

from kdedge.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The devices that measurements run on.", no_args_is_help=True)
    app.add_typer(group, name="devices")

    @group.command(name="list")
    def list_(as_json: JsonOption = False) -> None:
        """List the devices that can be opened, and the facts that identify them."""
        import dataclasses
        import json

        from kdedge.devices import DEVICES, open_device

        identities = [open_device(name).identity for name in DEVICES]
        if as_json:
            print(json.dumps([dataclasses.asdict(identity) for identity in identities]))
            return
        for identity in identities:
            print(f"{identity.name} ({identity.kind}): {', '.join(identity.machines)}")
            for fact, value in sorted(identity.fingerprint.items()):
                print(f"  {fact}: {value}")
