"""What a check launches: an artifact with its runtime, its options and inputs, from a bundle, a model file or a folder of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.bundle.manifest import MANIFEST, read_manifest
from kdedge.bundle.verify import verify
from kdedge.data.npy import save_npy
from kdedge.errors import BundleError, DataError, KdedgeError
from kdedge.latency.check import Arm
from kdedge.record import sha256_of
from kdedge.runtimes.job import Job

Arrays = dict[str, npt.NDArray[Any]]

ONE_THREAD: dict[str, dict[str, Any]] = {"onnxruntime": {"threads": 1, "spinning": False}, "openvino": {"threads": 1}}
"""Options of a model file that comes without any: what repeats best."""
RUNTIMES = {".onnx": "onnxruntime", ".ort": "onnxruntime", ".xml": "openvino"}
DRAWN = ".onnx"
"""Of these files alone inputs are drawn, where none are given."""
WHOLE = ""
"""The key of a cell that is alone."""


@dataclass(frozen=True)
class Given:
    """What the user says of model files that come alone. `inputs`: an `.npz`, one array an input; `sizes`: NAME=N for dimensions that vary, where
    inputs are drawn; `options`: session options besides the usual; `others`: files of the inputs of the side
    that a candidate is compared with, by name."""

    inputs: Path | None = None
    sizes: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, str] | None = None


def arms_of(path: Path, given: Given, folder: Path) -> dict[str, Arm]:
    """The arms that a path holds, by what is compared with what: `TARGET/PRECISION` for the bundles of a run, one without a name otherwise.

    `folder`: where inputs are written.

    Raises:
        KdedgeError: there is nothing that can be launched, it is damaged, or two bundles of a run have the same name.
    """
    if (path / MANIFEST).is_file():
        return {WHOLE: of_bundle(path, folder)}
    arms: dict[str, Arm] = {}
    for number, manifest in enumerate(sorted((path / "bundles").glob(f"*/{MANIFEST}"))):
        arm = of_bundle(manifest.parent, folder / f"bundle-{number}")  # first, so that what its manifest says can be relied on
        artifact = read_manifest(manifest.parent)["artifact"]
        key = f"{artifact['target']}/{artifact['precision']}"
        if key in arms:
            raise KdedgeError(f"{path} holds two bundles of {key}: name one of them, below {path / 'bundles'}")
        arms[key] = arm
    if arms:
        return arms
    return {WHOLE: of_file(path, given, folder)}


def key_of(arm: Arm) -> str:
    """`TARGET/PRECISION` of what came from a bundle, also where it was kept as a baseline since; "" of a model file, which is for no target."""
    _, *named = arm.line.rsplit("/", 2)
    return "/".join(named) if len(named) == 2 else WHOLE


def holds_bundles(path: Path) -> bool:
    """Whether a folder is a bundle or has some, as that of a run."""
    return (path / MANIFEST).is_file() or any((path / "bundles").glob(f"*/{MANIFEST}"))


def of_bundle(root: Path, folder: Path) -> Arm:
    """A bundle whose files are whole, with its first golden inputs.

    Raises:
        BundleError: it is damaged.
    """
    verify(root, run=False)
    try:
        return _of_whole_bundle(root, read_manifest(root), folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{root.name}: {MANIFEST} does not say what is needed to time the artifact: {type(error).__name__}: {error}") from error


def _of_whole_bundle(root: Path, manifest: Mapping[str, Any], folder: Path) -> Arm:
    artifact = manifest["artifact"]
    size = artifact["batch"]["size"]
    arrays = {name: _array(root / path) for name, path in manifest["golden"]["cases"][0]["inputs"].items()}
    if not isinstance(size, int) or size < 1:
        raise BundleError(f"{root.name}: its batch is {size!r}, which is no number from 1")
    if any(array.ndim == 0 or len(array) < size for array in arrays.values()):
        raise BundleError(f"{root.name}: its golden inputs are fewer than its batch of {size}")
    graphs = {str(graph["name"]): [str((root / file).resolve()) for file in graph["files"]] for graph in artifact["graphs"]}
    line = f"{manifest.get('recipe') or manifest['name']}/{artifact['target']}/{artifact['precision']}"
    inputs = written({name: array[:size] for name, array in arrays.items()}, folder)
    job = Job("launch", artifact["runtime"], graphs, dict(artifact["options"]), [inputs], size, bool(artifact["batch"]["fixed"]))
    return Arm(plain(str(manifest["name"])), plain(line), str(artifact["sha256"]), job)


def of_file(path: Path, given: Given, folder: Path) -> Arm:
    """A model file of ONNX Runtime or OpenVINO, with inputs that are given or, for ONNX, drawn.

    Raises:
        KdedgeError: it is no such file, or inputs are needed.
    """
    if not path.is_file():
        raise KdedgeError(f"{path}: there is no such file, bundle or folder of a run")
    if path.suffix not in RUNTIMES:
        raise KdedgeError(f"{path.name}: a check launches {', '.join(sorted(RUNTIMES))} and bundles; what is `{path.suffix or path.name}`?")
    runtime = RUNTIMES[path.suffix]
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else _data_files(path))]
    if missing := [file for file in files if not file.is_file()]:
        raise KdedgeError(f"{path.name}: its file {missing[0].name} is not beside it")
    if elsewhere := [file for file in files if file.parent != path.parent]:
        raise KdedgeError(
            f"{path.name}: its data {elsewhere[0].relative_to(path.parent)} lies in another folder; save the model with its data beside it"
        )
    arrays = _given(given.inputs) if given.inputs is not None else _drawn(path, given)
    rows = {len(array) for array in arrays.values() if array.ndim}
    batch = min(rows, default=1)
    options = {**ONE_THREAD[runtime], **given.options}
    job = Job("launch", runtime, {"model": [str(file.resolve()) for file in files]}, options, [written(arrays, folder)], batch, True)
    return Arm(plain(path.stem), plain(path.stem), digest(files), job)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 over those of the files, in their order; of a single file its plain one."""
    each = [sha256_of(file) for file in files]
    return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()


def plain(name: str) -> str:
    """A name that can be printed and kept: what is no printable character (bytes of a file name that are no text, control characters) is escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


def written(arrays: Arrays, folder: Path) -> dict[str, str]:
    """Inputs as the files that a job names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, (name, array) in enumerate(sorted(arrays.items())):
        files[name] = str((folder / f"input-{number}.npy").resolve())
        save_npy(Path(files[name]), np.ascontiguousarray(array))
    return files


def with_inputs_of(arm: Arm, other: Arm) -> Arm:
    """The arm with the other's inputs: both are timed on the same.

    Raises:
        DataError: they take other inputs.
    """
    ours, theirs = arm.job.buckets[0], other.job.buckets[0]
    if set(ours) != set(theirs):
        raise DataError(f"{other.name} takes the inputs {', '.join(sorted(theirs))}, {arm.name} takes {', '.join(sorted(ours))}")
    for name in ours:
        first, second = _array(Path(ours[name])), _array(Path(theirs[name]))
        if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
            raise DataError(
                f"input `{name}`: {other.name} takes {second.dtype} {list(second.shape)}, {arm.name} takes {first.dtype} {list(first.shape)}"
            )
    return replace(arm, job=replace(arm.job, buckets=[dict(theirs)]))


def _given(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, TypeError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an .npz of inputs: {error}") from error
    if not found:
        raise DataError(f"{path}: holds no array; one for each input is needed")
    return found


def _drawn(path: Path, given: Given) -> Arrays:
    if path.suffix != DRAWN:
        if given.others is not None:
            return {name: _array(Path(file)) for name, file in given.others.items()}
        raise KdedgeError(f"{path.name}: give its inputs with --inputs FILE.npz; they are drawn for {DRAWN} files alone")
    from kdedge.exporters.examples import random_feed
    from kdedge.exporters.foreign.opening import open_graph
    from kdedge.exporters.given_sizes import fill_sizes, name_dimensions, parse_sizes, specs_at

    model = name_dimensions(open_graph(path))
    fixed = fill_sizes(model, parse_sizes(given.sizes))
    return random_feed(specs_at(model, fixed), {})


def _data_files(path: Path) -> list[Path]:
    if path.suffix != ".onnx":
        return []
    from kdedge.exporters.foreign.opening import data_files

    return list(data_files(path))


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path.name}: cannot be read as an array: {error}") from error
    return found
