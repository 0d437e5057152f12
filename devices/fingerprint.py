"""From the facts that `kdedge.runtimes.facts` gathers on a machine to what a measurement there is keyed by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdedge.devices.device import DeviceSettings
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
        machines, known = _words(found["machines"]), {str(fact): printable(str(value)) for fact, value in dict(found["fingerprint"]).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"device `{name}`: its worker does not say what the device is ({error}): {printed[:200]!r}") from error
    return DeviceIdentity(name=name, kind=kind, machines=machines, fingerprint=known)


def as_set(identity: DeviceIdentity, settings: DeviceSettings) -> DeviceIdentity:
    """The identity with what the user set for the device: in another power mode, by another interpreter, with other libraries or by another native
    program it is another measurement. Paths and values that may tell who somebody is are told by their hash.

    Raises:
        DeviceError: a native program cannot be read.
    """
    programs = {name: _digest_of_files(name, path) for name, path in settings.runners.items()}
    told = {
        "set": ", ".join(f"{name} {value}" for name, value in sorted(settings.set.items())),
        "interpreter": _short(settings.python) if settings.python else "",
        "environment": ", ".join(f"{name} {_short(value)}" for name, value in sorted(settings.environment.items())),
        "programs": ", ".join(f"{name} {digest}" for name, digest in sorted(programs.items())),
    }
    return replace(identity, fingerprint={**identity.fingerprint, **{fact: value for fact, value in told.items() if value}})


def printable(text: str) -> str:
    """What a device says of itself goes to a terminal: without what would steer that."""
    return "".join(each if each.isprintable() else " " for each in text)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest_of_files(name: str, path: Path) -> str:
    """Of a program, or of a folder with it; "absent" where it is not there, which is the runner's to say."""
    try:
        return digest(path)[:12] if path.exists() else "absent"
    except OSError as error:
        raise DeviceError(f"the native program {name} at {path} cannot be read: {error.strerror or error}") from error


def digest(path: Path) -> str:
    """The hash of a file with its name, or of all files of a folder with theirs."""
    total = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{file.relative_to(path if path.is_dir() else path.parent).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def _words(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise ValueError("`machines` is no list of words")
    return tuple(found)
