"""A model is built from its spec, gives its logits by name, and its weights go to a file and back."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from model_world import COLOURS, Pixels, image_data, text_data
from safetensors.torch import load_file, save_file

from kdedge.artifact import ImportPath, ModelFiles, PreparedData
from kdedge.errors import ModelError, TrainingError
from kdedge.models.catalog import resolve
from kdedge.models.given import take
from kdedge.models.load import Model, build, count_parameters, load, to_files
from kdedge.models.normalize import Normalize
from kdedge.models.spec import ModelSpec
from kdedge.models.weights import read_weights, save_weights
from kdedge.recipe import ModelSection


def spec(factory: str = "pixels", data: PreparedData | None = None, **changes: Any) -> ModelSpec:
    arguments = changes.pop("arguments", {})
    found = resolve(
        ModelSection(model=f"model_world:{factory}", arguments=arguments, normalize=changes.pop("normalize", None)), data or image_data(4)
    )
    return dataclasses.replace(found, **changes)


# ---- calling -----------------------------------------------------------------------------------------------------------------


def test_normalisation_by_hand() -> None:
    image = torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1)
    assert Normalize((0.5, 0.25, 0.0), (1.0, 0.5, 0.25))(image).flatten().tolist() == [0.0, 0.5, 2.0]


def test_mean_and_std_are_part_of_the_model_and_not_of_its_weights() -> None:
    model = build(spec())
    image = torch.rand(2, 3, 4, 4)
    expected = model.inner((image - torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1))
    assert torch.allclose(model(image)["logits"], expected, atol=1e-6)
    assert list(model.state_dict()) == ["linear.weight", "linear.bias"]
    assert count_parameters(model) == 12


def test_a_model_without_normalisation_takes_images_as_they_are() -> None:
    model = build(spec(normalize="none"))
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(model(image)["logits"], model.inner(image))


@pytest.mark.parametrize("form", ["tuple", "dict", "single", "object"])
def test_logits_are_found_in_whatever_a_model_gives(form: str) -> None:
    model = build(spec("answering", arguments={"form": form}))
    outputs = model(torch.rand(2, 3, 4, 4))
    assert list(outputs) == ["logits"]
    assert outputs["logits"].shape == (2, 3)


@pytest.mark.parametrize(("form", "expected"), [("two", "gives a dict with a, b"), ("text", "gives a str")])
def test_outputs_without_logits_are_refused(form: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        build(spec("answering", arguments={"form": form}))(torch.rand(2, 3, 4, 4))


def test_a_forward_that_names_its_inputs_gets_them_by_name(tmp_path: Path) -> None:
    model = build(spec("swapped", text_data(tmp_path)))
    assert model(torch.tensor([[4, 5, 0]]), torch.tensor([[1, 1, 0]]))["logits"].tolist() == [[9, 2]]


def test_a_new_model_follows_the_global_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(spec()).state_dict()["linear.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# ---- building ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (spec("no_module"), "`model_world:no_module` made a list, not a torch.nn.Module"),
        (spec("broken"), r"`model_world:broken` failed with \{'classes': 3\}: RuntimeError: out of luck"),
        (dataclasses.replace(spec(), factory=None, onnx=Path("x.onnx")), "is an ONNX file: a runtime opens it"),
        (dataclasses.replace(spec(), weights=Path("none.safetensors")), "none.safetensors: there is no such file of weights"),
    ],
)
def test_a_model_that_cannot_be_built_is_named(changed: ModelSpec, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        build(changed)


def test_a_factory_that_is_gone_is_named() -> None:
    with pytest.raises(Exception, match="there is no module `gone`"):
        build(dataclasses.replace(spec(), factory=ImportPath("gone:net")))


# ---- weights -----------------------------------------------------------------------------------------------------------------


def test_a_model_and_its_files_are_one(tmp_path: Path) -> None:
    made = spec()
    model = build(made).eval()
    files = to_files(made, model, tmp_path)
    assert files == ModelFiles(
        name="model_world:pixels",
        factory=made.factory,
        arguments={"classes": 3},
        weights=tmp_path / "model.safetensors",
        onnx=None,
        inputs=made.inputs,
        outputs=("logits",),
        encoder=made.encoder,
        classes=COLOURS,
        normalize=made.normalize,
        parameters=12,
    )
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(load(files).eval()(image)["logits"], model(image)["logits"])


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    model = build(resolve(ModelSection(model="kdedge:resnet8-cifar", arguments={"width": 2}), image_data()))
    save_weights(model, tmp_path / "a")
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "b")  # type: ignore[call-overload]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tied_weights_are_written_each_for_itself(tmp_path: Path) -> None:
    tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    save_weights(tied, tmp_path / "tied.safetensors")
    assert set(load_file(tmp_path / "tied.safetensors")) == {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize("under", [None, "state_dict", "model", "net", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_are_read_however_they_were_wrapped(tmp_path: Path, under: str | None, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in Pixels(3).state_dict().items()}
    path = tmp_path / "checkpoint.pt"
    torch.save({under: state, "epoch": 3} if under else state, path)
    loaded = build(dataclasses.replace(spec(), weights=path)).state_dict()
    assert torch.equal(loaded["linear.weight"], state[f"{prefix}linear.weight"])


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    save_file({name: value.half() for name, value in Pixels(3).state_dict().items()}, tmp_path / "w.safetensors")
    assert build(dataclasses.replace(spec(), weights=tmp_path / "w.safetensors")).state_dict()["linear.bias"].dtype == torch.float32


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"linear.weight": torch.zeros(5, 3), "head.bias": torch.zeros(5), "head.scale": torch.zeros(1)}, path)
    with pytest.raises(ModelError) as caught:
        build(dataclasses.replace(spec(), weights=path))
    assert str(caught.value).splitlines() == [
        f"model `model_world:pixels`: the weights in {path} do not fit:",
        "  missing in the file: linear.bias",
        "  unknown to the model: head.bias, head.scale",
        "  of another shape: linear.weight: [5, 3] in the file, [3, 3] in the model",
    ]


def test_only_the_first_ten_differences_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({f"extra{index:02}": torch.zeros(1) for index in range(13)}, path)
    with pytest.raises(ModelError, match=r"unknown to the model: extra00, .*, extra09 and 3 more"):
        build(dataclasses.replace(spec(), weights=path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = Pixels(3).state_dict()
    state["linear.bias"][1] = torch.nan
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"no finite numbers, in linear.bias"):
        build(dataclasses.replace(spec(), weights=tmp_path / "w.safetensors"))


class Evil:
    """A pickle that would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Pixels(3).state_dict(), "hook": Evil(tmp_path / "ran")}, path)
    with pytest.raises(ModelError, match="no checkpoint of tensors alone, and kdedge runs no code from a file"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"evil.pt: is "):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02]q\x00.", b"PK\x03\x04 no archive"])
def test_garbage_is_no_weights(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: "):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {}}])
def test_a_checkpoint_without_weights_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"holds no weights \(looked for tensors by name, alone or under state_dict"):
        read_weights(tmp_path / "w.pt")


# ---- models that are taken as they are ---------------------------------------------------------------------------------------


def test_a_given_model_is_copied_with_its_weights(tmp_path: Path) -> None:
    made = resolve(ModelSection(model="kdedge:cnn", arguments={"width": 2}), image_data(8))
    save_weights(build(made), tmp_path / "given.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    files = take(dataclasses.replace(made, weights=tmp_path / "given.safetensors"), image_data(8), folder=out)
    assert files.weights == out / "model.safetensors"
    assert files.weights.read_bytes() == (tmp_path / "given.safetensors").read_bytes()


def test_a_named_model_without_weights_is_no_given_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no weights and nothing trains it: give `weights: FILE`"):
        take(resolve(ModelSection(model="kdedge:cnn"), image_data(8)), image_data(8), folder=tmp_path)


def test_a_class_count_that_differs_is_named(tmp_path: Path) -> None:
    data = image_data(4, classes=("a", "b", "c", "d"))
    with pytest.raises(TrainingError, match=r"`model_world:fixed` gives 3 classes, the data has 4 \(a, b, c, d\)"):
        take(spec("fixed", data), data, folder=tmp_path)


def test_a_model_that_does_not_take_the_datas_images_is_named(tmp_path: Path) -> None:
    data = image_data(4, channels=1)
    with pytest.raises(ModelError, match=r"`model_world:pixels` cannot be run on image \[2, 1, 4, 4\]: RuntimeError"):
        take(spec("pixels", data), data, folder=tmp_path)


def test_the_wrapper_is_transparent_to_wrappers_around_it() -> None:
    model = build(spec())
    outer = torch.nn.Sequential(model)
    assert list(outer.state_dict()) == ["0.linear.weight", "0.linear.bias"]
    assert isinstance(outer[0], Model)
