"""The work of `kdedge devices serve`: a page for any browser that then is a device, until Ctrl-C."""

from __future__ import annotations

import importlib
import socket
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TextIO

from kdedge.errors import DeviceError, MissingExtra

DEFAULT_PORT = 8765


def serve(
    bind: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    fetch: bool = False,
    runtime_folder: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    *,
    until: Callable[[], bool] = lambda: False,
    out: TextIO | None = None,
) -> int:
    """Serve until Ctrl-C, or until `until()` says so. Returns the exit code.

    `bind`: an address of this machine; anything but loopback is for phones in the same network. `fetch`: download onnxruntime-web by npm where it
    is missing; `runtime_folder`: take it from there instead. `certificate` and `key`: PEM files, for https.

    Raises:
        DeviceError: onnxruntime-web is not here, the address cannot be listened on, or a server runs already.
        MissingExtra: the QR code needs a package that is not installed.
    """
    from kdedge.devices.browser import fetch as web
    from kdedge.devices.browser.access import Access
    from kdedge.devices.browser.control import Control
    from kdedge.devices.browser.desk import Desk
    from kdedge.devices.browser.server import start

    if (certificate is None) != (key is None):
        raise DeviceError("--certificate and --key belong together: give both, or neither for plain http")
    draw = None if _loopback(bind) else _qr_code()
    out = out or sys.stdout
    runtime = web.obtain(runtime_folder, fetch=fetch)
    desk = Desk(runtime.version)
    control = Control(desk, runtime.version)
    try:
        used: list[str] = []
        tls = (certificate, key) if certificate is not None and key is not None else None
        server = start(desk, runtime, bind, port, Access(announce=used.append), tls)
        try:
            _announce(server.address(_reachable(bind)), draw, out, first=True)
            _note_on_loopback(bind, server.port, tls is not None, out)
            known: set[str] = set()
            while not until():
                time.sleep(0.2)
                known = _say_changes(known, {page.name for page in desk.pages()}, out)
                if used:
                    used.clear()
                    _announce(server.address(_reachable(bind)), draw, out, first=False)
        except KeyboardInterrupt:
            print("\nstopped; open pages have ended", file=out)
        finally:
            server.close()
    finally:
        control.close()
    return 0


def _announce(address: str, draw: Callable[[str, TextIO], None] | None, out: TextIO, *, first: bool) -> None:
    print(f"{'Open this address' if first else 'That address is used up; for one more page'}: {address}", file=out)
    if draw is not None:
        draw(address, out)
    out.flush()


def _note_on_loopback(bind: str, port: int, secure: bool, out: TextIO) -> None:
    if _loopback(bind):
        print(
            f"It works on this machine only. An Android phone on a cable reaches it after: adb reverse tcp:{port} tcp:{port}\n"
            "For a phone in the network: kdedge devices serve --bind ADDRESS",
            file=out,
        )
    elif not secure:
        print(
            "This is plain http: who can read this network can read the models, and browsers give such a page no threads, no WebGPU and a coarse\n"
            "clock. With --certificate and --key, or over `adb reverse`, they do.",
            file=out,
        )
    print("Ctrl-C ends it.", file=out, flush=True)


def _say_changes(before: set[str], now: set[str], out: TextIO) -> set[str]:
    for name in sorted(now - before):
        print(f"open: {name} (measure on it with --on browser:{name})", file=out, flush=True)
    for name in sorted(before - now):
        print(f"closed: {name}", file=out, flush=True)
    return now


def _qr_code() -> Callable[[str, TextIO], None]:
    try:
        segno: Any = importlib.import_module("segno")
    except ImportError as error:
        raise MissingExtra("segno", "devices", "the QR code of `kdedge devices serve --bind`") from error
    return lambda address, out: segno.make(address, micro=False, error="m").terminal(out=out, border=2, compact=True)


def _loopback(bind: str) -> bool:
    try:
        return ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"


def _reachable(bind: str) -> str:
    """How another machine calls this one: where the server is bound to all addresses, the one that leads outside. No packet is sent for it."""
    try:
        if not ip_address(bind).is_unspecified:
            return bind
    except ValueError:
        return bind
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if ":" in bind else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))
            found: str = probe.getsockname()[0]
        except OSError:
            return "localhost"
        return found
