"""A recipe's model becomes a spec that fits the data, or the mistake is named before anything is built."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from model_world import image_data, text_data

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, PreparedData, TensorSpec
from kdedge.errors import KdedgeError, MissingExtra, ModelError
from kdedge.models import MODELS
from kdedge.models.catalog import check, resolve
from kdedge.models.signature import signature_of
from kdedge.models.spec import ModelSpec, inputs_of
from kdedge.models.tokens import vocabulary_size
from kdedge.recipe import ModelSection, NormalizeSection


def test_a_model_for_images_is_resolved() -> None:
    spec = resolve(ModelSection(model="kdedge:resnet8-cifar", arguments={"width": 4}), image_data(28))
    assert spec == ModelSpec(
        name="kdedge:resnet8-cifar",
        factory=ImportPath("kdedge.models.resnet_cifar:resnet8"),
        arguments={"classes": 3, "in_channels": 3, "width": 4},
        weights=None,
        onnx=None,
        normalize=((0.5, 0.25, 0.125), (0.25, 0.5, 1.0)),
        encoder=ImageEncoder((28, 28)),
        inputs=(TensorSpec("image", "float32", (Dimension("batch", 1, 8, 64), 3, 28, 28)),),
        outputs=("logits",),
        classes=("red", "green", "blue"),
    )


def test_a_model_for_texts_is_resolved(tmp_path: Path) -> None:
    data = text_data(tmp_path, max_length=40)
    spec = resolve(ModelSection(model="kdedge:transformer-text"), data)
    batch, length = Dimension("batch", 1, 8, 64), Dimension("length", 1, 32, 40)
    assert spec.inputs == (TensorSpec("input_ids", "int64", (batch, length)), TensorSpec("attention_mask", "int64", (batch, length)))
    assert spec.normalize is None
    assert spec.encoder == data.encoder
    assert inputs_of(text_data(tmp_path, max_length=8).encoder)[0].shape[1] == Dimension("length", 1, 8, 8)


def test_the_size_of_images_reaches_those_who_ask() -> None:
    assert resolve(ModelSection(model="kdedge:mobilenetv2"), image_data(48)).arguments["image_size"] == 48


def test_a_factory_of_the_users_gets_what_its_signature_names() -> None:
    assert resolve(ModelSection(model="model_world:pixels"), image_data()).arguments == {"classes": 3}
    assert resolve(ModelSection(model="model_world:greedy", arguments={"channels": 3}), image_data()).arguments == {"classes": 3, "channels": 3}
    assert resolve(ModelSection(model="model_world:fixed"), image_data()).arguments == {}
    assert resolve(ModelSection(model="model_world:Pixels"), image_data()).arguments == {"classes": 3}


# ---- normalisation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("imagenet", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("data", ((0.5, 0.25, 0.125), (0.25, 0.5, 1.0))),
        ("none", None),
        (NormalizeSection(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)), ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))),
        (None, ((0.5, 0.25, 0.125), (0.25, 0.5, 1.0))),
    ],
)
def test_normalisation_is_what_the_recipe_says_or_the_datas(normalize: Any, expected: Any) -> None:
    assert resolve(ModelSection(model="kdedge:cnn", normalize=normalize), image_data()).normalize == expected


def test_weights_without_their_normalisation_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    with pytest.raises(ModelError, match=r"say with which mean and std the weights were trained: imagenet, cifar10, data, none or \{mean"):
        resolve(ModelSection(model="kdedge:cnn", weights=weights), image_data())
    assert resolve(ModelSection(model="kdedge:cnn", weights=weights, normalize="none"), image_data()).normalize is None


def test_a_model_whose_factory_brings_its_weights_must_say_their_normalisation() -> None:
    section = ModelSection(model="model_world:pixels")
    with pytest.raises(ModelError, match="say with which mean and std"):
        resolve(section, image_data(), as_is=True)
    assert resolve(section, image_data()).normalize is not None


@pytest.mark.parametrize(
    ("data", "normalize", "expected"),
    [
        (image_data(channels=1), "imagenet", "normalize: mean has 3 numbers, the images have 1 channels"),
        (dataclasses.replace(image_data(), statistics={}), "data", "the task does not measure mean and std"),
        (dataclasses.replace(image_data(), statistics={"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.0, 0.2)}), "data", "std is 0 in channel 1"),
    ],
)
def test_normalisation_that_does_not_fit_is_refused(data: PreparedData, normalize: Any, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        resolve(ModelSection(model="kdedge:cnn", normalize=normalize), data)


def test_texts_have_no_normalisation(texts: PreparedData) -> None:
    with pytest.raises(ModelError, match="normalize is for images, the data holds texts: remove it"):
        resolve(ModelSection(model="kdedge:transformer-text", normalize="imagenet"), texts)


# ---- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "arguments", "expected"),
    [
        ("kdedge:resnet20cifar", {}, "there is no model `kdedge:resnet20cifar`; did you mean `resnet20-cifar`? (allowed: resnet8-cifar,"),
        ("kdegde:cnn", {}, "there is no module `kdegde`; did you mean `kdedge`?"),
        (
            "kdedge:cnn",
            {"widht": 8},
            "model `kdedge:cnn`: arguments.widht: unknown argument; did you mean `width`? (allowed: classes, width, depth, stages,",
        ),
        ("kdedge:cnn", {"width": "8"}, "arguments.width: must be a whole number, not '8'"),
        ("kdedge:cnn", {"width": True}, "arguments.width: must be a whole number, not True"),
        ("kdedge:cnn", {"width": 1.5}, "arguments.width: must be a whole number, not 1.5"),
        ("kdedge:mobilenetv2", {"width": "wide"}, "arguments.width: must be a number, not 'wide'"),
        ("kdedge:cnn", {"classes": 4}, "arguments.classes is 4, the data has 3 classes; remove it, the data says it"),
        ("kdedge:transformer-text", {}, "does not take what the data holds, images (allowed for these: kdedge:resnet8-cifar,"),
        ("model_world:pixel", {}, "`model_world:pixel`: model_world.py defines no `pixel`; did you mean `pixels`?"),
        ("no_such_package.models:net", {}, "there is no module `no_such_package`"),
        ("model_world:needy", {}, "model `model_world:needy`: `model_world:needy` needs secret, which nothing gives: add it to `arguments`"),
        ("model_world:needy", {"secret": 3}, "arguments.secret: must be text, not 3"),
        ("model_world:pixels", {"depth": 3}, "arguments.depth: unknown argument (allowed: classes)"),
        ("model_world:COLOURS", {}, "`model_world:COLOURS` is a tuple, not a function or class that makes a model"),
        ("onnx:none.onnx", {}, "there is no file none.onnx"),
        ("transformers:none", {}, "transformers:none: there is no such folder"),
    ],
)
def test_a_mistake_is_named(model: str, arguments: dict[str, Any], expected: str, images: PreparedData) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(ModelSection.model_construct(model=model, arguments=arguments), images)
    assert expected in str(caught.value)


def test_an_image_model_is_refused_for_texts(texts: PreparedData) -> None:
    with pytest.raises(ModelError, match=r"does not take what the data holds, texts \(allowed for these: kdedge:transformer-text\)"):
        resolve(ModelSection(model="kdedge:cnn"), texts)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "none.safetensors"
    with pytest.raises(ModelError, match=f"model `kdedge:cnn`: weights: there is no file {weights}"):
        resolve(ModelSection(model="kdedge:cnn", weights=weights, normalize="none"), image_data())


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(library: str, images: PreparedData) -> None:
    section = ModelSection(model=f"{library}:resnet18")
    if importlib.util.find_spec(library) is None:
        with pytest.raises(MissingExtra, match=rf"`{library}:resnet18` needs `{library}`, .* pip install 'kdedge\[vision\]'"):
            resolve(section, images)
    else:
        assert resolve(section, images).arguments["name"] == "resnet18"


@pytest.mark.parametrize("model", [*(f"kdedge:{name}" for name in MODELS), "model_world:pixels"])
def test_a_good_model_is_checked_without_data(model: str) -> None:
    check(ModelSection(model=model))


def test_a_bad_model_is_found_without_data() -> None:
    with pytest.raises(ModelError, match="unknown argument"):
        check(ModelSection(model="kdedge:cnn", arguments={"height": 3}))


# ---- signatures --------------------------------------------------------------------------------------------------------------


def test_a_signature_follows_imports_without_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "followed.py").write_text("import no_such_module\nfrom followed_nets import Net as Renamed, make\n")
    nets = """
        import no_such_module
        class Net:
            def __init__(self, classes, *, depth: int = 3): ...
        def make(classes, /, width: int, **more): ...
    """
    (tmp_path / "followed_nets.py").write_text(textwrap.dedent(nets))
    monkeypatch.syspath_prepend(tmp_path)
    net = signature_of(ImportPath("followed_nets:Net"))
    assert list(net.parameters) == ["classes", "depth"]
    assert (net.parameters["classes"].required, net.parameters["depth"].required, net.parameters["depth"].annotation) == (True, False, "int")
    assert not net.open
    make = signature_of(ImportPath("followed:make"))
    assert list(make.parameters) == ["width"]
    assert make.open
    assert signature_of(ImportPath("followed:Renamed")) == net


def test_a_name_that_is_assigned_is_asked_by_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assigned.py").write_text("from functools import partial\ndef _net(classes, depth): ...\nnet = partial(_net, depth=3)\n")
    (tmp_path / "exploding.py").write_text("net = 1 / 0\n")
    (tmp_path / "unparsed.py").write_text("def net(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert signature_of(ImportPath("assigned:net")).parameters["classes"].required
    with pytest.raises(ModelError, match="`exploding:net` cannot be imported: ZeroDivisionError"):
        signature_of(ImportPath("exploding:net"))
    with pytest.raises(ModelError, match=r"unparsed.py cannot be read as Python"):
        signature_of(ImportPath("unparsed:net"))


# ---- tokenizers --------------------------------------------------------------------------------------------------------------


def test_the_vocabulary_reaches_to_the_largest_id(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 9}}, "added_tokens": [{"id": 4}]}))
    assert vocabulary_size(path) == 10
    path.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": []}))
    assert vocabulary_size(path) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": "b"}}}'])
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(KdedgeError, match=r"tokenizer.json: is no tokenizer.json that can be read"):
        vocabulary_size(path)
