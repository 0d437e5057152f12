"""A store of what stages made: keyed by what they were made from, written atomically, resumable, safe for several runs at once.

WORKSPACE/stages/NAME-KEY/    result.json (the value that the stage returned) and the files that it wrote
WORKSPACE/partial/NAME-KEY/   an attempt that has not finished; a resumable stage finds its checkpoints here
WORKSPACE/locks/              one lock a key: a second run waits for the first and takes its result; one more for what is kept within a limit
WORKSPACE/memo.json           hashes of files and sources by size and time of change
WORKSPACE/runs/RECIPE/        result and report of the last run
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge import progress
from kdedge.artifact import ImportPath
from kdedge.errors import KdedgeError, WorkspaceError
from kdedge.eviction import check_size, hold, make_room, touch
from kdedge.record import digest_of, from_plain, sha256_of, to_plain
from kdedge.source import READER, Closure, ModuleSource, closure_of, read_module, version_of

_RECORD = "result.json"
# A full disk, a quota, and a limit on the size of files (`ulimit -f`).
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class StageEvent:
    """What happened to one stage: whether it was read from the cache, and how long it took in seconds (where it was `resumed`: since then)."""

    name: str
    key: str
    cached: bool
    seconds: float
    resumed: bool = False


class Workspace:
    """Runs stages, or reads what they made before.

    Raises, from every method that touches the disk:
        WorkspaceError: the disk is full, or the folder cannot be read or written.
    """

    def __init__(self, root: Path, on_event: Callable[[StageEvent], None] | None = None) -> None:
        self.root = Path(os.path.realpath(root))  # not `resolve`, which knows no sentence for a link to itself
        self.on_event = on_event or (lambda event: None)
        self.events: list[StageEvent] = []
        for name in ("stages", "partial", "locks", "runs"):
            with explained(self.root, "make the workspace"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        self._memo = _Memo(self.root / "memo.json")
        self._closures: dict[str, Closure] = {}
        self._limits: dict[str, float] = {}
        self._held: dict[str, Callable[[], object]] = {}

    def stage(
        self, function: str, *inputs: Any, reads: Sequence[Path | ImportPath | str] = (), again: bool = False, label: str = "", **named: Any
    ) -> Any:
        """The result of `function` ("module:name") for these inputs: computed, or read from the cache when nothing that it depends on changed.

        `reads` are files and code that the function reads although no argument holds them, or digests of such. `again` repeats a measurement.
        `label` tells people which of several like stages this is.
        """
        started = time.monotonic()
        closure = self._closure(function.partition(":")[0])
        name, key = _name_of(function), self._key(function, closure, (inputs, named, tuple(reads)))
        final = self.root / "stages" / f"{name}-{key}"
        if name in self._limits:
            self._hold(final.name)
        result = None if again else self._read(final)
        cached, resumed = result is not None, False
        if result is None:
            with self.alone(final.name, f"{name}: another run is making this; waiting for it"):
                result = None if again else self._read(final, tell=True)  # another run may have made it while this one waited
                cached = result is not None
                if result is None:
                    resumed = closure.resumable and (self.root / "partial" / final.name).is_dir()
                    with progress.labelled(label):
                        result = self._run(function, final, closure, inputs, named)
        touch(final)
        if name in self._limits:
            check_size(final, name, self._limits[name])
            if not cached:
                self._make_room(name)
        event = StageEvent(f"{name} {label}".rstrip(), key, cached, time.monotonic() - started, resumed)
        self.events.append(event)
        self.on_event(event)
        return result[0]

    def kept(self, function: str, *inputs: Any, reads: Sequence[Path | ImportPath | str] = (), **named: Any) -> Any:
        """What `stage` would read from the cache for these inputs; None where it would have to run."""
        key = self._key(function, self._closure(function.partition(":")[0]), (inputs, named, tuple(reads)))
        found = self._read(self.root / "stages" / f"{_name_of(function)}-{key}")
        return None if found is None else found[0]

    @contextmanager
    def limited(self, kind: str, gigabytes: float, needed: Sequence[tuple[Any, ...]] = ()) -> Iterator[None]:
        """Inside the block, all results of the stage `kind` ("module.function") together are kept below a limit: the least recently used are
        removed. `needed` are calls of it (function, inputs): their results, found or made, stay until this run has ended.

        Raises:
            WorkspaceError: one result that is made or read inside is larger than the limit.
        """
        for function, *inputs in needed:
            key = self._key(function, self._closure(function.partition(":")[0]), (tuple(inputs), {}, ()))
            self._hold(f"{_name_of(function)}-{key}")
        self._limits[kind] = gigabytes * 1e9
        try:
            self._make_room(kind)
            yield
        finally:
            del self._limits[kind]

    def _hold(self, name: str) -> None:
        if name not in self._held:
            with explained(self.root, "hold what is used"):
                # Closed when the run ends, however it does.
                self._held[name] = weakref.finalize(self, os.close, hold(self.root, name))

    def _make_room(self, kind: str) -> None:
        with explained(self.root, "make room"):
            make_room(self.root, kind, self._limits[kind])

    def save(self) -> None:
        """Keep the memory of file hashes and let go what was held; called at the end of a run."""
        with self.alone("memo"), explained(self.root, "save the memory of file hashes"):
            self._memo.save()
        for release in self._held.values():
            release()
        self._held.clear()

    @contextmanager
    def alone(self, key: str, waiting: str = "") -> Iterator[None]:
        """Inside the block no other run on this workspace holds `key`; `waiting` is what a person reads while another one does.

        A process that dies gives its locks back.
        """
        with explained(self.root, "lock a stage"):
            handle = os.open(self.root / "locks" / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with explained(self.root, "lock a stage"):
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
        with explained(self.root, f"run {final.name}"):
            if not (closure.resumable and partial.is_dir()):
                _remove(partial)
            partial.mkdir(exist_ok=True)
            # An attempt that was killed after its work and before its folder got its place: the record is no file of the stage.
            for leftover in (partial / _RECORD, _unfinished(partial / _RECORD)):
                leftover.unlink(missing_ok=True)
            try:
                value = ImportPath(function).load()(*inputs, **named, folder=partial)
            except BaseException as error:
                if not closure.resumable:
                    shutil.rmtree(partial, ignore_errors=True)
                if isinstance(error, SystemExit):
                    # A stage may run a user's code, which must not end the program as if all were done.
                    name = final.name.rpartition("-")[0]
                    raise KdedgeError(f"code that the stage {name} ran asked Python to exit ({error.code})") from error
                raise
            files = {path.relative_to(partial).as_posix(): sha256_of(path) for path in sorted(partial.rglob("*")) if path.is_file()}
            plain = to_plain(value, partial, self.root)
            record = {
                "value": plain,
                "digest": _digest(plain),
                "files": files,
                # What failed on a device may work the next time: it is kept for this run to read, and tried again by the next.
                "retry": getattr(value, "status", None) == "failed",
            }
            _write(partial / _RECORD, json.dumps(record, sort_keys=True, indent=1))
            _remove(final)
            partial.rename(final)
        return (from_plain(plain, final, self.root),)

    def _read(self, final: Path, tell: bool = False) -> tuple[Any] | None:
        path = final / _RECORD
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text())
            if record["retry"]:
                return None
            if record["digest"] != _digest(record["value"]):
                raise ValueError(f"{_RECORD} was changed after it was written")
            for name, digest in record["files"].items():
                if self._memo.content(final / name) != digest:
                    raise ValueError(f"{name} was changed after it was written")
            return (from_plain(record["value"], final, self.root),)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, KdedgeError) as error:
            if tell:
                progress.message(f"{final.name}: what the cache holds is damaged ({error}); it is made again")
            return None


class _Memo:
    """Hashes of files and sources, remembered by (size, time of change, inode): reading them is most of a cached run's work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.entries = _checked_entries(json.loads(path.read_text()))
        except (OSError, ValueError, RecursionError):
            self.entries = {}
        self.changed = False

    def content(self, path: Path) -> str:
        if path.is_dir():
            digest = hashlib.sha256()
            for item in sorted(item for item in path.rglob("*") if item.is_file()):
                digest.update(f"{item.relative_to(path).as_posix()}\0{self.content(item)}\n".encode())
            return digest.hexdigest()
        return str(self._remembered("file", path, lambda: sha256_of(path)))

    def source(self, module: str, path: Path) -> ModuleSource:
        # What another version of kdedge found in a file may lack what this one looks for.
        found = self._remembered(f"source {self.content(READER)[:12]}", path, lambda: _as_list(read_module(module, path)))
        return ModuleSource(found[0], tuple(found[1]), tuple(found[2]), found[3])

    def _remembered(self, kind: str, path: Path, compute: Callable[[], Any]) -> Any:
        try:
            status = path.stat()
        except OSError as error:
            raise WorkspaceError(f"{path}: {error.strerror}: a file that the run depends on cannot be read") from error
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = f"{kind}:{path.absolute()}"
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


def _checked_entries(found: Any) -> dict[str, Any]:
    """What `_Memo.save` wrote, without entries of another form: they are made again."""
    return {name: entry for name, entry in found.items() if _is_entry(name, entry)} if isinstance(found, dict) else {}


def _is_entry(name: str, entry: Any) -> bool:
    if not (isinstance(entry, list) and len(entry) == 2):
        return False
    value = entry[1]
    if name.startswith("file:"):
        return isinstance(value, str)
    lists = isinstance(value, list) and len(value) == 4 and all(isinstance(part, list) for part in value[1:3])
    return lists and all(isinstance(text, str) for text in (value[0], *value[1], *value[2]))


def _as_list(source: ModuleSource) -> list[Any]:
    return [source.sha256, list(source.imports), list(source.tools), source.resumable]


def _name_of(function: str) -> str:
    """A stage as its folders call it: the last part of its module, and the function."""
    return function.removeprefix("kdedge.").partition(":")[0].rpartition(".")[2] + "." + function.partition(":")[2]


def _remove(path: Path) -> None:
    """Whatever stands there, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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
def explained(root: Path, doing: str) -> Iterator[None]:
    """Say what was being done in the workspace at `root`, and what is kept, where the system refuses it inside the block.

    Raises:
        WorkspaceError: for any OSError but that of a reader of standard output who has gone.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read standard output has gone: no matter of the workspace
    except OSError as error:
        what, full = _reason(error)
        kept = "finished stages are kept" + ("; run again when there is room" if full else "")
        raise WorkspaceError(f"could not {doing} in {root}: {what}; {kept}") from error


def _reason(error: OSError) -> tuple[str, bool]:
    """What the system said about which file, and whether it had no room."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        # Of a folder that was copied: every file that could not be, as (source, target, text).
        _, target, text = error.args[0][0]
        return f"{re.sub(r'^.Errno [0-9]+. ', '', text).partition(':')[0]} ({target})", any(os.strerror(code) in text for code in _FULL)
    file = error.filename2 or error.filename
    return f"{error.strerror or error}" + (f" ({file})" if file else ""), error.errno in _FULL
