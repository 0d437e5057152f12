"""The nouns that travel between stages: plain frozen values, no torch, no runtime.

Every path in here points to a file that a stage wrote; every tuple is ordered; everything can be written as JSON and read back
(`kdedge.workspace` does that), so that a stage's result is the same whether it was just computed or read from the cache.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdedge.errors import KdedgeError

Precision = Literal["fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "mixed"]


@dataclass(frozen=True)
class ImportPath:
    """Code named as `module:attribute`, imported only when it is used. As an argument of a stage it stands for its source:
    a change of the file that it names (and of the kdedge modules that this file imports) makes the stage run again."""

    value: str

    def load(self) -> Any:
        """Import the module and return the attribute.

        Raises:
            KdedgeError: the text is not `module:attribute`, the module or attribute does not exist, or the module of a user fails.
            ModuleNotFoundError: a module of kdedge needs a package that is not installed.
        """
        module, _, attribute = self.value.partition(":")
        if not module or not attribute:
            raise KdedgeError(f"`{self.value}` is not an import path: it must look like `package.module:name`")
        found: Any = importlib.import_module(module) if module.partition(".")[0] == "kdedge" else self._imported(module)
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise KdedgeError(f"`{self.value}`: module `{module}` has no `{attribute}`")
            found = getattr(found, part)
        return found

    def _imported(self, module: str) -> Any:
        try:
            return importlib.import_module(module)
        except KdedgeError:
            raise
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(error.name + ".")):
                raise KdedgeError(f"`{self.value}`: there is no module `{error.name}` (is its folder on PYTHONPATH?)") from error
            raise KdedgeError(f"`{self.value}`: it imports the module `{error.name}`, which is not installed") from error
        except (Exception, SystemExit) as error:  # it may be anybody's code
            raise KdedgeError(f"`{self.value}` cannot be imported: {type(error).__name__}: {error}") from error


# ---- what a graph takes and gives ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dimension:
    """A dimension that varies: its name in the graph, and the smallest, usual and largest size."""

    name: str
    minimum: int
    typical: int
    maximum: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: name, numpy dtype name, and its dimensions (a fixed size or a `Dimension`)."""

    name: str
    dtype: str
    shape: tuple[int | Dimension, ...]


@dataclass(frozen=True)
class ImageEncoder:
    """From a uint8 HWC RGB image to `input_name`: float32 NCHW in [0, 1]. Mean and std are nodes of the graph, not of this.

    `resize`: shorter side in pixels before the centre crop, or None to leave an image that has the right size already;
    `size`: (height, width) that enters the graph.
    """

    size: tuple[int, int]
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: int = 3
    input_name: str = "image"


@dataclass(frozen=True)
class TextEncoder:
    """From a string to int64 ids and attention mask [N, length], by a Hugging Face `tokenizer.json` that travels as an asset."""

    tokenizer: Path
    max_length: int
    pad_id: int
    input_names: tuple[str, ...] = ("input_ids", "attention_mask")


Encoder = ImageEncoder | TextEncoder


# ---- data ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitSource:
    """How to open one split again: `reader` is a function of the data package that takes `arguments` and returns `Examples`.
    `fingerprint` is the hash of the content (files by their bytes), so that changed data is noticed without opening it."""

    reader: ImportPath
    arguments: dict[str, Any]
    size: int
    fingerprint: str


@dataclass(frozen=True)
class PreparedData:
    """Data that was read once, checked (labels in range, nothing empty) and can be opened again cheaply.

    `splits` has `train` and `test`, and `unlabelled` where the recipe names such examples (their labels are 0 and mean nothing), until `part`
    leaves one of them. `calibration` are indices into `train` (seeded, unaugmented examples).
    `statistics` are facts of the training split that models may want (for images `mean` and `std`, one number a channel in [0, 1]).
    `encoder` is what fits this data when the model does not say otherwise.
    """

    task: ImportPath
    splits: dict[str, SplitSource]
    classes: tuple[str, ...]
    calibration: tuple[int, ...]
    encoder: Encoder
    statistics: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def part(self, split: str, *, calibration: bool = False) -> PreparedData:
        """One split alone, with or without the calibration examples: a stage that is not given the rest cannot see it, nor run again for it."""
        return replace(self, splits={split: self.splits[split]}, calibration=self.calibration if calibration else ())

    def without(self, split: str, *, calibration: bool = False) -> PreparedData:
        """All splits but one, with or without the calibration examples: what looks at several must not be given the test split."""
        others = {name: source for name, source in self.splits.items() if name != split}
        return replace(self, splits=others, calibration=self.calibration if calibration else ())

    def learning(self, split: str) -> PreparedData:
        """One split alone, as training takes it: whatever it is called here, it is called `train` there."""
        return replace(self, splits={"train": self.splits[split]}, calibration=())


@dataclass(frozen=True)
class InputBucket:
    """Encoded examples of one shape: `files` maps input name to a `.npy` of [n, ...]; `indices` is a `.npy` of their places in the split."""

    files: dict[str, Path]
    indices: Path
    size: int


@dataclass(frozen=True)
class EncodedInputs:
    """A split as the graph takes it, written once. Images have one bucket, texts one per length."""

    buckets: tuple[InputBucket, ...]
    size: int


# ---- models ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFiles:
    """A model that can be built again anywhere: factory + arguments + weights (safetensors), or an ONNX file (`onnx`).

    `name` is what the recipe said. `encoder` turns raw examples into the inputs. `normalize` is (mean, std) per channel that become nodes
    inside the graph, or None. `parameters` counts trainable and frozen scalars (0 where an ONNX file does not say).
    """

    name: str
    factory: ImportPath | None
    arguments: dict[str, Any]
    weights: Path | None
    onnx: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    encoder: Encoder
    classes: tuple[str, ...]
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    parameters: int = 0


@dataclass(frozen=True)
class TeacherFiles:
    """One teacher or an ensemble: members and their weights (they sum to 1).

    `temperatures`: what each member's logits are divided by (empty: by nothing). `maps`: for each member the places of the data's classes among
    its own, in the order of the data (an empty map, or no maps at all: its classes are the data's). `kdedge.fidelity.ensemble` has the formula.
    """

    members: tuple[ModelFiles, ...]
    weights: tuple[float, ...]
    temperatures: tuple[float, ...] = ()
    maps: tuple[tuple[int, ...], ...] = ()

    @property
    def readings(self) -> tuple[tuple[float, tuple[int, ...]], ...]:
        """How the logits of each member are read: (temperature, map)."""
        count = len(self.members)
        return tuple(zip(self.temperatures or (1.0,) * count, self.maps or ((),) * count, strict=True))


@dataclass(frozen=True)
class FloatGraph:
    """The student as one float32 ONNX file with dynamic batch (and length), verified against the torch student.

    `largest_difference`: largest absolute difference of any output seen in that check; `passes`: graph passes that were kept.
    """

    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    encoder: Encoder
    classes: tuple[str, ...]
    opset: int
    parameters: int
    largest_difference: float
    passes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecoveryStep:
    """One thing that was tried to bring the integers closer to the float graph, and whether it was kept.

    `before`, `after`: the distance to the float graph on calibration examples that the step did not learn from, in `measure` ("kl": nats;
    "relative-error": squared error over the squared size of the float outputs). `note`: what a person should know, such as why nothing was done.
    """

    name: str
    kept: bool
    measure: Literal["kl", "relative-error"]
    before: float
    after: float
    note: str = ""


@dataclass(frozen=True)
class CalibratedRanges:
    """Where the range table lies (JSON; `kdedge.exporters.quantize.ranges` reads it) and what it was made from.

    `weights`: float tensors that take the place of the graph's own when int8 is made (safetensors; `kdedge.exporters.quantize.tensors`), None where
    nothing was changed; `dialect`: the only one that they and the ranges are meant for, "" for all; `steps`: how they came about; `trials`: what
    the search for `mixed` measured, in order.
    """

    table: Path
    observer: str
    samples: int
    model_sha256: str
    weights: Path | None = None
    dialect: str = ""
    steps: tuple[RecoveryStep, ...] = ()
    trials: tuple[MixedTrial, ...] = ()


@dataclass(frozen=True)
class MixedTrial:
    """One choice of layers that stay float, as the search for `mixed` measured it.

    `kept`: names of nodes; `kl` (nats) and `agreement` with the float student, on calibration examples that the choice was not made by;
    `latency_ms`: None where the target cannot run here. `chosen`: it became the artifact.
    """

    kept: tuple[str, ...]
    kl: float
    agreement: float
    latency_ms: float | None
    chosen: bool = False


@dataclass(frozen=True)
class AskedNode:
    """A node that multiplies, and in what the file of an artifact asks for it: what an audit compares with what ran.

    `precision`: int8, fp16, bf16, fp32 or other. `macs`: multiply-accumulates of one call at the usual sizes, None where the sizes are not known
    before it runs. `names`: what a runtime may call the node (its own name and that of its output); `followers`: the nodes behind it that alone
    read it, with which a runtime may fuse it, nearest first. `activation`, `result`, `bias`: types of what it multiplies, of what its output
    becomes at once, and of what it adds, "" where there is none; `between`: an operator that stands between it and the quantization of its
    output and that no zero point can absorb. `kept`: why it stays float, where that was decided.
    """

    name: str
    operator: str
    precision: str
    macs: int | None
    names: tuple[str, ...]
    followers: tuple[str, ...] = ()
    activation: str = ""
    result: str = ""
    bias: str = ""
    between: str = ""
    kept: str = ""


@dataclass(frozen=True)
class ChannelSizes:
    """Where the sizes of the channels of activations lie (npz; `kdedge.exporters.smoothing` reads it), of which graph, and from how many examples."""

    path: Path
    model_sha256: str
    samples: int


@dataclass(frozen=True)
class GraphFile:
    """One graph of an artifact: its main file first (what the runtime opens), then side files (OpenVINO's .bin)."""

    name: str
    files: tuple[Path, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Lineage:
    """What an artifact descends from: content hashes and names, nothing that tells where it was made."""

    recipe: str
    teacher: str
    student: str
    float_graph_sha256: str
    data_fingerprint: str
    ranges_sha256: str = ""
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """What ships for one target in one precision.

    `sha256`: over the bytes of all files, in order. `options`: the session options that fidelity and latency are measured with and that ship.
    `checks`: what was proven without the device, e.g. {"rtx-checked": "parsed and built by tensorrt-rtx 1.7.1 for SM86"}.
    `notes`: what a person should know (layers left float and why). `asked`: the nodes that multiply, as the file asks for them. `trials`: what
    the search for `mixed` measured before it chose this.
    """

    target: str
    precision: Precision
    format: str
    runtime: str
    dialect: str
    graphs: tuple[GraphFile, ...]
    sha256: str
    size_bytes: int
    options: dict[str, Any]
    encoder: Encoder
    classes: tuple[str, ...]
    lineage: Lineage
    assets: tuple[Path, ...] = ()
    program: str | None = None
    checks: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: tuple[AskedNode, ...] = ()
    trials: tuple[MixedTrial, ...] = ()

    @property
    def main(self) -> GraphFile:
        """The first graph: the only one unless a generation program drives several."""
        return self.graphs[0]

    @property
    def batch(self) -> tuple[int, bool]:
        """Examples a call, and whether the graph takes no other number. A dynamic batch runs at its usual size: what `int8-dynamic` computes
        depends on the batch, so fidelity and latency are measured with the one that is meant."""
        first = self.main.inputs[0].shape[0]
        return (first, True) if isinstance(first, int) else (first.typical, False)
