"""A board that lies in a folder: real shells and real files; its `/sys`, `/proc` and `/etc` lie in the folder, and its tools are scripts.

Every command counts; from the one numbered `dies_at` on the connection is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from device_recordings import laid_out

from kdedge.devices.local import LocalTransport
from kdedge.devices.transport import Completed
from kdedge.errors import Disconnected

_MOVED = re.compile(r"(?<![\w.*/\]-])/(sys|proc|etc|system)/")

# The state of each tool is a file in the board's folder ($BOARD). Mode 9 wants a restart, asks for it and stays where it is.
TOOLS = {
    "nvpmodel": """
case "$1" in
-q) printf 'NV Power Mode: MODE_%s\\n%s\\n' "$(cat "$BOARD/mode")" "$(cat "$BOARD/mode")" ;;
-m) [ "$2" = 9 ] || echo "$2" > "$BOARD/mode" ;;
esac""",
    "jetson_clocks": """
cd "$BOARD/sys"
low="class/devfreq/17000000.gpu/min_freq devices/system/cpu/cpufreq/policy0/scaling_min_freq devices/system/cpu/cpufreq/policy4/scaling_min_freq"
case "$1" in
--store) for file in $low; do echo "$file $(cat "$file")"; done > "$2" ;;
--restore) while read -r file value; do echo "$value" > "$file"; done < "$2" ;;
*) for file in $low; do cat "${file%min_freq}max_freq" > "$file"; done ;;
esac""",
    "settings": """
case "$1" in
get) cat "$BOARD/setting" 2>/dev/null || echo null ;;
put) echo "$4" > "$BOARD/setting" ;;
delete) rm -f "$BOARD/setting" ;;
esac""",
    "sudo": 'shift; exec "$@"',
    "id": "echo 1000",
}


class BoardInAFolder:
    """The transport of such a board."""

    def __init__(self, folder: Path, dies_at: int | None = None) -> None:
        self.folder = folder
        self.dies_at = dies_at
        self.commands: list[str] = []
        self._local = LocalTransport()

    def push(self, local: Path, remote: str) -> int:
        self._count(f"push {remote}")
        return self._local.push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        self._count(f"pull {remote}")
        self._local.pull(remote, local)

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        self._count(" ".join(argv))
        moved = [_MOVED.sub(lambda found: f"{self.folder}{found.group()}", word) for word in argv]
        variables = {**(env or {}), "BOARD": str(self.folder), "PATH": f"{self.folder}/bin:/usr/bin:/bin"}
        done = self._local.run(["/usr/bin/env", *moved], timeout, variables)
        return replace(done, stdout=done.stdout.replace(str(self.folder) + "/", "/"))

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        raise NotImplementedError

    def read_text(self, remote: str) -> str:
        self._count(f"read {remote}")
        return self._local.read_text(remote)

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        """There is no connection."""

    def _count(self, command: str) -> None:
        if self.dies_at is not None and len(self.commands) >= self.dies_at:
            raise Disconnected("device `board`: the connection broke")
        self.commands.append(command)


def settable(folder: Path) -> BoardInAFolder:
    """A board whose power mode, clocks and governors can be set."""
    files = {"mode": "0", "setting": "3", "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_15W >\n"}
    gpu = "sys/class/devfreq/17000000.gpu/"
    files |= {gpu + "min_freq": "306000000", gpu + "max_freq": "1020000000"}
    for number in (0, 4):
        policy = f"sys/devices/system/cpu/cpufreq/policy{number}/"
        files |= {policy + "scaling_governor": "schedutil", policy + "scaling_available_governors": "schedutil performance powersave"}
        files |= {policy + "scaling_min_freq": "1728000", policy + "scaling_max_freq": "1728000"}
        files |= {policy + "cpuinfo_min_freq": "729600", policy + "cpuinfo_max_freq": "1728000"}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text + "\n")
    _install(folder, TOOLS)
    return BoardInAFolder(folder)


def recorded(name: str, folder: Path) -> BoardInAFolder:
    """A board that shows what a fixture holds."""
    laid_out(name, folder)
    programs = {path.name.split()[0] for path in (folder / "commands").glob("*")}
    _install(folder, {program: f'cat "$BOARD/commands/{program} $*"' for program in programs})
    return BoardInAFolder(folder)


def standing(folder: Path) -> dict[str, str]:
    """All that can be set on a settable board, as it stands."""
    paths = [folder / "mode", folder / "setting", *sorted((folder / "sys").rglob("*"))]
    return {str(path.relative_to(folder)): path.read_text().strip() for path in paths if path.is_file()}


def _install(folder: Path, tools: Mapping[str, str]) -> None:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name, text in tools.items():
        script = folder / "bin" / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
