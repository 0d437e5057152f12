"""References from real models: small torch networks, the same networks as ONNX files, real tokenizer and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from kdedge.artifact import Dimension, ImportPath, ModelFiles, PreparedData, TeacherFiles, TensorSpec
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.errors import ModelError
from kdedge.fidelity.divergence import kl_divergence
from kdedge.fidelity.references import reference_outputs
from kdedge.recipe import DataSection, ModelSection, TokenizerSection
from kdedge.tasks.prepare import prepare

torch = pytest.importorskip("torch")

IMAGES, CLASSES = 37, 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {f"x_{split}": generator.integers(0, 256, (IMAGES, 8, 8, 3)).astype(np.uint8) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(IMAGES) % CLASSES for split in ("train", "test")}
    np.savez(folder / "data.npz", **arrays)
    data = DataSection(train=f"npz:{folder / 'data.npz'}", test=f"npz:{folder / 'data.npz'}", calibration=4)
    return prepare(ImportPath("kdedge.tasks.image_classification:TASK"), data, 0, folder=folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("texts")
    words = ["good", "bad", "film", "plot", "very", "not", "slow", "bright"]
    generator = np.random.default_rng(0)
    lines = [f"{' '.join(generator.choice(words, size=1 + number % 20))}\t{number % 2}" for number in range(50)]
    (folder / "texts.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    source = f"tsv:{folder / 'texts.tsv'}"
    data = DataSection(train=source, test=source, calibration=4, tokenizer=TokenizerSection(vocabulary=128))
    return prepare(ImportPath("kdedge.tasks.text_classification:TASK"), data, 0, folder=folder)


def model(data: PreparedData, name: str, folder: Path, seed: int = 0, **arguments: int) -> ModelFiles:
    """A freshly initialised model, written as a stage would."""
    from kdedge.models.catalog import resolve
    from kdedge.models.load import build, to_files

    folder.mkdir()
    torch.manual_seed(seed)
    spec = resolve(ModelSection(model=f"kdedge:{name}", arguments=arguments), data)
    return to_files(spec, build(spec).eval(), folder)


def direct(files: ModelFiles, data: PreparedData) -> np.ndarray:
    """What the model gives, one example at a time and without anything of the code under test."""
    from kdedge.models.load import load

    examples = open_examples(data.splits["test"])
    net = load(files).eval()
    rows = []
    with torch.inference_mode():
        for index in range(len(examples)):
            arrays = encode(files.encoder, examples.raw(np.array([index])))
            rows.append(net(*[torch.from_numpy(arrays[spec.name]) for spec in files.inputs])["logits"][0].numpy())
    return np.stack(rows)


def test_outputs_lie_in_the_order_of_the_split_and_are_what_the_models_give(images: PreparedData, tmp_path: Path) -> None:
    student, teacher = model(images, "cnn", tmp_path / "s", 1, width=4, stages=1), model(images, "cnn", tmp_path / "t", 2, width=8, stages=1)
    (tmp_path / "out").mkdir()
    found = reference_outputs(TeacherFiles((teacher,), (1.0,)), student, images, folder=tmp_path / "out")
    assert found.teacher is not None
    ours, theirs = np.load(found.student["logits"]), np.load(found.teacher["logits"])
    assert ours.dtype == np.float32
    assert ours == pytest.approx(direct(student, images), abs=1e-5)
    assert theirs == pytest.approx(direct(teacher, images), abs=1e-5)
    labels = np.load(found.labels)
    assert labels.tolist() == (np.arange(IMAGES) % CLASSES).tolist()
    assert found.scores["student"].value == pytest.approx(np.mean(ours.argmax(1) == labels))
    assert found.scores["teacher"].value == pytest.approx(np.mean(theirs.argmax(1) == labels))
    assert found.scores["teacher"].name == "accuracy"
    assert found.scores["agreement_teacher"].value == pytest.approx(np.mean(theirs.argmax(1) == ours.argmax(1)))
    assert all(estimate.interval is not None for estimate in found.scores.values())


def test_the_worst_examples_are_those_the_student_understood_least(images: PreparedData, tmp_path: Path) -> None:
    student, teacher = model(images, "cnn", tmp_path / "s", 1, width=4, stages=1), model(images, "cnn", tmp_path / "t", 2, width=8, stages=1)
    (tmp_path / "out").mkdir()
    found = reference_outputs(TeacherFiles((teacher,), (1.0,)), student, images, folder=tmp_path / "out")
    divergence = kl_divergence(direct(teacher, images), direct(student, images))
    ids = open_examples(images.splits["test"]).ids
    assert len(found.worst) == 10
    assert found.worst[0] == ids[int(divergence.argmax())]
    assert set(found.worst) == {ids[int(place)] for place in np.argsort(-divergence)[:10]}


def test_without_a_teacher_there_are_no_teacher_figures(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", width=4, stages=1)
    (tmp_path / "out").mkdir()
    found = reference_outputs(None, student, images, folder=tmp_path / "out")
    assert found.teacher is None
    assert set(found.scores) == {"student"}
    assert found.worst == ()


def test_an_ensemble_is_the_weighted_mean_of_its_members(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", 1, width=4, stages=1)
    members = tuple(model(images, "cnn", tmp_path / f"t{seed}", seed, width=8, stages=1) for seed in (2, 3))
    (tmp_path / "out").mkdir()
    found = reference_outputs(TeacherFiles(members, (0.25, 0.75)), student, images, folder=tmp_path / "out")
    assert found.teacher is not None
    mean = 0.25 * special.softmax(direct(members[0], images), axis=1) + 0.75 * special.softmax(direct(members[1], images), axis=1)
    assert special.softmax(np.load(found.teacher["logits"]), axis=1) == pytest.approx(mean, abs=1e-5)


def test_an_ensemble_is_compared_with_the_best_of_its_members(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", 1, width=4, stages=1)
    members = tuple(model(images, "cnn", tmp_path / f"t{seed}", seed, width=8, stages=1) for seed in (2, 3, 4))
    (tmp_path / "out").mkdir()
    found = reference_outputs(TeacherFiles(members, (0.5, 0.25, 0.25)), student, images, folder=tmp_path / "out")
    assert found.teacher is not None
    assert found.ensemble is not None
    labels = np.arange(IMAGES) % CLASSES
    right = [direct(one, images).argmax(axis=1) == labels for one in members]
    assert [one.value for one in found.ensemble.members] == [pytest.approx(each.mean()) for each in right]
    assert [one.name for one in found.ensemble.members] == ["accuracy"] * 3
    best = right[found.ensemble.best]
    assert best.mean() == max(each.mean() for each in right)
    together = np.load(found.teacher["logits"]).argmax(axis=1) == labels
    assert found.ensemble.gained == int((together & ~best).sum())
    assert found.ensemble.lost == int((best & ~together).sum())
    assert found.ensemble.difference.value == pytest.approx(together.mean() - best.mean())
    assert found.ensemble.difference.interval is not None
    assert found.ensemble.p_value is not None


def test_one_teacher_is_no_ensemble_and_its_own_classes_are_read_by_name(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", 1, width=4, stages=1)
    wide = model(replace(images, classes=("2", "other", "0", "1")), "cnn", tmp_path / "t", 2, width=8, stages=1)
    (tmp_path / "out").mkdir()
    found = reference_outputs(TeacherFiles((wide,), (1.0,), (2.0,), ((2, 3, 0),)), student, images, folder=tmp_path / "out")
    assert found.ensemble is None
    assert found.teacher is not None
    assert np.load(found.teacher["logits"]) == pytest.approx(direct(wide, images)[:, [2, 3, 0]] / 2, abs=1e-5)
    (tmp_path / "again").mkdir()
    with pytest.raises(ModelError, match="gives 4 classes, and its `classes` name 3"):
        reference_outputs(
            TeacherFiles((replace(wide, classes=("a", "b", "c")),), (1.0,), maps=((2, 1, 0),)), student, images, folder=tmp_path / "again"
        )


def test_an_ensemble_says_here_what_it_says_in_training(images: PreparedData, tmp_path: Path) -> None:
    from kdedge.distill.ensemble import Teacher

    student = model(images, "cnn", tmp_path / "s", 1, width=4, stages=1)
    files = TeacherFiles(tuple(model(images, "cnn", tmp_path / f"t{seed}", seed, width=8, stages=1) for seed in (2, 3)), (0.25, 0.75))
    (tmp_path / "out").mkdir()
    found = reference_outputs(files, student, images, folder=tmp_path / "out")
    assert found.teacher is not None
    examples = open_examples(images.splits["test"])
    arrays = encode(images.encoder, examples.raw(np.arange(IMAGES)))
    given = {images.encoder: {name: torch.from_numpy(values) for name, values in arrays.items()}}
    trained_with = Teacher(files, "logits").outputs(given)["logits"].numpy()
    assert np.load(found.teacher["logits"]) == pytest.approx(trained_with, abs=1e-5)


def test_the_same_models_give_the_same_bytes(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", width=4, stages=1)
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = reference_outputs(None, student, images, folder=tmp_path / name)
        written.append((found.student["logits"].read_bytes(), found.labels.read_bytes()))
    assert written[0] == written[1]


def test_texts_of_all_lengths_come_back_in_their_order(texts: PreparedData, tmp_path: Path) -> None:
    student = model(texts, "transformer-text", tmp_path / "s", layers=1, width=16, heads=2)
    (tmp_path / "out").mkdir()
    found = reference_outputs(None, student, texts, folder=tmp_path / "out")
    assert np.load(found.student["logits"]) == pytest.approx(direct(student, texts), abs=1e-5)  # alone and padded give the same


@pytest.mark.parametrize("batch", ["dynamic", 8])
def test_an_onnx_file_is_a_model_like_any_other(images: PreparedData, tmp_path: Path, batch: int | str) -> None:
    onnx_student = as_onnx(images, model(images, "cnn", tmp_path / "s", 1, width=4, stages=1), tmp_path / "student.onnx", batch)
    teacher = model(images, "cnn", tmp_path / "s2", 1, width=4, stages=1)  # the same weights, as a torch module
    (tmp_path / "out").mkdir()
    found = reference_outputs(TeacherFiles((teacher,), (1.0,)), onnx_student, images, folder=tmp_path / "out")
    assert found.teacher is not None
    assert np.load(found.student["logits"]) == pytest.approx(np.load(found.teacher["logits"]), abs=1e-4)
    assert found.scores["agreement_teacher"].value == 1.0


def test_class_counts_that_differ_are_named(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", width=4, stages=1)
    other = model(replace(images, classes=("a", "b", "c", "d")), "cnn", tmp_path / "t", width=4, stages=1)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"the teacher has 4 classes and the student .* 3"):
        reference_outputs(TeacherFiles((other,), (1.0,)), student, images, folder=tmp_path / "out")


def test_a_student_that_overflows_is_named_with_its_first_example(images: PreparedData, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    student = model(images, "cnn", tmp_path / "s", width=4, stages=1)
    assert student.weights is not None
    weights = load_file(student.weights)
    weights["linear.weight"] = torch.full_like(weights["linear.weight"], 3e38)  # finite, but their sums are not
    save_file(weights, student.weights)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=rf"student .* of {IMAGES} examples hold NaN or infinity, the first those of example \d+"):
        reference_outputs(None, student, images, folder=tmp_path / "out")


def test_an_onnx_file_that_is_none_is_named(images: PreparedData, tmp_path: Path) -> None:
    student = model(images, "cnn", tmp_path / "s", width=4, stages=1)
    (tmp_path / "wrong.onnx").write_bytes(b"no model")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"wrong\.onnx"):
        reference_outputs(None, replace(student, factory=None, weights=None, onnx=tmp_path / "wrong.onnx"), images, folder=tmp_path / "out")


def as_onnx(data: PreparedData, files: ModelFiles, path: Path, batch: int | str) -> ModelFiles:
    """The same model as an ONNX file with a dynamic or a fixed batch."""
    from kdedge.models.load import load

    rows = batch if isinstance(batch, int) else 2
    size = (rows, 3, 8, 8)
    dynamic = None if isinstance(batch, int) else {"tensors": ({0: torch.export.Dim("batch")},)}
    program = torch.onnx.export(
        load(files).eval(), (torch.zeros(size),), dynamo=True, dynamic_shapes=dynamic, input_names=["image"], output_names=["logits"]
    )
    program.save(path)
    first = batch if isinstance(batch, int) else Dimension("batch", 1, 8, 64)
    return replace(files, factory=None, weights=None, onnx=path, inputs=(TensorSpec("image", "float32", (first, 3, 8, 8)),))
