"""The user's own devices by name: `devices.yaml`.

    orin:
      transport: ssh:orin.local        # required: how it is reached
      python: /opt/venv/bin/python     # its interpreter, by full path
      root: /data/kdedge               # kdedge's folder there
      profile: jetson-orin-nano        # its entry in the catalog
      set: {power_mode: MAXN}          # set for a measurement, undone after it
      runners: {benchmark_model: ./benchmark_model}   # adb without a Python there: native programs; paths are relative to this file
      environment: {LD_LIBRARY_PATH: /opt/lib}        # more variables for the worker

The file is the one that `KDEDGE_DEVICES` names, else `devices.yaml` in the current folder, else `~/.config/kdedge/devices.yaml`.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kdedge.devices.device import DeviceSettings
from kdedge.errors import DeviceError

VARIABLE = "KDEDGE_DEVICES"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Device, key, name in it: what a setting's value is made of is its own, and an alias in it may lead round in a circle.
_DEEPEST = 3
_KEYS = ("transport", *(each.name for each in fields(DeviceSettings) if each.name != "address"))


@dataclass(frozen=True)
class Entry:
    """A device of the user's. `transport`: the name that opens it without the file (`ssh:orin.local`)."""

    transport: str
    settings: DeviceSettings


def inventory_file() -> Path | None:
    """The file that is read; None where there is none.

    Raises:
        DeviceError: the environment names one that does not exist.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        if not Path(named).is_file():
            raise DeviceError(f"{VARIABLE} names {named}, which is no file")
        return Path(named)
    places = [Path("devices.yaml")]
    with contextlib.suppress(RuntimeError):  # a user without a home has no file there
        places.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kdedge" / "devices.yaml")
    return next((path for path in places if path.is_file()), None)


def read_inventory(schemes: Iterable[str]) -> dict[str, Entry]:
    """The user's devices by name; none where there is no file. `schemes`: those that a transport may have.

    Raises:
        DeviceError: the file cannot be read, or something in it is wrong: file, line, key, what was found and what is allowed.
    """
    path = inventory_file()
    return {} if path is None else _read(path, tuple(schemes))


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint where a word is nearly one of those that are allowed, else ""."""
    close = difflib.get_close_matches(word, sorted(allowed), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _read(path: Path, schemes: tuple[str, ...]) -> dict[str, Entry]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DeviceError(f"{path}{f':{mark.line + 1}' if mark else ''}: this is not YAML: {getattr(error, 'problem', None) or error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise DeviceError(f"{path}:1: here stand devices by name, each with its `transport`")
    lines = _Lines(path)
    lines.walk(tree, ())
    return {name: _entry(name, value, lines, schemes) for name, value in found.items()}


class _Lines:
    """Where each key stands. A key that stands twice is refused: the last would win unseen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[Any, ...], int] = {}

    def walk(self, node: Any, place: tuple[Any, ...]) -> None:
        for key, value in node.value if node.id == "mapping" else ():
            inner = (*place, key.value)
            if inner in self._lines:
                raise DeviceError(f"{self.path}:{key.start_mark.line + 1}: {_dotted(inner)}: the key is there already, in line {self._lines[inner]}")
            self._lines[inner] = key.start_mark.line + 1
            if len(inner) < _DEEPEST:
                self.walk(value, inner)

    def error(self, place: tuple[Any, ...], what: str) -> DeviceError:
        line = next((self._lines[place[:size]] for size in range(len(place), 0, -1) if place[:size] in self._lines), 1)
        return DeviceError(f"{self.path}:{line}: {_dotted(place)}: {what}")


def _entry(name: Any, value: Any, lines: _Lines, schemes: tuple[str, ...]) -> Entry:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in schemes:
        raise lines.error((str(name),), f"a name is made of letters, digits, `.`, `_` and `-`, and is none of {', '.join(sorted(schemes))}")
    if not isinstance(value, dict):
        raise lines.error((name,), "here stand its keys: " + ", ".join(_KEYS))
    for key in value:
        if key not in _KEYS:
            raise lines.error((name, str(key)), f"unknown key{nearest(str(key), _KEYS)} (allowed: {', '.join(_KEYS)})")
    checked = _checked(name, value, lines)
    scheme, _, address = checked.pop("transport").partition(":")
    if scheme not in schemes:
        raise lines.error((name, "transport"), f"there is no `{scheme}`{nearest(scheme, schemes)} (there is: {', '.join(sorted(schemes))})")
    runners = {program: _own_path(path, lines, (name, "runners", program)) for program, path in checked.pop("runners").items()}
    return Entry(f"{scheme}:{address}" if address else scheme, DeviceSettings(address=address, runners=runners, **checked))


def _own_path(path: Path, lines: _Lines, place: tuple[str, ...]) -> Path:
    try:
        return lines.path.parent / path.expanduser()
    except RuntimeError as error:
        raise lines.error(place, f"{path}: this user has no home here") from error


def _checked(name: str, value: Mapping[str, Any], lines: _Lines) -> dict[str, Any]:
    """The values with their types, by pydantic, which is imported here: most runs have no inventory."""
    from pydantic import ConfigDict, Field, ValidationError, create_model

    model = create_model(
        "Device",
        __config__=ConfigDict(extra="forbid", coerce_numbers_to_str=True),
        transport=(str, Field(min_length=1)),
        python=(str, ""),
        root=(str, ""),
        profile=(str, ""),
        set=(dict[str, Any], Field(default_factory=dict)),
        runners=(dict[str, Path], Field(default_factory=dict)),
        environment=(dict[str, str], Field(default_factory=dict)),
    )
    try:
        checked = model.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        place = (name, *first["loc"])
        found = "" if first["type"] == "missing" else f" (found {first['input']!r})"
        raise lines.error(place, f"{first['msg'][:1].lower()}{first['msg'][1:]}{found}") from error
    for key in ("python", "root"):
        given = getattr(checked, key)
        if given and not given.startswith("/"):
            raise lines.error((name, key), f"this must be a full path on the device (found {given!r})")
    for variable in dict(checked)["environment"]:
        if not _VARIABLE_NAME.fullmatch(variable):
            raise lines.error((name, "environment", variable), "a variable's name is made of letters, digits and `_`, and begins with no digit")
    return {key: getattr(checked, key) for key in _KEYS}


def _dotted(place: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in place)
