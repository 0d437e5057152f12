"""Set a device's power mode, clocks or governor for the time of a measurement, and put everything back.

Only on request (`set:` in devices.yaml). Each change is written down on the device with the commands that undo it, then made, then read back: a
change that did not take is an error. At the end `undo_left_over` undoes what is written there, in reverse order, and reads it back again; after a
crash it does so when the device is next opened. All of it belongs under the device's lease, so that no other host's settings are undone.

nvpmodel and jetson_clocks: NVIDIA Jetson Linux Developer Guide r36, "Platform Power and Performance". No board has run this yet.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdedge.devices.jobs import last_words
from kdedge.devices.transport import Completed, Transport
from kdedge.errors import DeviceError, Disconnected
from kdedge.runtimes.jetson import is_gpu, parse_nvpmodel

UNDO_FILE = "undo.json"
_SCHEMA = 1
_TIMEOUT = 60.0
_POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
_CLOCKED = "/sys/class/devfreq/*"
# BatteryManager.BATTERY_PLUGGED_AC | USB | WIRELESS: the screen stays on while the phone is plugged in.
_PLUGGED_ANY = 7
# What sudo says, and a shell where there is none.
_NO_RIGHTS = re.compile(r"password is required|terminal is required|must have a tty|not allowed to execute|not in the sudoers|sudo: .*not found")
_RIGHTS = (
    "root's rights are missing, and kdedge never asks for a password: let this user run {} without one (a line `USER ALL=(root) NOPASSWD: ...` in a "
    "file of /etc/sudoers.d there), reach the device as root, or leave the setting out"
)


@dataclass(frozen=True)
class Change:
    """One thing to set. `read` prints how it stands: `wanted` when it took, `before` when it is undone; `reading` says how its print is compared
    ("plain", or "nvpmodel": the mode's number). `apply` and `restore` are commands, as argument lists."""

    name: str
    read: tuple[str, ...]
    wanted: str
    before: str
    apply: tuple[tuple[str, ...], ...]
    restore: tuple[tuple[str, ...], ...]
    reading: str = "plain"


@contextlib.contextmanager
def settings_on(transport: Transport, root: str, wanted: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """`make_settings` for the time of the block, under a lease that holds for all of it; yields what was changed, in words.

    Raises:
        DeviceError: as `make_settings` and `undo_left_over`.
    """
    said = make_settings(transport, root, wanted)
    try:
        yield said
    finally:
        undo_left_over(transport, root)


def make_settings(transport: Transport, root: str, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Set what is wanted, until `undo_left_over`. Returns what was changed, in words.

    `wanted`: some of `power_mode` (number or name), `lock_clocks` (true), `governor`, `min_khz`, `max_khz`, `stay_awake` (true). `root`: kdedge's
    folder on the device. What an earlier session left set is undone first.

    Raises:
        DeviceError: a setting is unknown, cannot be made, or did not take. What had been set before it is undone.
    """
    board = _Board(transport, root)
    unknown = sorted(set(wanted) - set(SETTERS))
    if unknown:
        raise DeviceError(f"set.{unknown[0]}: there is no such setting (allowed: {', '.join(SETTERS)})")
    undo_left_over(transport, root)
    made: list[Change] = []
    try:
        for name in _order(board, wanted):
            for change in SETTERS[name](board, wanted[name]):
                board.note([*made, change])
                made.append(change)
                board.make(change)
    except BaseException:
        if made:
            _undo(board, made)
        raise
    return tuple(f"{change.name}: {change.before} -> {change.wanted}" for change in made)


def _order(board: _Board, wanted: Mapping[str, Any]) -> Iterator[str]:
    """What is to be set, in the order of SETTERS: a power mode decides which clocks there are to lock.

    But for limits of clocks that come down: the lower one goes first, for Linux would drag it along with the upper one, and what is read then
    is not how it stood.
    """
    for name in SETTERS:
        if wanted.get(name) is None or wanted[name] is False:
            continue
        if name == "max_khz" and wanted.get("min_khz") is not None:
            yield from ("max_khz", "min_khz") if _limits_rise(board, wanted["min_khz"], wanted["max_khz"]) else ("min_khz", "max_khz")
        elif name != "min_khz" or wanted.get("max_khz") is None:
            yield name


def _limits_rise(board: _Board, least: Any, most: Any) -> bool:
    """Whether the lower limit goes above an upper one that stands."""
    if not (str(least).isdecimal() and str(most).isdecimal()):
        return False  # the setter says what is wrong with it
    if int(least) > int(most):
        raise DeviceError(f"set.min_khz: {least} is above set.max_khz, {most}")
    standing = (board.ask(["cat", path]) or "" for path in board.expand(f"{_POLICIES}/scaling_max_freq"))
    return any(text.isdecimal() and int(text) < int(least) for text in standing)


def undo_left_over(transport: Transport, root: str) -> tuple[str, ...]:
    """Undo what is set on the device, by this session or by one that died. Returns what was undone, in words; empty where nothing was set.

    Raises:
        DeviceError: the note of what was set cannot be read, or something could not be undone; what was not undone stays noted.
    """
    board = _Board(transport, root)
    changes = board.noted()
    if changes:
        _undo(board, changes)
    return tuple(f"{change.name}: back to {change.before}" for change in reversed(changes))


def _undo(board: _Board, changes: Sequence[Change]) -> None:
    """In reverse order, each of them even where another fails; those that fail stay noted. A connection that broke may be tried again: it stays
    that kind of error."""
    failed: list[tuple[Change, DeviceError]] = []
    for change in reversed(changes):
        try:
            board.put_back(change)
        except DeviceError as error:
            failed.append((change, error))
    if failed:
        board.note([change for change in changes if change in [one for one, _ in failed]])
        kind = next((type(error) for _, error in failed if isinstance(error, Disconnected)), DeviceError)
        raise kind("; ".join(str(error) for _, error in failed))
    board.forget()


class _Board:
    """A device as its settings see it: commands with the rights that they need, and the note of what was set."""

    def __init__(self, transport: Transport, root: str) -> None:
        self._transport = transport
        self.root = root.rstrip("/")
        self._note = f"{self.root}/{UNDO_FILE}"
        self._prefix: tuple[str, ...] | None = None

    def ask(self, argv: Sequence[str]) -> str | None:
        """What a command prints, or None where it fails."""
        done = self._transport.run(list(argv), _TIMEOUT)
        return done.stdout.strip() if done.returncode == 0 else None

    def expand(self, pattern: str) -> list[str]:
        """The paths there that match; kdedge's own patterns, which a shell may expand unquoted."""
        printed = self.ask(["sh", "-c", f'for file in {pattern}; do if [ -e "$file" ]; then echo "$file"; fi; done'])
        return (printed or "").split()

    def as_root(self, *argv: str) -> tuple[str, ...]:
        """The command with root's rights, by `sudo -n` where the user is not root: it never asks for a password."""
        if self._prefix is None:
            self._prefix = () if self.ask(["id", "-u"]) == "0" else ("sudo", "-n")
        return (*self._prefix, *argv)

    def write(self, path: str, value: str) -> tuple[str, ...]:
        """A command that writes a value into a file of sysfs."""
        return self.as_root("sh", "-c", f"echo {shlex.quote(value)} > {shlex.quote(path)}")

    def make(self, change: Change) -> None:
        """Apply a change and read it back."""
        self._do(change, change.apply, change.wanted, "was set")

    def put_back(self, change: Change) -> None:
        """Undo a change and read it back. One that stands as before already (the session died before it was made) is left alone."""
        if self._standing(change) != change.before:
            self._do(change, change.restore, change.before, "was put back")

    def note(self, changes: Sequence[Change]) -> None:
        """Write on the device how changes are undone, before they are made."""
        text = json.dumps({"schema": _SCHEMA, "changes": [asdict(change) for change in changes]}, indent=1)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / UNDO_FILE
            local.write_text(text, encoding="utf-8")
            self._transport.run(["mkdir", "-p", self.root], _TIMEOUT)
            self._transport.push(local, self._note)

    def noted(self) -> list[Change]:
        """The changes that are noted as made."""
        text = self.ask(["cat", self._note])
        if text is None:
            return []
        try:
            stored = json.loads(text)
            if stored["schema"] != _SCHEMA:
                raise ValueError(f"schema {stored['schema']}")
            return [_change_from(values) for values in stored["changes"]]
        except (ValueError, TypeError, KeyError) as error:
            raise DeviceError(
                f"{self._note} on the device, which says what an earlier session set, cannot be read ({error}): "
                "put the device's settings back by hand (or restart it) and remove the file"
            ) from error

    def forget(self) -> None:
        """Remove the note: nothing is set any more."""
        if self.ask(["rm", "-f", self._note]) is None:
            raise DeviceError(f"{self._note} on the device cannot be removed; all settings were undone")

    def _do(self, change: Change, commands: Sequence[Sequence[str]], expected: str, what: str) -> None:
        done = Completed(0, "", "")
        for command in commands:
            done = self._transport.run(list(command), _TIMEOUT)
            if done.returncode != 0:
                said = last_words(done.stderr or done.stdout)
                if command[0] == "sudo" and _NO_RIGHTS.search(done.stderr):
                    said += f": {_RIGHTS.format(f'`{command[2]}`')}"
                raise DeviceError(f"{change.name}: `{shlex.join(command)}` failed on the device{said}")
        standing = self._standing(change)
        if standing != expected:
            raise DeviceError(
                f"{change.name}: {what} to {expected}, and the device still says {standing or 'nothing'}{last_words(done.stderr + done.stdout)}"
            )

    def _standing(self, change: Change) -> str | None:
        printed = self.ask(change.read)
        if printed is None:
            return None
        return _mode_number(printed) if change.reading == "nvpmodel" else " ".join(printed.split())


def _change_from(values: Mapping[str, Any]) -> Change:
    commands = {name: tuple(tuple(command) for command in values[name]) for name in ("apply", "restore")}
    return Change(**{**values, **commands, "read": tuple(values["read"])})


# ---- what can be set -------------------------------------------------------------------------------------------------------


def _power_mode(board: _Board, value: Any) -> list[Change]:
    """nvpmodel. A mode that needs a restart asks for it, gets no answer, and is found out by the read-back."""
    # Most releases tell it to everybody.
    asked = ((said, _mode_number(board.ask(said) or "")) for said in (("nvpmodel", "-q"), board.as_root("nvpmodel", "-q")))
    read, before = next(((said, number) for said, number in asked if number is not None), (("nvpmodel",), None))
    if before is None:
        raise DeviceError(
            "set.power_mode: the device does not tell its power mode (`nvpmodel -q`): it is no Jetson, "
            "or hides it from this user, who has no root's rights (`sudo -n`)"
        )
    wanted = str(value) if re.fullmatch(r"\d+", str(value)) else _mode_named(board, str(value))
    if wanted == before:
        return []
    changed, back = (board.as_root("nvpmodel", "-m", mode) for mode in (wanted, before))
    return [Change("power_mode", read, wanted, before, (changed,), (back,), reading="nvpmodel")]


def _mode_named(board: _Board, name: str) -> str:
    config = board.ask(["cat", "/etc/nvpmodel.conf"]) or ""
    modes: dict[str, str] = {found: number for number, found in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", config)}
    if name not in modes:
        raise DeviceError(f"set.power_mode: the device has no power mode `{name}` (allowed: {', '.join(modes) or 'a number'})")
    return modes[name]


def _mode_number(printed: str) -> str | None:
    number = parse_nvpmodel(printed).get("power_mode_id")
    return None if number is None else str(number)


def _lock_clocks(board: _Board, value: Any) -> list[Change]:
    """jetson_clocks: the present power mode's highest clocks; `--store` first, so that `--restore` knows the way back."""
    if value is not True:
        raise DeviceError(f"set.lock_clocks: `{value}` (allowed: true)")
    gpus = [path for path in board.expand(f"{_CLOCKED}/min_freq") if is_gpu(path.split("/")[-2])]
    lower = [*gpus, *board.expand(f"{_POLICIES}/scaling_min_freq")]
    upper = [path.replace("min_freq", "max_freq") for path in lower]
    before, wanted = (board.ask(["cat", *paths]) if paths else None for paths in (lower, upper))
    if before is None or wanted is None or board.ask(["sh", "-c", "command -v jetson_clocks"]) is None:
        raise DeviceError("set.lock_clocks: the device has no `jetson_clocks`, or hides its clocks: it is no Jetson")
    before, wanted = (" ".join(text.split()) for text in (before, wanted))
    if before == wanted:
        return []
    saved = f"{board.root}/clocks.saved"
    # The folder is the user's own, so that root need not remove what root wrote there.
    apply = (("rm", "-f", saved), board.as_root("jetson_clocks", "--store", saved), board.as_root("jetson_clocks"))
    return [Change("lock_clocks", ("cat", *lower), wanted, before, apply, (board.as_root("jetson_clocks", "--restore", saved),))]


def _governor(board: _Board, value: Any) -> list[Change]:
    return _of_each_policy(board, "governor", "scaling_governor", str(value), _allowed_governor)


def _min_khz(board: _Board, value: Any) -> list[Change]:
    return _of_each_policy(board, "min_khz", "scaling_min_freq", str(value), _allowed_clock)


def _max_khz(board: _Board, value: Any) -> list[Change]:
    return _of_each_policy(board, "max_khz", "scaling_max_freq", str(value), _allowed_clock)


def _of_each_policy(board: _Board, name: str, leaf: str, value: str, allowed: Callable[[_Board, str, str], str]) -> list[Change]:
    """One change a cpufreq policy; `allowed` names what it takes instead, "" where the value is right."""
    policies = board.expand(_POLICIES)
    if not policies:
        raise DeviceError(f"set.{name}: the device has no cpufreq policies (`{_POLICIES}`): its clocks cannot be set")
    changes = []
    for policy in policies:
        refused = allowed(board, policy, value)
        if refused:
            raise DeviceError(f"set.{name}: {policy} does not take `{value}` (allowed: {refused})")
        path = f"{policy}/{leaf}"
        before = board.ask(["cat", path])
        if before is None:
            raise DeviceError(f"set.{name}: {path} cannot be read on the device")
        if before != value:
            where = f"{name} of {policy.rsplit('/', 1)[1]}"
            changes.append(Change(where, ("cat", path), value, before, (board.write(path, value),), (board.write(path, before),)))
    return changes


def _allowed_governor(board: _Board, policy: str, value: str) -> str:
    available = (board.ask(["cat", f"{policy}/scaling_available_governors"]) or "").split()
    return "" if value in available else ", ".join(available) or "it names none"


def _allowed_clock(board: _Board, policy: str, value: str) -> str:
    least, most = (board.ask(["cat", f"{policy}/cpuinfo_{end}_freq"]) for end in ("min", "max"))
    if not least or not most:
        return "it names no limits"
    return "" if value.isdecimal() and int(least) <= int(value) <= int(most) else f"{least} to {most} kHz"


def _stay_awake(board: _Board, value: Any) -> list[Change]:
    if value is not True:
        raise DeviceError(f"set.stay_awake: `{value}` (allowed: true)")
    key = ("global", "stay_on_while_plugged_in")
    before = board.ask(["settings", "get", *key])
    if before is None:
        raise DeviceError("set.stay_awake: the device has no `settings` command: it is no Android phone")
    wanted = str(_PLUGGED_ANY)
    if before == wanted:
        return []
    back = ("settings", "delete", *key) if before == "null" else ("settings", "put", *key, before)
    return [Change("stay_awake", ("settings", "get", *key), wanted, before, (("settings", "put", *key, wanted),), (back,))]


SETTERS: dict[str, Callable[[_Board, Any], list[Change]]] = {
    "power_mode": _power_mode,
    "governor": _governor,
    "max_khz": _max_khz,
    "min_khz": _min_khz,
    "lock_clocks": _lock_clocks,
    "stay_awake": _stay_awake,
}
"""What a user may ask for, in the order in which it is made (but see `_order`)."""
