"""A wrong recipe or wrong data: exit code 2 and a sentence that names the culprit, never a traceback."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import started
from PIL import Image
from small_recipes import SENTENCES, Change, Plain, arrays, cells, kdedge, refused, run, stages, write, write_texts

# ---- files that are no recipe ----------------------------------------------------------------------------------------------

DEEP, DIGITS = 5000, 5000
NOT_RECIPES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "binary": (bytes(range(256)), ("UTF-8",)),
    "utf-16": ("name: x\n".encode("utf-16"), ("UTF-8",)),
    "a nul": ("name: a\0b\n", ("not valid YAML",)),
    "empty": ("", ("is empty", "kdedge init")),
    "a comment": ("# nothing\n", ("is empty",)),
    "a list": ("- name\n- task\n", ("a section of keys", "not a list")),
    "a text": ("hello\n", ("a section of keys", "hello")),
    "tabs": ("name: x\ndata:\n\ttrain: y\n", (":3:", "with spaces, not with tabs")),
    "an open bracket": ("name: [x\n", (":2:", "not valid YAML")),
    "two documents": ("name: a\n---\nname: b\n", ("another document",)),
    "an unknown alias": ("name: *nothing\n", ("undefined alias",)),
    "an alias in itself": ("name: &a [*a]\n", ("an alias (*name) stands inside what it names",)),
    "aliases that explode": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 10)}]\n" for b, c in zip("abcdefg", "bcdefgh", strict=True)),
        ("more than 20000 values",),
    ),
    "brackets without end": ("a: " + "[" * DEEP + "]" * DEEP, ("too deeply",)),
    "sections in sections": ("{a: " * 60 + "1" + "}" * 60, ("more than 50 deep",)),
    "a number without end": (f"seed: {'9' * DIGITS}\n", (":1:", f"{DIGITS} digits")),
    "a hexadecimal number without end": (f"seed: 0x{'f' * DIGITS}\n", ("digits",)),
    "the same key twice": ("name: a\nname: b\n", (":2:", "name", "line 1")),
    "a key that is a number": ("1: 2\n", (":1:", "a key must be a text")),
    "a python object": ("name: !!python/object/apply:os.mkdir [ran]\n", (":1:", "python/object", "no place in a recipe")),
}


@pytest.mark.parametrize("what", NOT_RECIPES)
def test_a_file_that_is_no_recipe(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = NOT_RECIPES[what]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(run(path), "recipe.yaml", *words)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["recipe.yaml"]  # nothing was run, nothing was begun


def test_a_recipe_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    refused(run(tmp_path / "missing.yaml"), "missing.yaml", "no such file", "kdedge init")
    (tmp_path / "folder.yaml").mkdir()
    refused(run(tmp_path / "folder.yaml"), "folder.yaml", "directory")
    (tmp_path / "ring.yaml").symlink_to(tmp_path / "ring.yaml")
    refused(run(tmp_path / "ring.yaml"), "ring.yaml", "symbolic links")
    refused(kdedge("run", "/dev/zero", "--workspace", tmp_path / "workspace"), "/dev/zero", "larger than 1 MB")


# ---- keys and values -------------------------------------------------------------------------------------------------------

Case = tuple[Change, tuple[str, ...]]


def put(path: str, value: Any) -> Change:
    """The change that sets one value; numbers are places in a list."""

    def change(content: Plain) -> None:
        *way, last = path.split(".")
        inside: Any = content
        for part in way:
            inside = inside[int(part)] if isinstance(inside, list) else inside.setdefault(part, {})
        inside[last] = value

    return change


WRONG: dict[str, Case] = {
    "unknown key": (put("distill.epoch", 2), ("recipe.yaml:1", "distill.epoch", "unknown key", "did you mean `epochs`?")),
    "wrong type": (put("distill.epochs", "many"), ("distill.epochs", "a whole number", "many")),
    "truth for a number": (put("distill.epochs", True), ("distill.epochs", "a whole number", "true")),
    "too small": (put("distill.batch_size", 0), ("distill.batch_size", "at least 1")),
    "missing section": (put("data", None), ("data", "missing")),
    "name with a path": (put("name", "../../elsewhere"), ("name", "../../elsewhere")),
    "name too long": (put("name", "n" * 300), ("name", "300 characters", "at most 100")),
    "unknown task": (put("task", "image-clasification"), ("task", "image-clasification", "image-classification")),
    "unknown target": (put("export.0.target", "onnxruntime-x68"), ("export[0].target", "did you mean `onnxruntime-x86`?")),
    "precision that the target lacks": (
        put("export", [{"target": "openvino", "precision": ["fp32", "int8-dynamic"]}]),
        ("export[0].precision[1]", "openvino", "int8-dynamic", "fp32, fp16, int8"),
    ),
    "unknown precision": (put("export.0.precision", ["int9"]), ("export[0].precision[0]", "int9", "did you mean `int8`?")),
    "unknown device": (put("devices", ["jetson-nano"]), ("device", "jetson-nano", "local")),
    "unknown figure": (put("gate", {"acuracy": ">= 0.9"}), ("gate.acuracy", "did you mean `accuracy`?")),
    "no condition": (put("gate", {"accuracy": "0.9"}), ("gate.accuracy", "0.9", "a comparison")),
    "unit of another figure": (put("gate", {"accuracy": ">= 5 ms"}), ("gate.accuracy", "ms")),
    "required target that is none": (put("gate", {"require": ["tpu"]}), ("gate.require", "tpu")),
    "unknown loss": (put("distill.losses", [{"kdd": 1}]), ("recipe.yaml:1: distill.losses[0].kdd", "did you mean `kd`?")),
    "unknown parameter": (put("distill.losses", [{"kd": 1, "temperatur": 2}]), ("distill.losses[0].temperatur", "did you mean `temperature`?")),
    "temperature 0": (put("distill.losses", [{"kd": 1, "temperature": 0}]), ("distill.losses[0].temperature", "greater than 0")),
    "loss that needs a teacher": (put("teacher", None), ("distill.losses[1]", "kd", "teacher")),
    "unknown augmentation": (put("data.augment", ["rotate"]), ("recipe.yaml:1: data.augment[0]", "rotate", "flip")),
    "unknown reader": (put("data.train", "hdf5:data.h5"), ("data.train", "hdf5", "npz")),
    "no reader": (put("data.train", "data.npz"), ("data.train", "READER:ARGUMENT")),
    "reader of another task": (put("data.test", "tsv:data.npz"), ("data.test", "tsv", "image-classification")),
    "key of another task": (put("data.max_length", 5), ("data.max_length", "for texts")),
    "unknown data set": (put("data.train", "sklearn:faces"), ("sklearn:faces", "digits")),
    "data that is not there": (put("data.test", "npz:nowhere.npz"), ("data.test", "nowhere.npz")),
    "data of a user who does not exist": (put("data.test", "npz:~nobody-of-this-name/data.npz"), ("data.test", "~nobody-of-this-name/data.npz")),
    "data with a zero in its name": (put("data.test", "npz:a\0b.npz"), ("data.test", "null")),
    "data that is a folder": (put("data.test", "npz:."), ("data.test", "there is no file")),
    "unknown model": (put("student.model", "kdedge:cn"), ("kdedge:cn", "did you mean `cnn`?")),
    "unknown argument": (put("student.arguments.widht", 3), ("arguments.widht", "did you mean `width`?")),
    "argument without sense": (put("student.arguments.width", 0), ("kdedge:cnn", "width is at least 1")),
    "more stages than any image": (put("student.arguments.stages", 40), ("kdedge:cnn", "stages is 1 to 10")),
    "argument larger than memory": (put("student.arguments.width", 10**12), ("kdedge:cnn", "'width': 1000000000000")),
    "model of another task": (put("student", {"model": "kdedge:transformer-text"}), ("kdedge:transformer-text", "images", "kdedge:cnn")),
    "library that is not installed": (put("student", {"model": "torchvision:resnet18"}), ("torchvision", "pip install 'kdedge[vision]'")),
    "learning rate that overflows": (put("distill.optimizer", {"lr": 1e300}), ("ce", "step 2", "optimizer.lr")),
    "batch that the student cannot have": (put("export.0.batch", 100_000), ("batch 100000", "1 to 64")),
    "node that is not there": (
        lambda content: (put("export.0.precision", ["int8"])(content), put("quantize.keep_float", ["nothing*"])(content)),
        ("quantize.keep_float", "nothing*"),
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_recipe_that_says_something_wrong(what: str, tmp_path: Path) -> None:
    change, words = WRONG[what]
    refused(run(write(tmp_path, change)), *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("distil.epochs=2", ("distil", "did you mean `distill`?")),
        ("distill.epoch=2", ("distill.epoch", "did you mean `epochs`?")),
        ("distill.epochs=many", ("distill.epochs", "a whole number", "many")),
        ("distill.epochs", ("distill.epochs", "not key=value")),
        ("distill.epochs=[", ("distill.epochs", "not valid YAML")),
        ("export.7.target=openvino", ("`7` is no place", "from 0 to 0")),
        ("name.first=x", ("`name` is 'small'", "no `first`")),
        (".".join("a" * 3000) + "=1", ("more than 50 sections deep",)),
        ("", ("not key=value",)),
    ],
)
def test_a_value_set_on_the_command_line(override: str, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(run(write(tmp_path), "--set", override), f"--set {override[:50]}".strip(), *words)


def test_a_device_named_on_the_command_line(tmp_path: Path) -> None:
    refused(run(write(tmp_path), "--on", "jetson-nano"), "jetson-nano", "local")


def test_a_started_program_says_the_same(tmp_path: Path) -> None:
    recipe = write(tmp_path, put("distill.epoch", 2))
    refused(started("run", recipe, "--workspace", "workspace", folder=tmp_path), "distill.epoch", "did you mean `epochs`?")
    refused(started("run", folder=tmp_path), "RECIPE")
    refused(started("run", recipe, "--bogus", folder=tmp_path), "--bogus")
    refused(started("rnu", recipe, folder=tmp_path), "rnu")


# ---- arrays ----------------------------------------------------------------------------------------------------------------

GOOD = arrays()
BAD_ARRAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "float images": ({"x_train": GOOD["x_train"] / 255.0}, ("x_train", "float64", "uint8")),
    "objects for images": ({"x_train": np.array([None] * 48, dtype=object)}, ("x_train", "Python objects are refused")),
    "objects for labels": ({"y_test": np.array([os] * 24, dtype=str).astype(object)}, ("y_test", "Python objects are refused")),
    "labels as texts": ({"y_train": np.array(["cat", "dog"] * 24)}, ("y_train", "whole numbers")),
    "labels as floats": ({"y_train": GOOD["y_train"] / 1.0}, ("y_train", "float64", "whole numbers")),
    "one-hot labels": ({"y_train": np.eye(3, dtype=np.int64)[GOOD["y_train"]]}, ("y_train", "(48, 3)")),
    "a test label out of range": ({"y_test": GOOD["y_test"] + 1}, ("data.test", "x_test[2]", "label 3", "0 to 2", "8 examples")),
    "a negative label": ({"y_train": GOOD["y_train"] - 1}, ("data.train", "x_train[0]", "label -1")),
    "a label with a gap": ({"y_train": np.where(np.arange(48) == 7, 255, GOOD["y_train"])}, ("class 3", "y_train[7]", "255")),
    "a label beyond the names": (
        {"y_train": np.where(np.arange(48) == 7, 3, GOOD["y_train"]), "classes": np.array(["r", "g", "b"])},
        ("x_train[7]", "label 3", "0 to 2"),
    ),
    "a class named twice": ({"classes": np.array(["r", "g", "r"])}, ("classes", "twice", "r")),
    "one class": ({"y_train": GOOD["y_train"] * 0, "y_test": GOOD["y_test"] * 0}, ("data.train", "one class `0`", "at least two")),
    "no training image": ({"x_train": GOOD["x_train"][:0], "y_train": GOOD["y_train"][:0]}, ("x_train is empty", "train split")),
    "no test image": ({"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]}, ("x_test is empty", "test split")),
    "fewer labels than images": ({"y_train": GOOD["y_train"][:-1]}, ("48 images", "47 labels")),
    "no test labels": ({"y_test": None}, ("y_test", "found: x_test, x_train, y_train")),
    "images without contrast": ({"x_train": GOOD["x_train"] * 0}, ("data.train", "channel 0", "same value")),
    "test images of another size": ({"x_test": np.zeros((24, 9, 9, 3), np.uint8)}, ("8x8", "9x9", "data.size")),
    "four channels": ({"x_train": np.zeros((48, 8, 8, 4), np.uint8)}, ("x_train", "(48, 8, 8, 4)", "RGB")),
    "channels first": ({"x_train": np.zeros((48, 3, 8, 8), np.uint8)}, ("x_train", "(48, 3, 8, 8)", "RGB")),
    "images without pixels": ({"x_train": np.zeros((48, 0, 8, 3), np.uint8)}, ("x_train", "(48, 0, 8, 3)")),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_arrays_that_are_no_data(what: str, tmp_path: Path) -> None:
    changes, words = BAD_ARRAYS[what]
    refused(run(write(tmp_path, data=arrays(**changes))), *words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"hello, I am no archive", ("it is no zip archive",)),
        (lambda content: b"", ("data.npz", "is not an .npz file")),
        (lambda content: content[: len(content) // 2], ("data.npz", "is not an .npz file")),
        (lambda content: content[:400] + bytes(200) + content[600:], ("x_train", "cannot be read")),
    ],
)
def test_an_npz_file_that_is_damaged(damage: Callable[[bytes], bytes], words: tuple[str, ...], tmp_path: Path) -> None:
    recipe = write(tmp_path)
    path = tmp_path / "data.npz"
    path.write_bytes(damage(path.read_bytes()))
    refused(run(recipe), "data.npz", *words)


def test_an_array_that_says_it_is_larger_than_memory(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**4, 10**3, 3)})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for name in GOOD:
            archive.writestr(f"{name}.npy", header.getvalue())
    refused(run(recipe), "data.npz", "x_train", "Unable to allocate")


def test_data_behind_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "ring.npz").symlink_to(tmp_path / "ring.npz")
    refused(run(write(tmp_path, put("data.test", "npz:ring.npz"))), "data.test", "ring.npz")


# ---- folders of images -----------------------------------------------------------------------------------------------------


def folders(tmp_path: Path) -> Path:
    """A recipe whose data are image folders `images/SPLIT/CLASS/N.png`."""
    recipe = write(tmp_path, lambda content: content["data"].update(train="folder:images/train", test="folder:images/test"))
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("blue", "green", "red"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    return recipe


def _grey16(images: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(images / "train" / "red" / "9.png")


def _emptied(images: Path, split: str) -> None:
    for file in (images / split / "green").iterdir():
        file.unlink()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "a text that is called an image": (lambda images: (images / "test/red/1.png").write_text("no"), ("images/test/red/1.png", "not an image")),
    "an empty image": (lambda images: (images / "train/red/1.png").write_bytes(b""), ("images/train/red/1.png", "not an image")),
    "an image cut short": (
        lambda images: (images / "test/red/1.png").write_bytes((images / "test/red/1.png").read_bytes()[:60]),
        ("images/test/red/1.png", "truncated"),
    ),
    "an image of 16 bits": (_grey16, ("images/train/red/9.png", "8 bits")),
    "a decompression bomb": (
        lambda images: Image.new("1", (20_000, 20_000)).save(images / "train" / "red" / "9.png"),
        ("images/train/red/9.png", "400000000 pixels"),
    ),
    "a link to nowhere": (lambda images: (images / "train/red/9.png").symlink_to("/nowhere.png"), ("images/train/red/9.png", "cannot be read")),
    "a class of the test images alone": (lambda images: (images / "test/red").rename(images / "test/violet"), ("violet", "blue, green, red")),
    "a class without images": (lambda images: _emptied(images, "train"), ("images/train/green", "no image")),
    "images without class folders": (
        lambda images: [folder.rename(images / folder.name) for folder in (images / "test").iterdir()],
        ("images/test", "no class folders"),
    ),
    "images of several sizes": (lambda images: Image.new("RGB", (5, 5)).save(images / "train" / "red" / "9.png"), ("several sizes", "data.size")),
    "no folder": (lambda images: (images / "test").rename(images / "tset"), ("data.test", "no folder", "images/test")),
}


@pytest.mark.parametrize("what", BAD_FOLDERS)
def test_a_folder_with_a_bad_image(what: str, tmp_path: Path) -> None:
    recipe = folders(tmp_path)
    damage, words = BAD_FOLDERS[what]
    damage(tmp_path / "images")
    ended = run(recipe)
    refused(ended, *words)
    assert " at 0x" not in ended.err


def test_the_run_goes_on_where_the_image_is_mended(tmp_path: Path) -> None:
    recipe = folders(tmp_path)
    image = tmp_path / "images" / "test" / "red" / "1.png"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    refused(run(recipe, command="distill"), "images/test/red/1.png")
    image.write_bytes(whole)
    assert run(recipe, command="distill").code == 0


# ---- texts -----------------------------------------------------------------------------------------------------------------

BAD_TEXTS: dict[str, tuple[dict[str, str | bytes], tuple[str, ...]]] = {
    "no header": ({"train": SENTENCES.partition("\n")[2]}, ("train.tsv:1", "header")),
    "no file of texts": ({"train": bytes(range(256))}, ("train.tsv:1", "header")),
    "nothing": ({"test": ""}, ("test.tsv is empty",)),
    "a header alone": ({"test": "sentence\tlabel\n"}, ("test.tsv", "no examples", "test split")),
    "three fields": ({"train": SENTENCES + "one\ttwo\t1\n"}, ("train.tsv:42", "3 fields")),
    "a sentence without words": ({"train": SENTENCES + "\t1\n"}, ("train.tsv:42", "empty")),
    "another encoding": ({"train": SENTENCES.encode() + "café\t1\n".encode("latin-1")}, ("train.tsv:42", "UTF-8")),
    "a label of another kind": ({"train": SENTENCES + "hello\tpos\n"}, ("train.tsv:42", "pos", "whole number")),
    "a label with a gap": ({"train": SENTENCES + "hello\t7\n"}, ("class 2", "train.tsv:42", "7")),
    "a test label out of range": ({"test": SENTENCES + "hello\t7\n"}, ("test.tsv:42", "label 7", "0 to 1")),
    "names in one split alone": ({"test": SENTENCES.replace("\t0", "\tneg")}, ("test.tsv:2", "neg", "training split")),
    "one class": ({"train": SENTENCES.replace("\t1", "\t0"), "test": SENTENCES.replace("\t1", "\t0")}, ("one class",)),
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_texts_that_are_no_data(what: str, tmp_path: Path) -> None:
    files, words = BAD_TEXTS[what]
    refused(run(write_texts(tmp_path, **files)), *words)  # type: ignore[arg-type]


def _tokenizer(content: str | None) -> Callable[[Path], Change]:
    def prepare(folder: Path) -> Change:
        (folder / "tokenizer").mkdir()
        if content is not None:
            (folder / "tokenizer" / "tokenizer.json").write_text(content)
        return put("data.tokenizer", {"folder": "tokenizer"})

    return prepare


def _transformer(config: str) -> Callable[[Path], Change]:
    def prepare(folder: Path) -> Change:
        (folder / "bert").mkdir()
        (folder / "bert" / "config.json").write_text(config)
        return put("teacher", {"model": "transformers:bert"})

    return prepare


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: put("data.tokenizer", {"folder": "nowhere"}), ("data.tokenizer.folder", "nowhere")),
        (_tokenizer(None), ("tokenizer.json",)),
        (_tokenizer("{}"), ("tokenizer.json", "no tokenizer that can be read")),
        (lambda folder: put("data.augment", ["flip"]), ("data.augment", "flip", "texts")),
        (lambda folder: put("student", {"model": "kdedge:cnn"}), ("kdedge:cnn", "texts", "kdedge:transformer-text")),
        (lambda folder: put("student.arguments.heads", 3), ("kdedge:transformer-text", "3 heads")),
        (lambda folder: put("teacher", {"model": "transformers:nowhere"}), ("transformers:", "nowhere")),
        (_transformer("[1]"), ("config.json", "not a JSON object")),
        (_transformer(json.dumps({"auto_map": {}, "model_type": "bert"})), ("auto_map", "runs no code")),
    ],
)
def test_a_text_recipe_that_says_something_wrong(prepare: Callable[[Path], Change], words: tuple[str, ...], tmp_path: Path) -> None:
    refused(run(write_texts(tmp_path, prepare(tmp_path))), *words)


# ---- what looks wrong and is not, and what fails one cell alone -------------------------------------------------------------


def test_grey_images_few_images_and_large_batches_are_no_mistake(tmp_path: Path) -> None:
    grey = arrays(x_train=GOOD["x_train"][..., 0], x_test=GOOD["x_test"][..., :1])

    def change(content: Plain) -> None:
        content["data"] |= {"calibration": 10**6, "limit_train": 6}
        content["distill"]["batch_size"] = content["teacher"]["train"]["batch_size"] = 10**6
        content["export"] = [{"target": "onnxruntime-x86", "precision": ["int8"]}]

    assert cells(run(write(tmp_path, change, data=grey), "--json")) == {"onnxruntime-x86 int8": ("ok", "")}


@pytest.mark.slow
def test_a_session_option_that_the_runtime_refuses_fails_its_cell_alone(tmp_path: Path) -> None:
    targets = [
        {"target": "openvino", "precision": ["fp32"], "options": {"device": "CPU.7"}},
        {"target": "onnxruntime-x86", "precision": ["fp32"], "options": {"providers": ["NoSuchExecutionProvider"]}},
        {"target": "torch", "precision": ["fp32"]},
    ]
    recipe = write(tmp_path, export=targets)
    ended = run(recipe, "--json", command="profile")
    found = cells(ended, code=1)
    assert found["torch fp32"] == ("ok", "")
    assert found["openvino fp32"][0] == "failed"
    assert "openvino cannot open" in found["openvino fp32"][1]
    assert found["onnxruntime-x86 fp32"][0] == "not-run"
    assert "NoSuchExecutionProvider" in found["onnxruntime-x86 fp32"][1]
    # What worked is kept; what failed is tried again.
    again = stages(run(recipe, "--json", command="profile"))
    assert not again["validate.validate openvino fp32 on local"]
    assert all(cached for name, cached in again.items() if "openvino" not in name and "onnxruntime-x86 fp32 on" not in name)


OPTIONS: dict[str, tuple[str, Plain, tuple[str, ...]]] = {
    "unknown": ("onnxruntime-x86", {"thread": 2}, ("export[0].options.thread:", "unknown session option", "did you mean `threads`?")),
    "of another runtime": (
        "openvino",
        {"spinning": True},
        ("export[0].options.spinning:", "openvino", "allowed: device, dynamic_quantization, inference_precision"),
    ),
    "of a value that is none": ("openvino", {"inference_precision": "f8"}, ("export[0].options.inference_precision:", "'f8'", "f32, f16, bf16")),
    "of another kind": ("tensorrt", {"workspace_mb": "much"}, ("export[0].options.workspace_mb:", "must be int")),
    "too small": ("torch", {"threads": 0}, ("export[0].options.threads:", "at least 1")),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_a_session_option_without_sense_is_refused_before_anything_is_done(what: str, tmp_path: Path) -> None:
    target, options, words = OPTIONS[what]
    ended = run(write(tmp_path, export=[{"target": target, "precision": ["fp32"], "options": options}]))
    refused(ended, *words)
    assert stages(ended) == {}


LATE: dict[str, tuple[Change, tuple[str, ...], set[str]]] = {
    "width 0": (put("student.arguments.width", 0), ("arguments.width: model `kdedge:cnn`: width is at least 1, not 0",), set()),
    "width of nothing": (put("student", {"model": "kdedge:mobilenetv2", "arguments": {"width": -1.0}}), ("width is more than 0, not -1",), set()),
    "no layer": (
        put("student", {"model": "kdedge:resnet8-cifar", "arguments": {"width": -4}}),
        ("student.arguments.width: model `kdedge:resnet8-cifar`: width is at least 1",),
        set(),
    ),
    # What the data has to be known for.
    "other classes": (
        put("student.arguments.classes", 7),
        ("student.arguments.classes: ", "classes is 7, the data has 3"),
        {"prepare.prepare"},
    ),
    "an assistant for texts": (put("distill.assistants", [{"model": "kdedge:transformer-text"}]), ("images",), {"prepare.prepare"}),
}


@pytest.mark.parametrize("what", LATE)
def test_a_student_that_cannot_be_is_refused_before_its_teacher_is_trained(what: str, tmp_path: Path) -> None:
    change, words, done = LATE[what]
    ended = run(write(tmp_path, change))
    refused(ended, *words)
    assert set(stages(ended)) == done


def test_a_job_that_takes_too_long_fails_its_cell(tmp_path: Path) -> None:
    recipe = write(tmp_path, put("profile.timeout_seconds", 0.001))
    assert cells(run(recipe, "--json", command="profile"), code=1) == {
        "onnxruntime-x86 fp32": ("failed", "launch 1 of 1: stopped after 0.001 s, the limit of this job")
    }


def test_a_starter_recipe_with_a_bad_name_or_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../mine", "a/b", "", ".hidden", "n" * 200):
        refused(kdedge("init", name), "cannot name a recipe")
    refused(kdedge("init", "mine", "--task", "image-clasification"), "did you mean `image-classification`?")
    assert kdedge("init", "mine").code == 0
    refused(kdedge("init", "mine"), "mine.yaml", "exists already")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mine.yaml"]
