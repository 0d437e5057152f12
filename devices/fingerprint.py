"""From the facts that `kdedge.runtimes.facts` gathers on a machine to what a measurement there is keyed by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity
from kdedge.runtimes import facts


def identify(name: str, kind: str, root: Path = Path("/")) -> DeviceIdentity:
    """Describe the machine that this process runs on. `root`: where `proc`, `etc` and `dev` lie (a test's own)."""
    return DeviceIdentity(name=name, kind=kind, machines=tuple(facts.machines(str(root))), fingerprint=fingerprint(root))


def fingerprint(root: Path = Path("/")) -> dict[str, str]:
    """Facts of this machine by name; a fact that cannot be read is absent."""
    return facts.fingerprint(str(root))


def identity_from_probe(name: str, kind: str, printed: str) -> DeviceIdentity:
    """Describe the device that printed the facts (`worker.pyz probe`).

    Raises:
        DeviceError: these are no facts, or its Python has no numpy.
    """
    try:
        found = json.loads(printed)
        if found["schema"] != facts.SCHEMA:
            raise ValueError(f"schema {found['schema']!r}, not {facts.SCHEMA}")
        if not found["numpy"]:
            raise DeviceError(f"device `{name}`: its Python has no numpy, which the worker needs: install it there, or name another `python`")
        machines, known = _words(found["machines"]), {str(fact): str(value) for fact, value in dict(found["fingerprint"]).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"device `{name}`: its worker does not say what the device is ({error}): {printed[:200]!r}") from error
    return DeviceIdentity(name=name, kind=kind, machines=machines, fingerprint=known)


def _words(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise ValueError("`machines` is no list of words")
    return tuple(found)
