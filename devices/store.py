"""Files on a device by their content: what is there is not sent again, and a name is taken only by a whole file.

Plain commands of any Linux (`sh`, `sha256sum`, `ln`, `mv`), so that phones without Python have it too.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from kdedge.devices.transport import Completed, Transport
from kdedge.errors import DeviceError, DeviceUnresponsive

# Below this much free space nothing is begun there.
_LEAST_FREE_KIB = 2048
# One command's length: some shells and daemons take no more than 128 KiB in one argument.
_LONGEST = 24_000
_SECONDS = 60.0
# Hashing on a slow card, with much to spare.
_BYTES_PER_SECOND = 2e6

# $1: folder. Then name and size of each file. Prints the names that are not there, and touches the others: they are in use.
_MISSING = """
mkdir -p "$1" || exit 1
cd "$1" || exit 1
df -Pk . | { read -r _; read -r _ _ _ free _; echo "free $free"; }
shift
while [ $# -gt 1 ]; do
    if [ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$2" ]; then touch "$1"; else echo "$1"; fi
    shift 2
done
"""

# $1: folder, $2: what stands before the names of files that have just arrived. Then names, which are their hashes. Prints the names that are wrong.
_PUBLISH = """
cd "$1" || exit 1
arrived=$2
shift 2
for name in "$@"; do
    # A transport to this same machine links: what its owner changes in place must not change here.
    if [ "$(stat -c %h "$arrived$name" 2>/dev/null || echo 1)" -gt 1 ]; then
        cp "$arrived$name" "$arrived$name.own" && mv -f "$arrived$name.own" "$arrived$name" || exit 1
    fi
    sum=$(sha256sum <"$arrived$name") || exit 1
    if [ "${sum%% *}" = "$name" ]; then mv -f "$arrived$name" "$name" || exit 1; else rm -f "$arrived$name"; echo "$name"; fi
done
"""

# $1: folder of the store, $2: the folder to place in. Then pairs: name in the store, name there. Notes what is used, so that no sweep takes it.
_LINK = """
store=$1
mkdir -p "$2" && cd "$2" || exit 1
shift 2
while [ $# -gt 1 ]; do
    case $2 in */*) [ -d "${2%/*}" ] || mkdir -p "${2%/*}" || exit 1 ;; esac
    echo "$1" >>uses || exit 1
    [ ! -e "$2" ] || rm -f "$2"
    ln "$store/$1" "$2" 2>/dev/null || cp "$store/$1" "$2" || exit 1
    shift 2
done
"""


class Store:
    """The store of one device, in its folder `ROOT/store`. `name`: the device's, for messages."""

    def __init__(self, transport: Transport, root: str, name: str) -> None:
        self._transport = transport
        self._name = name
        # Of its own: another host may send the same file at the same time, from a process of the same number.
        self._prefix = f"arriving-{secrets.token_hex(4)}-"
        self.folder = f"{root}/store"

    def path(self, digest: str) -> str:
        """Where the file of that content lies on the device."""
        return f"{self.folder}/{digest}"

    def keep(self, files: Sequence[Path]) -> dict[Path, str]:
        """Have files on the device. Returns their hashes; `sent` counts the bytes that went over the line.

        Raises:
            DeviceError: a file cannot be read, the disk there is full, or what arrived is not what was sent.
        """
        return self._keep(files)[0]

    def sent(self, files: Sequence[Path]) -> int:
        """`keep`, and the bytes that were sent for it."""
        return self._keep(files)[1]

    def _keep(self, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
        digests = {path: self._digest(path) for path in files}
        by_digest = {digest: path for path, digest in digests.items()}
        missing = self._missing({digest: path.stat().st_size for digest, path in by_digest.items()})
        sent = sum(self._transport.push(by_digest[digest], f"{self.folder}/{self._prefix}{digest}") for digest in missing)
        if missing:
            self._publish(missing, sum(by_digest[digest].stat().st_size for digest in missing))
        return digests, sent

    def link(self, folder: str, names: Mapping[str, str]) -> None:
        """Give stored files their own names in a folder. `names`: name there (it may hold folders) -> hash.

        Raises:
            DeviceError: one is not in the store, or cannot be placed.
        """
        for words in _in_parts([word for name, digest in names.items() for word in (digest, name)], 2):
            self._run(_LINK, [self.folder, folder, *words], "the job's files cannot be placed")

    def _digest(self, path: Path) -> str:
        try:
            found = path.stat()
            return _sha256(path, found.st_size, found.st_mtime_ns, found.st_ino)
        except OSError as error:
            raise DeviceError(f"device `{self._name}`: {path} cannot be placed on it: {error.strerror or error}") from error

    def _missing(self, sizes: Mapping[str, int]) -> list[str]:
        missing = []
        for words in _in_parts([word for digest, size in sizes.items() for word in (digest, str(size))], 2):
            said = self._run(_MISSING, [self.folder, *words], "its folder cannot be made")
            free, *names = said.splitlines() or [""]
            if not set(names) <= set(words):
                raise DeviceError(f"device `{self._name}`: what it says of its files cannot be understood: {said[:200]!r}")
            missing += names
            self._check_space(free.removeprefix("free "), sum(sizes[name] for name in names))
        return missing

    def _check_space(self, free: str, needed: int) -> None:
        if free.isdigit() and int(free) < _LEAST_FREE_KIB + needed // 1024:
            room = f"{int(free) / 1024:.1f} MiB are free in {self.folder}, {needed / 1048576:.1f} MiB are to be sent"
            raise DeviceError(f"device `{self._name}`: its disk is full: {room}; remove something there, or name another `root` in devices.yaml")

    def _publish(self, names: Sequence[str], size: int) -> None:
        for words in _in_parts(names, 1):
            wrong = self._run(_PUBLISH, [self.folder, self._prefix, *words], "a file that was sent cannot be kept", size / _BYTES_PER_SECOND).split()
            if wrong:
                raise DeviceError(
                    f"device `{self._name}`: {len(wrong)} files arrived changed in {self.folder} (first: {wrong[0]}); is its disk sound?"
                )

    def _run(self, script: str, words: Sequence[str], what: str, more_seconds: float = 0.0) -> str:
        return run_script(self._transport, self._name, script, words, what, _SECONDS + more_seconds).stdout


def run_script(transport: Transport, name: str, script: str, words: Sequence[str], what: str, seconds: float = _SECONDS) -> Completed:
    """Run a shell script on the device with `words` as its arguments. `what` says what failed if it fails.

    Raises:
        DeviceUnresponsive: it did not end in time.
        DeviceError: it failed.
    """
    return judged(transport.run(["sh", "-c", script, "kdedge", *words], seconds), name, what, seconds)


def judged(completed: Completed, name: str, what: str, seconds: float) -> Completed:
    """A command that ended well.

    Raises:
        DeviceUnresponsive: it did not end in time.
        DeviceError: it failed.
    """
    if completed.timed_out:
        raise DeviceUnresponsive(f"device `{name}`: {what}: no answer within {seconds:.0f} s")
    if completed.returncode:
        said = " ".join(line.strip() for line in completed.stderr.splitlines() if line.strip())
        raise DeviceError(f"device `{name}`: {what}: {said or f'exit code {completed.returncode}'}")
    return completed


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int, inode: int) -> str:
    """By size, time and inode as well: a file that changed is read again."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _in_parts(words: Sequence[str], together: int) -> Iterator[Sequence[str]]:
    """`words` in parts that fit one command; `together` of them are never parted. At least one part, which may be empty."""
    part: list[str] = []
    length = 0
    for start in range(0, len(words), together):
        group = words[start : start + together]
        size = sum(len(word.encode()) + 3 for word in group)
        if part and length + size > _LONGEST:
            yield part
            part, length = [], 0
        part += group
        length += size
    if part or not words:
        yield part
