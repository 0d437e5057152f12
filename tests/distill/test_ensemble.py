"""Teachers that differ: in kind, in size, in their classes, in how sure they are. What they say is one distribution over the data's classes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from distill_world import CLASSES, ENCODER, SIDE, made, spec, training
from onnx import TensorProto, helper, numpy_helper
from small_recipes import BASE, SMALL, Plain, kdedge, run, write
from torch import Tensor

from kdedge.artifact import Encoder, ImageEncoder, ModelFiles, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.distill.ensemble import Teacher
from kdedge.distill.fingerprint import fingerprint
from kdedge.distill.spec import Shown, TeacherSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.trainer import distill
from kdedge.errors import ModelError, TrainingError
from kdedge.examining import examine
from kdedge.fidelity.ensemble import ensemble_logits, read_logits
from kdedge.fidelity.references import reference_outputs
from kdedge.models.load import build, to_files
from kdedge.models.spec import ModelSpec, inputs_of
from kdedge.recipe_file import load_recipe
from kdedge.workspace import Workspace

WIDE = ("left", "up", "dark", "down", "right")  # holds CLASSES in another order, and two classes more
MAP = (2, 0, 4)  # dark, left and right among them
EXAMPLE = Path(__file__).parents[2] / "examples" / "digits-ensemble.yaml"
COARSE = ImageEncoder((4, 4), resize=4)
KD = ({"ce": 0.5}, {"kd": 2.0, "temperature": 2.0})


def member(folder: Path, seed: int, model: ModelSpec) -> ModelFiles:
    """A model that was not trained, with its weights in a file."""
    torch.manual_seed(seed)
    return to_files(model, build(model), made(folder))


def given(folder: Path, seed: int, model: ModelSpec) -> ModelSpec:
    """The same, as a recipe gives it."""
    return dataclasses.replace(model, weights=member(folder, seed, model).weights)


def onnx_teacher(path: Path, classes: Sequence[str], side: int, outputs: int | str | None = None) -> ModelSpec:
    """One matrix times the pixels, as an ONNX file; `outputs`: what the file says of its classes."""
    weight = np.random.default_rng(3).normal(scale=0.3, size=(3 * side * side, len(classes))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", outputs or len(classes)])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    plain = spec(classes=tuple(classes))
    return dataclasses.replace(plain, name="onnx:teacher.onnx", factory=None, arguments={}, onnx=path, normalize=None, inputs=(), outputs=())


def images(count: int = 5, encoders: Sequence[Encoder] = (ENCODER,)) -> dict[Encoder, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {one: {"image": torch.rand(count, 3, *one.size, generator=generator)} for one in encoders if isinstance(one, ImageEncoder)}


def logits(files: TeacherFiles) -> Tensor:
    return Teacher(files, "logits").outputs(images())["logits"]


# ---- temperatures and classes of one's own


def test_one_teacher_with_classes_of_its_own_gives_the_logits_of_the_datas(data: PreparedData, tmp_path: Path) -> None:
    model = given(tmp_path / "given", 1, spec(classes=WIDE, width=8))
    teacher = obtain((TeacherSpec(model),), data, 5, folder=made(tmp_path / "teacher"))
    assert teacher.maps == (MAP,)
    own = build(dataclasses.replace(model, weights=teacher.members[0].weights)).eval()
    with torch.no_grad():
        expected = own(images()[ENCODER]["image"])["logits"]
    assert expected.shape == (5, 5)
    assert torch.equal(logits(teacher), expected[:, [2, 0, 4]])
    student = distill(spec(), training(*KD, teacher=True, epochs=1), teacher, data, 5, folder=made(tmp_path / "student"))
    assert student.classes == CLASSES


def test_the_same_classes_in_another_order_are_put_in_order(data: PreparedData, tmp_path: Path) -> None:
    turned = (CLASSES[2], CLASSES[0], CLASSES[1])
    model = given(tmp_path / "given", 1, spec(classes=turned))
    teacher = obtain((TeacherSpec(model),), data, 5, folder=made(tmp_path / "teacher"))
    plain = logits(TeacherFiles(teacher.members, (1.0,)))
    assert torch.equal(logits(teacher), plain[:, [1, 2, 0]])


def test_a_temperature_divides_and_the_plain_teacher_keeps_its_bits(tmp_path: Path) -> None:
    files = member(tmp_path / "a", 1, spec(width=8))
    plain = logits(TeacherFiles((files,), (1.0,)))
    assert torch.equal(logits(TeacherFiles((files,), (1.0,), (1.0,), ((),))), plain)
    assert torch.equal(logits(TeacherFiles((files,), (1.0,), (4.0,), ((),))), plain / 4)


def test_two_members_with_temperatures_by_hand(tmp_path: Path) -> None:
    # A member whose logits are its bias: 2 log 3 at temperature 2 is log 3, so [3/4, 1/4]; log 1/3 at temperature 1 is [1/4, 3/4].
    both = []
    for name, first in (("a", 2 * math.log(3)), ("b", math.log(1 / 3))):
        torch.manual_seed(0)
        model = build(spec("flat", ("x", "y")))
        model.load_state_dict({"1.weight": torch.zeros(2, 3 * SIDE * SIDE), "1.bias": torch.tensor([first, 0.0])})
        both.append(to_files(spec("flat", ("x", "y")), model, made(tmp_path / name)))
    found = logits(TeacherFiles(tuple(both), (0.75, 0.25), (2.0, 1.0)))
    assert found[0].exp().tolist() == pytest.approx([5 / 8, 3 / 8], abs=1e-6)


def test_a_class_that_the_teacher_does_not_know_is_named_with_both_lists(data: PreparedData, tmp_path: Path) -> None:
    model = given(tmp_path / "given", 1, spec(classes=("left", "rigth", "dark", "up")))
    with pytest.raises(
        ModelError, match=r"lack `right`; did you mean `rigth`\?; its own are 4 \(left, rigth, dark, up\), the data's are 3 \(dark, left, right\)"
    ):
        obtain((TeacherSpec(model),), data, 5, folder=made(tmp_path / "teacher"))


@pytest.mark.parametrize("outputs", [5, "any"])
def test_a_teacher_that_gives_another_number_than_its_classes_is_refused(data: PreparedData, tmp_path: Path, outputs: int | str) -> None:
    # Four names for five outputs: a map made from them would read the wrong ones.
    short = dataclasses.replace(onnx_teacher(tmp_path / "teacher.onnx", WIDE, SIDE, outputs), classes=("left", "dark", "down", "right"))
    with pytest.raises((ModelError, TrainingError), match=r"5.*`classes` name 4"):
        obtain((TeacherSpec(short),), data, 5, folder=made(tmp_path / "teacher"))
    wide = dataclasses.replace(spec(classes=WIDE), arguments={"classes": 6})
    module = given(tmp_path / "given", 1, wide)
    with pytest.raises(TrainingError, match="gives 6 classes, its `classes` name 5"):
        obtain((TeacherSpec(module),), data, 5, folder=made(tmp_path / "other"))


# ---- members of different kinds


@pytest.fixture
def mixed(data: PreparedData, tmp_path: Path) -> TeacherFiles:
    """A trained module, an ONNX file with more classes, and a module that sees smaller images, each with a temperature of its own."""
    linear = onnx_teacher(tmp_path / "teacher.onnx", WIDE, SIDE)
    coarse = dataclasses.replace(spec("flat", side=4), encoder=COARSE, inputs=inputs_of(COARSE))
    members = (
        TeacherSpec(spec(width=8), training(epochs=1), weight=2.0, temperature=0.5),
        TeacherSpec(linear, weight=1.0, temperature=3.0),
        TeacherSpec(given(tmp_path / "given", 2, coarse), weight=1.0),
    )
    return obtain(members, data, 5, folder=made(tmp_path / "mixed"))


def test_members_of_all_kinds_say_in_training_what_they_say_in_the_references(mixed: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    assert (mixed.weights, mixed.temperatures, mixed.maps) == ((0.5, 0.25, 0.25), (0.5, 3.0, 1.0), ((), MAP, ()))
    assert [one.onnx is None for one in mixed.members] == [True, False, True]
    student = distill(spec(), training(*KD, teacher=True, epochs=1), mixed, data, 5, folder=made(tmp_path / "student"))
    found = reference_outputs(mixed, student, data, folder=made(tmp_path / "references"))
    raw = open_examples(data.splits["test"]).raw(np.arange(50))
    guide = Teacher(mixed, "logits")
    placed: dict[Encoder, dict[str, Tensor]] = {
        one: {name: torch.from_numpy(values) for name, values in encode(one, raw).items()} for one in (ENCODER, COARSE)
    }
    live = guide.outputs(placed)["logits"]
    assert live.exp().sum(1).tolist() == pytest.approx([1.0] * 50, abs=1e-5)
    assert found.teacher is not None
    assert np.load(found.teacher["logits"]) == pytest.approx(live.numpy(), abs=1e-5)
    # And both are the formula, from what each member says alone.
    alone = [Teacher(TeacherFiles((one,), (1.0,)), "logits").outputs(placed)["logits"].numpy() for one in mixed.members]
    read = [read_logits(each, temperature, places) for each, (temperature, places) in zip(alone, mixed.readings, strict=True)]
    assert ensemble_logits(read, mixed.weights) == pytest.approx(live.numpy(), abs=1e-5)


def test_what_was_kept_of_a_teacher_is_another_teachers_where_temperature_or_classes_differ(mixed: TeacherFiles, data: PreparedData) -> None:
    def digest(files: TeacherFiles) -> str:
        return fingerprint(files, ("logits",), data, Shown(), 0)["teacher"]

    cooler = dataclasses.replace(mixed, temperatures=(0.5, 2.0, 1.0))
    other = dataclasses.replace(mixed, maps=((), (2, 0, 3), ()))
    assert len({digest(mixed), digest(cooler), digest(other), digest(dataclasses.replace(mixed, weights=(0.25, 0.5, 0.25)))}) == 4
    assert digest(dataclasses.replace(mixed)) == digest(mixed)


# ---- a whole run


def test_a_recipe_with_an_ensemble_tells_whether_it_was_worth_it(tmp_path: Path) -> None:
    onnx_teacher(tmp_path / "teacher.onnx", ("2", "none", "0", "1"), 8)
    weak: Plain = {"model": f"onnx:{tmp_path / 'teacher.onnx'}", "classes": ["2", "none", "0", "1"], "temperature": 2}
    ensemble = [{**SMALL, "train": {"epochs": 8, "batch_size": 16}, "weight": 3}, weak]
    recipe = write(tmp_path, lambda content: content["distill"].update(epochs=2), teacher=ensemble)
    ended = run(recipe, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out.splitlines()[-1])["teacher"]
    assert [(one["name"], one["weight"], one["temperature"]) for one in found["members"]] == [
        (BASE["teacher"]["model"], 0.75, 1.0),
        ("onnx:teacher.onnx", 0.25, 2.0),
    ]
    page = (tmp_path / "workspace" / "runs" / "small" / "report.html").read_text()
    best = found["members"][found["best_member"]]["metric"]["value"]
    assert found["difference_to_best"]["value"] == pytest.approx(found["metric"]["value"] - best)
    assert found["difference_to_best"]["n"] == 24
    assert found["difference_to_best"]["better"] in (None, False)  # 24 examples prove no gain over a teacher that knows almost all
    assert "warning: " in ended.out
    assert 'id="teachers"' in page
    assert "3 of its 4 classes" in page
    assert "(weight 0.25, temperature 2, 3 of its 4 classes: " in page  # the lineage


def test_the_example_of_an_ensemble_runs(tmp_path: Path) -> None:
    changes = ["data.limit_train=128", "data.limit_test=60", "data.calibration=16", "distill.epochs=1", "export=[]", "gate={}"]
    changes += [f"teacher.{place}.train.epochs=1" for place in range(3)]
    words = [word for change in changes for word in ("--set", change)]
    ended = kdedge("distill", EXAMPLE, "--workspace", tmp_path / "workspace", "--json", *words)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out.splitlines()[-1])["teacher"]
    assert [one["name"] for one in found["members"]] == ["kdedge:cnn", "kdedge:vgg8", "kdedge:resnet8-cifar"]
    assert [one["weight"] for one in found["members"]] == [0.5, 0.25, 0.25]
    assert [one["temperature"] for one in found["members"]] == [1.0, 1.0, 1.5]


def test_the_doctor_finds_no_fault_in_classes_of_ones_own_before_the_teacher_is_trained(tmp_path: Path) -> None:
    onnx_teacher(tmp_path / "teacher.onnx", ("2", "none", "0", "1"), 8)
    named: Plain = {"model": f"onnx:{tmp_path / 'teacher.onnx'}", "classes": ["2", "none", "0", "1"]}
    recipe = load_recipe(write(tmp_path, teacher=[BASE["teacher"], named]))
    found = examine(recipe, Workspace(tmp_path / "workspace"))
    assert [each.message for each in found.findings if each.level == "error"] == []
