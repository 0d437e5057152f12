"""From a cell to a folder that can be shipped: the artifact, what it promises, and the means to check that it keeps it.

NAME-TARGET-PRECISION/
    manifest.json      everything there is to know, with the hash of every file (manifest.py)
    artifact/          what the runtime opens
    assets/            what the encoder needs (a tokenizer)
    golden/            a few inputs and the outputs that belong to them
    self_check.py      compares the files, runs the golden inputs; needs numpy and the runtime only
    kdedge_worker/     the code that opens the runtime, the same that measured the artifact
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Artifact, EncodedInputs, GraphFile, TextEncoder
from kdedge.bundle.code import WORKER_PACKAGE, code_files
from kdedge.bundle.golden import Golden, choose
from kdedge.bundle.manifest import KIND, MANIFEST, SCHEMA, as_plain, describe_file, encoder_as_data, manifest_bytes, spec_as_data
from kdedge.errors import BundleError
from kdedge.measured import Cell, References
from kdedge.runtimes.job import SCHEMA as JOB_SCHEMA

DATA_FOLDERS = ("artifact", "assets", "golden")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written. `path` is its folder, `digest` the one of its manifest, `golden` says what computed the golden outputs."""

    name: str
    target: str
    precision: str
    path: Path
    digest: str
    files: tuple[str, ...]
    size_bytes: int
    golden: str


def pack(cell: Cell, inputs: EncodedInputs, references: References, name: str, *, folder: Path) -> Bundle:
    """Write the bundle of one cell into `folder`. Same arguments, same bytes.

    Raises:
        BundleError: a name that is no file name, two files of one name, or no golden output.
    """
    artifact = cell.artifact
    full_name = f"{name}-{artifact.target}-{artifact.precision}"
    if not _SAFE_NAME.fullmatch(full_name):
        raise BundleError(f"`{full_name}` is no name for a folder (allowed: letters, digits, `.`, `_`, `-`)")
    root = folder / full_name
    root.mkdir()
    graphs = [_copy_graph(graph, root, alone=len(artifact.graphs) == 1) for graph in artifact.graphs]
    assets = _copy_assets(artifact, root)
    golden = choose(cell, inputs, references)
    cases = _write_golden(golden, root)
    _copy_code(root)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    entries = [describe_file(root, path) for path in files]
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "name": full_name,
        "recipe": name,
        "artifact": _artifact(artifact, graphs),
        "input": {"tensors": [spec_as_data(spec) for spec in artifact.main.inputs], "encoder": _encoder(artifact, assets)},
        "classes": artifact.classes,
        "assets": sorted(assets.values()),
        "lineage": asdict(artifact.lineage),
        "evidence": _evidence(cell),
        "golden": {"cases": cases, "source": golden.source, "minimum_sqnr_db": golden.minimum_sqnr_db},
        "worker": {"package": WORKER_PACKAGE, "job_schema": JOB_SCHEMA},
        "files": [asdict(entry) for entry in entries],
    }
    raw = manifest_bytes(content)
    (root / MANIFEST).write_bytes(raw)
    digest = _digest_in(raw)
    size = sum(entry.size for entry in entries) + len(raw)
    return Bundle(full_name, artifact.target, artifact.precision, root, digest, (*files, MANIFEST), size, golden.source)


def _copy_code(root: Path) -> None:
    for path, source in code_files().items():
        _copy(source, root, path)


def _copy_graph(graph: GraphFile, root: Path, alone: bool) -> dict[str, Any]:
    """Side files keep their names, since the main file names them."""
    base = "artifact" if alone else f"artifact/{_file_name(graph.name)}"
    paths = [_copy(file, root, f"{base}/{_file_name(file.name)}") for file in graph.files]
    return {
        "name": graph.name,
        "files": paths,
        "inputs": [spec_as_data(spec) for spec in graph.inputs],
        "outputs": [spec_as_data(spec) for spec in graph.outputs],
    }


def _copy_assets(artifact: Artifact, root: Path) -> dict[Path, str]:
    """Assets and where they lie in the bundle, the encoder's tokenizer among them."""
    wanted: Iterable[Path] = artifact.assets
    if isinstance(artifact.encoder, TextEncoder):
        wanted = (*artifact.assets, artifact.encoder.tokenizer)
    placed: dict[Path, str] = {}
    for asset in wanted:
        if asset not in placed:
            placed[asset] = _copy(asset, root, f"assets/{_file_name(asset.name)}")
    return placed


def _write_golden(golden: Golden, root: Path) -> list[dict[str, Any]]:
    written = []
    for number, case in enumerate(golden.cases):
        files: dict[str, Any] = {"indices": case.indices}
        for kind, arrays in (("inputs", case.inputs), ("outputs", case.outputs)):
            files[kind] = {}
            for position, (name, array) in enumerate(sorted(arrays.items())):
                # A tensor's name comes from the graph and may be no file name.
                leaf = name if _SAFE_NAME.fullmatch(name) else f"{kind}-{position}"
                files[kind][name] = _save(array, root, f"golden/{number}/{kind}/{leaf}.npy")
        written.append(files)
    return written


def _artifact(artifact: Artifact, graphs: list[dict[str, Any]]) -> dict[str, Any]:
    size, fixed = artifact.batch
    return {
        "target": artifact.target,
        "precision": artifact.precision,
        "format": artifact.format,
        "runtime": artifact.runtime,
        "dialect": artifact.dialect,
        "options": as_plain(artifact.options),
        "graphs": graphs,
        "batch": {"size": size, "fixed": fixed},
        "program": artifact.program,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "checks": dict(artifact.checks),
        "notes": list(artifact.notes),
    }


def _encoder(artifact: Artifact, assets: dict[Path, str]) -> dict[str, Any]:
    tokenizer = assets[artifact.encoder.tokenizer] if isinstance(artifact.encoder, TextEncoder) else None
    return encoder_as_data(artifact.encoder, tokenizer)


def _evidence(cell: Cell) -> dict[str, Any]:
    """What was measured, where: figures with their intervals."""
    fidelity, latency = cell.fidelity, cell.latency
    return {
        "device": cell.device,
        "proxy": cell.proxy,
        "status": cell.status,
        "reason": cell.reason,
        "runtime_version": fidelity.runtime_version,
        "fidelity": {name: asdict(estimate) for name, estimate in fidelity.figures.items()},
        "largest_error": fidelity.largest_error,
        "executed": dict(fidelity.executed),
        "integer_share": fidelity.audit.integer_share if fidelity.audit else None,
        "findings": list(fidelity.audit.findings) if fidelity.audit else [],
        # A proxy's latency says nothing about the target, so it does not travel under its name.
        "latency": {} if cell.proxy else {name: asdict(estimate) for name, estimate in latency.figures.items()},
        "peak_memory_mb": None if cell.proxy else latency.peak_memory_mb,
    }


def _file_name(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
        raise BundleError(f"`{name}` cannot travel under this name (allowed: letters, digits, `.`, `_`, `-`)")
    return name


def _copy(source: Path, root: Path, path: str) -> str:
    shutil.copyfile(source, _new(root, path))
    return path


def _save(array: npt.NDArray[Any], root: Path, path: str) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    _new(root, path).write_bytes(buffer.getvalue())
    return path


def _new(root: Path, path: str) -> Path:
    target = root / path
    if target.exists():
        raise BundleError(f"two files of this bundle would be `{path}`")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _digest_in(raw: bytes) -> str:
    found = re.search(rb'^ "digest": "([0-9a-f]{64})"', raw, re.MULTILINE)
    if found is None:
        raise BundleError("the manifest has no digest")
    return found.group(1).decode("ascii")
