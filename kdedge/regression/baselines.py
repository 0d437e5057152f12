"""Baselines: artifacts that are kept with their inputs and the environment that they were set in, to be run again beside each candidate.

STORE/NAME/baseline.json    what it is, with the SHA-256 of every file
STORE/NAME/files/...        what the runtime opens
STORE/NAME/inputs/...       what it is timed on
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdedge.errors import KdedgeError, WorkspaceError
from kdedge.latency.check import Arm
from kdedge.record import sha256_of
from kdedge.runtimes.job import Job

SCHEMA = 1
RECORD = "baseline.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Baseline:
    """A kept baseline. `device`: where it was set; `set_at`: when, in UTC (ISO 8601)."""

    name: str
    arm: Arm
    device: str
    set_at: str
    size_bytes: int


def set_baseline(name: str, arm: Arm, device: str, environment: Mapping[str, str], store: Path) -> Baseline:
    """Copy an arm into the store under a name, in place of what stood there.

    Raises:
        KdedgeError: the name is no file name.
        WorkspaceError: the store cannot be written.
    """
    _check_name(name)
    try:
        with _alone(store):
            _replaced(_record(name, arm, device, environment), arm, store / name)
            return read_baseline(name, store)
    except OSError as error:
        raise WorkspaceError(f"the baseline `{name}` cannot be kept in {store}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One writer of a store at a time; it ends with the process, whatever ends that."""
    store.mkdir(parents=True, exist_ok=True)
    folder = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _record(name: str, arm: Arm, device: str, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": name,
        "artifact": arm.name,
        "line": arm.line,
        "sha256": arm.sha256,
        "device": device,
        "environment": dict(environment),
        "set_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "runtime": arm.job.runtime,
        "options": dict(arm.job.options),
        "batch": arm.job.batch,
        "fixed_batch": arm.job.fixed_batch,
    }


def _replaced(record: dict[str, Any], arm: Arm, target: Path) -> None:
    """The arm's files and `record` in place of what stood at `target`, which stays as it was where something goes wrong."""
    coming, old = (target.with_name(f".{target.name}.{what}") for what in ("new", "old"))
    if old.exists() and not target.exists():  # ended by force between the two renames
        old.rename(target)
    shutil.rmtree(coming, ignore_errors=True)
    try:
        coming.mkdir()
        graphs = {
            graph: [_copied(Path(file), coming, f"files/{number}") for file in files]
            for number, (graph, files) in enumerate(sorted(arm.job.graphs.items()))
        }
        inputs = {key: _copied(Path(file), coming, "inputs") for key, file in sorted(arm.job.buckets[0].items())}
        files = sorted({*inputs.values(), *(file for files in graphs.values() for file in files)})
        whole = {**record, "graphs": graphs, "inputs": inputs, "files": {path: sha256_of(coming / path) for path in files}}
        (coming / RECORD).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        coming.rename(target)
    except OSError:
        shutil.rmtree(coming, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_baseline(name: str, store: Path) -> Baseline:
    """A baseline whose files are those that were set.

    Raises:
        KdedgeError: there is none of that name; the message lists what there is.
        WorkspaceError: it is damaged.
    """
    _check_name(name)
    root = store / name
    if not (root / RECORD).is_file():
        raise KdedgeError(
            f"there is no baseline `{name}` in {store} (there is: {', '.join(names(store)) or 'none'}); set one by `kdedge baseline set`"
        )
    try:
        record: dict[str, Any] = json.loads((root / RECORD).read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise WorkspaceError(f"the baseline `{name}` has schema {record['schema']!r}; this kdedge reads schema {SCHEMA}")
        changed = [path for path, sha256 in record["files"].items() if not _inside(root, path) or sha256_of(root / path) != sha256]
        if changed:
            raise WorkspaceError(
                f"the baseline `{name}` is damaged: {changed[0]} is not the file that was set; set it again by `kdedge baseline set`"
            )
        named = [*record["inputs"].values(), *(file for files in record["graphs"].values() for file in files)]
        if foreign := [path for path in named if path not in record["files"]]:
            raise WorkspaceError(f"the baseline `{name}` is damaged: {foreign[0]} is not among its files")
        arm = _arm(record, root)
        size = sum((root / path).stat().st_size for path in record["files"])
        return Baseline(name, arm, str(record["device"]), str(record["set_at"]), size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkspaceError(f"the baseline `{name}` is damaged: {type(error).__name__}: {error}") from error


def names(store: Path) -> tuple[str, ...]:
    """The baselines of a store, sorted."""
    return tuple(sorted(path.parent.name for path in store.glob(f"*/{RECORD}") if _NAME.fullmatch(path.parent.name)))


def _arm(record: Mapping[str, Any], root: Path) -> Arm:
    graphs = {str(graph): [str((root / file).resolve()) for file in files] for graph, files in record["graphs"].items()}
    inputs = {str(key): str((root / file).resolve()) for key, file in record["inputs"].items()}
    job = Job("launch", str(record["runtime"]), graphs, dict(record["options"]), [inputs], int(record["batch"]), bool(record["fixed_batch"]))
    environment = {str(key): str(value) for key, value in record["environment"].items()}
    return Arm(str(record["artifact"]), str(record["line"]), str(record["sha256"]), job, environment)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise KdedgeError(f"`{name}` is no name for a baseline (allowed: letters, digits, `.`, `_`, `-`, not first a sign)")


def _inside(root: Path, path: str) -> bool:
    return (root / path).resolve().is_relative_to(root.resolve()) and (root / path).is_file() and not (root / path).is_symlink()


def _copied(source: Path, root: Path, where: str) -> str:
    path = f"{where}/{source.name}"
    (root / where).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, root / path)
    return path
