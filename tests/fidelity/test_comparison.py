"""A comparison's figures by hand, and that it calls nothing proven which is not."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.artifact import ImportPath, PreparedData
from kdedge.errors import KdedgeError
from kdedge.fidelity.comparison import compare, evaluate
from kdedge.recipe import DataSection, ModelSection
from kdedge.tasks.prepare import prepare
from kdedge.trained import ComparedArm, ComparedStudent, SeedScores

Curves = dict[int, tuple[float, ...]]


def scores(curves: Curves) -> tuple[SeedScores, ...]:
    return tuple(SeedScores(seed, epochs) for seed, epochs in curves.items())


def compared(taught: Curves, alone: Curves, unit: str = "fraction") -> Any:
    return compare("accuracy", unit, 100, [("distilled", scores(taught)), ("no teacher", scores(alone))])


def test_the_figures_are_those_worked_out_by_hand() -> None:
    found = compared({0: (0.7, 0.85, 0.84), 1: (0.6, 0.7, 0.86), 2: (0.5, 0.88, 0.88)}, {0: (0.5, 0.82), 1: (0.5, 0.83), 2: (0.85, 0.84)})
    taught, alone = found.arms
    # Last epochs 84, 86, 88: mean 86, sd 2, t(2) * 2 / sqrt(3) = 4.968.
    assert taught.last.value == pytest.approx(0.86)
    assert taught.last.interval == pytest.approx((0.86 - 0.049683, 0.86 + 0.049683), abs=1e-6)
    assert taught.deviation == pytest.approx(0.02)
    assert taught.range == (0.84, 0.88)
    # Best epochs 85, 86, 88; the first where several are as good.
    assert taught.best.value == pytest.approx((0.85 + 0.86 + 0.88) / 3)
    assert [seed.best_epoch for seed in taught.seeds] == [2, 3, 2]
    assert alone.best.value == pytest.approx((0.82 + 0.83 + 0.85) / 3)
    # Differences 2, 3, 4 points: mean 3, sd 1, +- 2.484.
    assert found.differences == pytest.approx((0.02, 0.03, 0.04))
    assert found.gain.value == pytest.approx(0.03)
    assert found.gain.interval == pytest.approx((0.00515862, 0.05484138), abs=1e-7)
    assert found.decided
    assert found.reason == "`distilled` over `no teacher`: 3.0 points [0.5, 5.5]: better, by Student's t interval over 3 paired seeds"


def test_a_teacher_that_harms_is_said_to() -> None:
    found = compared({0: (0.7,), 1: (0.71,), 2: (0.7,)}, {0: (0.8,), 1: (0.82,), 2: (0.81,)})
    assert found.decided
    assert ": worse, by" in found.reason


@pytest.mark.parametrize(
    ("taught", "alone", "why"),
    [
        ({0: (0.9,), 1: (0.8,), 2: (0.7,)}, {0: (0.8,), 1: (0.8,), 2: (0.8,)}, "the spread over 3 seeds is too large"),
        # Even where the interval of two seeds leaves zero out: 0.10 and 0.101.
        ({0: (0.9,), 1: (0.901,)}, {0: (0.8,), 1: (0.8,)}, "2 seeds are too few"),
        ({0: (0.9,)}, {0: (0.8,)}, "one seed says nothing"),
        ({0: (0.9,), 1: (0.8,), 2: (0.7,)}, {0: (0.8,), 1: (0.7,), 2: (0.6,)}, "all 3 seeds differ by the same"),
    ],
)
def test_what_the_seeds_do_not_prove_is_undecided_and_says_why(taught: Curves, alone: Curves, why: str) -> None:
    found = compared(taught, alone)
    assert not found.decided
    assert f"undecided, {why}" in found.reason


def test_one_arm_has_spread_and_no_gain() -> None:
    found = compare("accuracy", "fraction", 100, [("distilled", scores({3: (0.5, 0.6), 4: (0.7, 0.8)}))])
    assert (found.gain, found.differences, found.decided) == (None, (), False)
    assert found.arms[0].deviation == pytest.approx(0.2 / np.sqrt(2))
    assert "compare.baseline" in found.reason


def test_students_of_other_seeds_cannot_be_paired() -> None:
    with pytest.raises(KdedgeError, match="other seeds"):
        compared({0: (0.5,), 1: (0.6,)}, {1: (0.5,), 2: (0.6,)})


def test_no_students_are_no_comparison() -> None:
    with pytest.raises(KdedgeError, match="at least one student"):
        compare("accuracy", "", 10, [("distilled", ())])


# ---- evaluated ---------------------------------------------------------------------------------------------------------------

SIZE = 30


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {f"x_{split}": generator.integers(0, 256, (SIZE, 8, 8, 3)).astype(np.uint8) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(SIZE) % 3 for split in ("train", "test")}
    np.savez(folder / "data.npz", **arrays)
    section = DataSection(train=f"npz:{folder / 'data.npz'}", test=f"npz:{folder / 'data.npz'}", calibration=4)
    return prepare(ImportPath("kdedge.tasks.image_classification:TASK"), section, 0, folder=folder)


def always(data: PreparedData, label: int, folder: Path) -> Any:
    """A model that answers `label` whatever it sees."""
    torch = pytest.importorskip("torch")
    from kdedge.models.catalog import resolve
    from kdedge.models.load import build, to_files

    folder.mkdir()
    spec = resolve(ModelSection(model="kdedge:cnn", arguments={"width": 4, "stages": 1, "depth": 0}), data)
    model = build(spec)
    linear: Any = model.inner.linear
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.eye(3)[label])
    return to_files(spec, model, folder)


def test_every_epoch_of_every_student_is_scored_on_test_data_opened_once(
    images: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("kdedge.fidelity.comparison")
    # One label is rare in the test data: 0 is right on 10 of 30, and labels changed so that 1 is right on 15 and 2 on 5.
    opened = []
    real = module.open_examples

    def counted(source: Any) -> Any:
        opened.append(source)
        examples = real(source)
        return Relabelled(examples, np.repeat([0, 1, 2], [10, 15, 5]))

    monkeypatch.setattr(module, "open_examples", counted)
    answers = [always(images, label, tmp_path / str(label)) for label in range(3)]
    weights = [answer.weights for answer in answers]
    first = ComparedStudent(0, answers[0], (weights[1], weights[0]))
    second = ComparedStudent(0, answers[2], (weights[0], weights[2]))
    found = evaluate((ComparedArm("distilled", (first,)), ComparedArm("no teacher", (second,))), images.part("test"), folder=tmp_path)
    assert opened == [images.splits["test"]]
    assert [arm.seeds[0].epochs for arm in found.arms] == [pytest.approx((15 / 30, 10 / 30)), pytest.approx((10 / 30, 5 / 30))]
    assert found.differences == pytest.approx((5 / 30,))
    assert (found.metric, found.examples, found.arms[0].last.unit) == ("accuracy", SIZE, "fraction")


class Relabelled:
    """Examples with other labels."""

    def __init__(self, examples: Any, labels: Any) -> None:
        self._examples, self.labels = examples, labels

    def __len__(self) -> int:
        return len(self._examples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._examples, name)


def test_a_student_that_overflows_is_named_with_its_epoch(images: PreparedData, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    from kdedge.errors import ModelError

    model = always(images, 0, tmp_path / "m")
    broken = tmp_path / "broken.safetensors"
    state = load_file(model.weights)
    state["linear.weight"] = torch.full_like(state["linear.weight"], 3e38)  # finite, but their sums are not
    save_file(state, broken)
    student = ComparedStudent(7, model, (model.weights, broken))
    with pytest.raises(ModelError, match="distilled, seed 7, epoch 2/2"):
        evaluate((ComparedArm("distilled", (student,)),), images.part("test"), folder=tmp_path)
