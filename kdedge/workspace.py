"""A store of what stages made: keyed by what they were made from, written atomically, resumable, safe for several runs at once.

WORKSPACE/stages/NAME-KEY/    result.json (the value that the stage returned) and the files that it wrote
WORKSPACE/partial/NAME-KEY/   an attempt that has not finished; a resumable stage finds its checkpoints here
WORKSPACE/locks/              one lock a key: a second run waits for the first and takes its result
WORKSPACE/memo.json           hashes of files and sources by size and time of change
WORKSPACE/runs/RECIPE/        result and report of the last run
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge import progress
from kdedge.artifact import ImportPath
from kdedge.errors import KdedgeError, WorkspaceError
from kdedge.record import digest_of, from_plain, to_plain
from kdedge.source import Closure, ModuleSource, closure_of, read_module, version_of

_RECORD = "result.json"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM}


@dataclass(frozen=True)
class StageEvent:
    """What happened to one stage: whether it was read from the cache, and how long it took in seconds."""

    name: str
    key: str
    cached: bool
    seconds: float


class Workspace:
    """Runs stages, or reads what they made before.

    Raises, from every method that touches the disk:
        WorkspaceError: the disk is full, or the folder cannot be written.
    """

    def __init__(self, root: Path, on_event: Callable[[StageEvent], None] | None = None) -> None:
        self.root = root.resolve()
        self.on_event = on_event or (lambda event: None)
        self.events: list[StageEvent] = []
        for name in ("stages", "partial", "locks", "runs"):
            with _explained(self.root, "make the workspace"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        self._memo = _Memo(self.root / "memo.json")
        self._closures: dict[str, Closure] = {}

    def stage(self, function: str, *inputs: Any, reads: Sequence[Path | ImportPath] = (), again: bool = False, label: str = "", **named: Any) -> Any:
        """The result of `function` ("module:name") for these inputs: computed, or read from the cache when nothing that it depends on changed.

        `reads` are files and code that the function reads although no argument holds them. `again` repeats a measurement.
        `label` tells people which of several like stages this is.
        """
        started = time.monotonic()
        name = function.removeprefix("kdedge.").partition(":")[0].rpartition(".")[2] + "." + function.partition(":")[2]
        closure = self._closure(function.partition(":")[0])
        key = self._key(function, closure, (inputs, named, tuple(reads)))
        final = self.root / "stages" / f"{name}-{key}"
        result = None if again else self._read(final)
        cached = result is not None
        if result is None:
            with self.alone(final.name, f"{name}: another run is making this; waiting for it"):
                result = None if again else self._read(final)  # another run may have made it while this one waited
                cached = result is not None
                if result is None:
                    result = self._run(function, final, closure, inputs, named)
        event = StageEvent(f"{name} {label}".rstrip(), key, cached, time.monotonic() - started)
        self.events.append(event)
        self.on_event(event)
        return result[0]

    def save(self) -> None:
        """Keep the memory of file hashes; called at the end of a run."""
        with self.alone("memo"), _explained(self.root, "save the memory of file hashes"):
            self._memo.save()

    @contextmanager
    def alone(self, key: str, waiting: str = "") -> Iterator[None]:
        """Inside the block no other run on this workspace holds `key`; `waiting` is what a person reads while another one does.

        A process that dies gives its locks back.
        """
        with _explained(self.root, "lock a stage"):
            handle = os.open(self.root / "locks" / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    progress.message(waiting)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def file_digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes, or of a folder's files with their names; remembered by size and time of change."""
        return self._memo.content(path)

    # ---- keys

    def _closure(self, module: str) -> Closure:
        if module not in self._closures:
            self._closures[module] = closure_of(module, self._memo.source)
        return self._closures[module]

    def _key(self, function: str, closure: Closure, values: Any) -> str:
        tools = set(closure.tools)

        def code_digest(module: str) -> str:
            found = self._closure(module)
            tools.update(found.tools)
            return found.digest

        digest = digest_of(values, self._memo.content, code_digest)
        versions = ";".join(f"{tool}={version_of(tool)}" for tool in sorted(tools))
        return hashlib.sha256(f"{function}\n{closure.digest}\n{versions}\n{digest}".encode()).hexdigest()[:24]

    # ---- running and reading

    def _run(self, function: str, final: Path, closure: Closure, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any]:
        partial = self.root / "partial" / final.name
        with _explained(self.root, f"run {final.name}"):
            if partial.exists() and not closure.resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            # An attempt that was killed after its work and before its folder got its place: the record is no file of the stage.
            for leftover in (partial / _RECORD, _unfinished(partial / _RECORD)):
                leftover.unlink(missing_ok=True)
            try:
                value = ImportPath(function).load()(*inputs, **named, folder=partial)
            except BaseException:
                if not closure.resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            files = {path.relative_to(partial).as_posix(): path.stat().st_size for path in sorted(partial.rglob("*")) if path.is_file()}
            record = {
                "value": to_plain(value, partial, self.root),
                "files": files,
                # What failed on a device may work the next time: it is kept for this run to read, and tried again by the next.
                "retry": getattr(value, "status", None) == "failed",
            }
            _write(partial / _RECORD, json.dumps(record, sort_keys=True, indent=1))
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
        return (from_plain(record["value"], final, self.root),)

    def _read(self, final: Path) -> tuple[Any] | None:
        path = final / _RECORD
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text())
            if record["retry"]:
                return None
            for name, size in record["files"].items():
                if (final / name).stat().st_size != size:
                    raise OSError(f"{name} has another size than when it was written")
            return (from_plain(record["value"], final, self.root),)
        except (OSError, ValueError, KeyError, TypeError, KdedgeError) as error:
            progress.message(f"{final.name}: what the cache holds is damaged ({error}); it is made again")
            return None


class _Memo:
    """Hashes of files and sources, remembered by (size, time of change, inode): reading them is most of a cached run's work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.entries: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.entries = {}
        self.changed = False

    def content(self, path: Path) -> str:
        if path.is_dir():
            digest = hashlib.sha256()
            for item in sorted(item for item in path.rglob("*") if item.is_file()):
                digest.update(f"{item.relative_to(path).as_posix()}\0{self.content(item)}\n".encode())
            return digest.hexdigest()
        return str(self._remembered("file", path, lambda: _sha256(path)))

    def source(self, module: str, path: Path) -> ModuleSource:
        found = self._remembered("source", path, lambda: _as_list(read_module(module, path)))
        return ModuleSource(found[0], tuple(found[1]), tuple(found[2]), found[3])

    def _remembered(self, kind: str, path: Path, compute: Callable[[], Any]) -> Any:
        try:
            status = path.stat()
        except OSError as error:
            raise WorkspaceError(f"{path}: {error.strerror}: a file that the run depends on cannot be read") from error
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = f"{kind}:{path.resolve()}"
        entry = self.entries.get(name)
        if entry is None or entry[0] != stamp:
            entry = [stamp, compute()]
            # A file that changed within the clock's grain could change again unseen, so it is not remembered yet.
            if time.time_ns() - status.st_mtime_ns > 2_000_000_000:
                self.entries[name] = entry
                self.changed = True
        return entry[1]

    def save(self) -> None:
        if self.changed:
            _write(self.path, json.dumps(self.entries))
            self.changed = False


def _as_list(source: ModuleSource) -> list[Any]:
    return [source.sha256, list(source.imports), list(source.tools), source.resumable]


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Whole or not at all. The writer holds a lock, so that what a killed one left is simply written over."""
    with _unfinished(path).open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    _unfinished(path).replace(path)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@contextmanager
def _explained(root: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, KdedgeError):
            where = error.filename or "no file named"
            kept = "finished stages are kept, run again when there is room"
            raise WorkspaceError(f"could not {doing} in {root}: {error.strerror} ({where}); {kept}") from error
        raise
