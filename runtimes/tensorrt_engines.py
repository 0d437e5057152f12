"""Engines that were built on this machine, kept so that the next process does not build them again.

An engine belongs to one TensorRT version, one compute capability, one ONNX file and one set of build settings. Each lies in the cache with a
record of exactly that beside it, and is used only where all of it is still true: anything else is rebuilt, with the reason on record. An
engine that is handed over as a file is never rebuilt but refused by name, since nobody here knows what it was made from.

FOLDER/ONNXHASH-VERSION-smNN.engine    the engine
FOLDER/ONNXHASH-VERSION-smNN.json      its record
FOLDER/timing-VERSION-smNN.cache       what the builder measured about kernels; makes the next build shorter and more alike
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import tensorrt_build
from .errors import RuntimeFailure
from .job import write_json
from .tensorrt_build import BuildSettings

ENGINE_SUFFIXES = (".engine", ".plan")
_SCHEMA = 1


@dataclass(frozen=True)
class Platform:
    """What an engine must have been built by and for: Python module, its version, compute capability as "8.7"."""

    module: str
    version: str
    compute_capability: str

    def __str__(self) -> str:
        return "%s %s for compute capability %s" % (self.module, self.version, self.compute_capability)


@dataclass(frozen=True)
class Engine:
    """A serialized engine and its story: `built` says whether this process built it, `seconds` how long that took, `reason` why it had to."""

    plan: bytes
    built: bool
    seconds: float
    reason: str
    warnings: Sequence[str] = ()


def default_folder() -> str:
    """KDEDGE_ENGINE_CACHE, or `kdedge/engines` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("KDEDGE_ENGINE_CACHE") or os.path.join(base, "kdedge", "engines")


def obtain(trt: Any, platform: Platform, paths: Sequence[str], settings: BuildSettings, folder: Optional[str] = None) -> Engine:
    """The engine of an artifact: read from the cache, or built from its ONNX file and kept.

    Raises:
        RuntimeFailure: the graph cannot be built, or an engine file was given that does not belong to this platform.
    """
    if os.path.splitext(paths[0])[1] in ENGINE_SUFFIXES:
        return Engine(read_engine(paths[0], platform), built=False, seconds=0.0, reason="")
    folder = folder or default_folder()
    source = _source_hash(paths, settings)
    stem = os.path.join(folder, "%s-%s" % (source[:32], _slug(platform)))
    reason = _unusable(stem, platform, source)
    if not reason:
        return Engine(_read(stem + ".engine"), built=False, seconds=0.0, reason="")
    timing = os.path.join(folder, "timing-%s.cache" % _slug(platform))
    built = tensorrt_build.build(trt, paths[0], settings, _read(timing) if os.path.exists(timing) else None)
    _keep(stem, built.plan, _record(platform, source, settings, built.plan))
    if built.timing_cache:
        _write(timing, built.timing_cache)
    return Engine(built.plan, True, built.seconds, reason, built.warnings)


def read_engine(path: str, platform: Platform) -> bytes:
    """An engine that was given as a file, with the record that its builder wrote beside it.

    Raises:
        RuntimeFailure: no record, a record of another TensorRT, device or content.
    """
    stem = os.path.splitext(path)[0]
    advice = "; engines are no portable files: give the ONNX file instead, it is built on the device that runs it"
    record = _read_record(stem + ".json")
    if record is None:
        raise RuntimeFailure("tensorrt: %s has no record of what it was built by (%s.json)%s" % (path, os.path.basename(stem), advice))
    theirs = _platform_of(record)
    if theirs != platform:
        raise RuntimeFailure("tensorrt: %s was built by %s, this machine has %s%s" % (path, theirs, platform, advice))
    plan = _read(path)
    if hashlib.sha256(plan).hexdigest() != record.get("engine_sha256"):
        raise RuntimeFailure("tensorrt: %s is not the file that its record describes (its SHA-256 differs)%s" % (path, advice))
    return plan


def forget(paths: Sequence[str], platform: Platform, settings: BuildSettings, folder: Optional[str] = None) -> None:
    """Remove an engine from the cache, so that the next call builds it (used when TensorRT cannot read what lies there)."""
    stem = os.path.join(folder or default_folder(), "%s-%s" % (_source_hash(paths, settings)[:32], _slug(platform)))
    for suffix in (".json", ".engine"):
        if os.path.exists(stem + suffix):
            os.remove(stem + suffix)


def _source_hash(paths: Sequence[str], settings: BuildSettings) -> str:
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for path in paths:
        try:
            content = _read(path)
        except OSError as error:
            raise RuntimeFailure("tensorrt: %s cannot be read: %s" % (path, error.strerror)) from error
        digest.update(b"%d\0" % len(content))
        digest.update(content)
    return digest.hexdigest()


def _unusable(stem: str, platform: Platform, source: str) -> str:
    """Why the cached engine cannot be used; empty where it can."""
    if not os.path.exists(stem + ".engine"):
        return _seen_elsewhere(stem, platform)
    record = _read_record(stem + ".json")
    if record is None:
        return "the cached engine has no readable record"
    theirs = _platform_of(record)
    if theirs != platform:
        return "engine was built by %s, this machine has %s" % (theirs, platform)
    if record.get("source_sha256") != source:
        return "the cached engine was built from another graph or with other settings"
    if hashlib.sha256(_read(stem + ".engine")).hexdigest() != record.get("engine_sha256"):
        return "the cached engine was damaged: its SHA-256 differs from its record"
    return ""


def _seen_elsewhere(stem: str, platform: Platform) -> str:
    """Name the engine of the same graph that another TensorRT or another device left here, if there is one."""
    folder, name = os.path.split(stem)
    prefix = name.split("-", 1)[0] + "-"
    records: List[str] = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for entry in records:
        record = _read_record(os.path.join(folder, entry)) if entry.startswith(prefix) and entry.endswith(".json") else None
        if record is not None:
            theirs = _platform_of(record)
            return "engine was built by %s, this machine has %s" % (theirs, platform)
    return "no engine of this graph and these settings was built here before"


def _record(platform: Platform, source: str, settings: BuildSettings, plan: bytes) -> Dict[str, Any]:
    return {
        "schema": _SCHEMA,
        **asdict(platform),
        "source_sha256": source,
        "engine_sha256": hashlib.sha256(plan).hexdigest(),
        "settings": asdict(settings),
    }


def _platform_of(record: Mapping[str, Any]) -> Platform:
    return Platform(str(record.get("module")), str(record.get("version")), str(record.get("compute_capability")))


def _read_record(path: str) -> Optional[Mapping[str, Any]]:
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == _SCHEMA else None


def _keep(stem: str, plan: bytes, record: Mapping[str, Any]) -> None:
    """The engine first, its record last: an engine without a record is not used. Two processes that build at once both succeed."""
    try:
        os.makedirs(os.path.dirname(stem), exist_ok=True)
        _write(stem + ".engine", plan)
        write_json(stem + ".json", record)
    except OSError as error:
        folder = os.path.dirname(stem)
        raise RuntimeFailure(
            "tensorrt: the engine cannot be kept in %s: %s; set the option engine_cache or KDEDGE_ENGINE_CACHE" % (folder, error.strerror)
        ) from error


def _write(path: str, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        os.remove(temporary)
        raise


def _read(path: str) -> bytes:
    with open(path, "rb") as handle:
        return handle.read()


def _slug(platform: Platform) -> str:
    return "%s-%s-sm%s" % (platform.module, platform.version, platform.compute_capability.replace(".", ""))
