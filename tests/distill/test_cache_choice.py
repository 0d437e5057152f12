"""Answers are kept where that pays, and a person is told why, or why not."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import cache_world as world
import numpy as np
import pytest
import torch
from cache_world import made
from distill_world import spec
from torch import Tensor, nn

from kdedge.artifact import ImportPath, ModelFiles, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.distill.batches import Batches, Plan
from kdedge.distill.cache import Remembered, fill
from kdedge.distill.cache_choice import choose, own_answers
from kdedge.distill.ensemble import Teacher
from kdedge.distill.lessons import lessons
from kdedge.distill.room import within_limit
from kdedge.distill.spec import Shown, TrainingSpec
from kdedge.distill.step import place
from kdedge.errors import RecipeError
from kdedge.models.catalog import resolve
from kdedge.models.load import build, to_files
from kdedge.models.spec import ModelSpec
from kdedge.recipe import CacheSection, DataSection, DistillSection, ModelSection, TokenizerSection
from kdedge.trained import CacheChoice

KD = ({"ce": 0.5}, {"kd": 2.0})


def training(
    losses: tuple[dict[str, Any], ...] = KD, model: ModelSpec | None = None, augment: tuple[str, ...] = ("crop1",), **section: Any
) -> TrainingSpec:
    how = {"epochs": 10, "views": 2, "batch_size": 16, "losses": losses, **section}
    return lessons(DistillSection.model_validate(how), model or spec(), has_teacher=True, augment=() if model else augment, seed=3)[0].training


@pytest.fixture
def slow(data: PreparedData, tmp_path: Path) -> TeacherFiles:
    return world.one(tmp_path / "slow", data, code="cache_world:slow")


def chosen(teacher: TeacherFiles, how: TrainingSpec, data: PreparedData, folder: Path) -> CacheChoice:
    found = choose(teacher, how, data, folder=made(folder))
    assert list(folder.iterdir()) == []
    return found


def test_a_slow_teacher_is_kept_and_the_figures_say_why(slow: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    found = chosen(slow, training(), data, tmp_path / "choice")
    assert found.use
    assert found.epochs == 10
    assert found.teacher_ms >= 10
    assert 0 < found.read_ms < 1
    # 50 examples of three halves, and the header of a file.
    assert 50 * 6 <= found.view_bytes <= 50 * 6 + 200
    assert found.reason.startswith("asking the teacher in 10 epochs takes about ")
    assert "about 2 views" in found.reason


def test_the_size_of_a_view_is_what_it_then_takes(slow: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    for name, cache in (("all", CacheSection()), ("one", CacheSection(top_k=1))):
        found = chosen(slow, training(cache=cache), data, tmp_path / name)
        view = fill(slow, ("logits",), data, Shown(), 0, cache.top_k, folder=made(tmp_path / f"{name} kept"))
        size = sum(path.stat().st_size for path in view.shards)
        assert size <= found.view_bytes < size + 50


def test_where_each_view_is_seen_once_nothing_is_kept(slow: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    found = chosen(slow, training(views=10), data, tmp_path / "a")
    assert not found.use
    assert "in one epoch at most" in found.reason
    # The loss that asks the teacher counts in two of ten epochs.
    found = chosen(slow, training(({"ce": 0.5}, {"kd": 2.0, "stop": 0.2})), data, tmp_path / "b")
    assert not found.use
    assert "(2 of 10 epochs ask the teacher)" in found.reason
    assert chosen(slow, training(({"ce": 0.5}, {"kd": 2.0, "stop": 0.3})), data, tmp_path / "c").use


def test_a_teacher_as_quick_as_the_reading_is_asked_anew(data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = world.one(tmp_path / "quick", data)
    monkeypatch.setattr("kdedge.distill.cache_choice._time_asking", lambda *given: (1e-7, {"logits": np.zeros((50, 3), np.float32)}))
    found = chosen(teacher, training(epochs=3), data, tmp_path / "choice")
    assert not found.use
    assert found.reason.startswith("asking the teacher in 3 epochs takes about ")


def test_always_and_never_are_obeyed(slow: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    never = chosen(slow, training(cache=CacheSection(use="never")), data, tmp_path / "never")
    assert (never.use, never.reason) == (False, "cache.use is `never`")
    always = chosen(slow, training(views=10, cache=CacheSection(use="always")), data, tmp_path / "always")
    assert always.use
    assert always.reason.startswith("cache.use is `always`; ")


def test_without_views_there_is_nothing_to_keep(slow: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    found = chosen(slow, training(views=None), data, tmp_path / "choice")
    assert not found.use
    assert "without `views: N`" in found.reason


@pytest.mark.parametrize("views", [None, 5])
def test_examples_that_nothing_changes_have_one_view_which_is_kept_where_that_pays(
    slow: TeacherFiles, data: PreparedData, tmp_path: Path, views: int | None
) -> None:
    found = chosen(slow, training(views=views, augment=()), data, tmp_path / "choice")
    assert found.use
    assert "asking it about the only view and reading" in found.reason
    assert not chosen(slow, training(views=views, augment=(), mixup=True, losses=({"kd": 1.0},)), data, tmp_path / "mixed").use or views


def test_whole_feature_maps_are_not_kept_and_always_is_an_error(slow: TeacherFiles, data: PreparedData, tmp_path: Path) -> None:
    hints = ({"ce": 0.5}, {"fitnet": 1.0, "layers": ["conv"]})
    found = chosen(slow, training(hints), data, tmp_path / "auto")
    assert (found.use, found.reason) == (False, "a loss compares whole feature maps (conv), which are too large to keep")
    with pytest.raises(RecipeError, match=r"distill\.cache\.use: `always`.*whole feature maps \(conv\)"):
        choose(slow, training(hints, cache=CacheSection(use="always")), data, folder=made(tmp_path / "always"))


def test_what_is_larger_than_the_limit_is_not_begun() -> None:
    choice = CacheChoice(True, "it pays", 1.0, 0.1, view_bytes=3_000_000_000)
    assert within_limit(choice, 4, CacheSection(limit_gb=12)) == choice
    found = within_limit(choice, 4, CacheSection(limit_gb=11.9))
    assert (found.use, found.reason) == (False, "the teacher's answers take 12 GB (4 views), and cache.limit_gb is 11.9")
    with pytest.raises(RecipeError, match=r"distill\.cache\.limit_gb: the teacher's answers take 12 GB"):
        within_limit(choice, 4, CacheSection(limit_gb=11.9, use="always"))


# ---- texts -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path: Path) -> PreparedData:
    """Sentences of one to twelve words."""
    lines = ["sentence\tlabel", *(f"{' '.join(['film'] * (number % 12))} {('awful', 'lovely')[number % 2]}\t{number % 2}" for number in range(60))]
    (tmp_path / "made.tsv").write_text("\n".join(lines) + "\n")
    source = f"tsv:{tmp_path / 'made.tsv'}"
    section = DataSection(train=source, test=source, max_length=32, tokenizer=TokenizerSection(vocabulary=64))
    data: PreparedData = ImportPath("kdedge.tasks.text_classification:TASK").load().prepare(section, 0, made(tmp_path / "data"))
    return data


class Unmasked(nn.Module):
    """A mean over all tokens, those of the padding too."""

    def __init__(self, classes: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.embedding(ids).mean(1)  # type: ignore[no-any-return]


def files(model: ModelSpec, folder: Path) -> TeacherFiles:
    torch.manual_seed(5)
    found: ModelFiles = to_files(model, build(model), made(folder))
    return TeacherFiles((found,), (1.0,))


def transformer(data: PreparedData) -> ModelSpec:
    return resolve(ModelSection(model="kdedge:transformer-text", arguments={"width": 16, "layers": 2, "heads": 2}), data)


def test_texts_padded_otherwise_are_answered_alike_by_a_teacher_that_reads_the_mask(texts: PreparedData, tmp_path: Path) -> None:
    teacher, shown = files(transformer(texts), tmp_path / "teacher"), Shown()
    assert chosen(teacher, training(model=transformer(texts)), texts, tmp_path / "choice").view_bytes > 0
    view = fill(teacher, ("logits",), texts, shown, 0, None, folder=made(tmp_path / "cache"))
    live, kept = Teacher(teacher, "logits"), Remembered((view,), teacher, ("logits",), texts, shown)
    batches = Batches(open_examples(texts.splits["train"]), texts.task.load(), live.encoders, Plan(4, 1, shown, views=1))
    lengths = set()
    for batch in batches.from_step(0, batches.steps_per_epoch):
        inputs, _ = place(batch, batches.encoders, torch.device("cpu"), channels_last=False)
        said, known = (guide.answers(inputs, batch, ("logits",))["logits"].numpy() for guide in (live, kept))
        assert np.all(np.abs(said - known) <= 2**-11 * np.abs(said) + 2**-24 + 1e-5 * np.abs(said).max())
        lengths.add(batch.inputs[0]["input_ids"].shape[1])
    assert len(lengths) > 3


def test_a_teacher_that_sees_the_padding_is_asked_anew(texts: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"classes": 2, "vocabulary": 64}
    model = dataclasses.replace(transformer(texts), name="unmasked", factory=ImportPath("text_teachers:Unmasked"), arguments=arguments)
    module = types.ModuleType("text_teachers")
    module.Unmasked = Unmasked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "text_teachers", module)
    found = chosen(files(model, tmp_path / "teacher"), training(model=model), texts, tmp_path / "choice")
    assert (found.use, found.reason) == (
        False,
        "what the teacher says about a text (`logits`) depends on how long the other texts of the batch are",
    )
    assert own_answers(files(model, tmp_path / "again"), ("logits",), texts, folder=tmp_path) == found.reason
    assert own_answers(files(transformer(texts), tmp_path / "masked"), ("logits",), texts, folder=tmp_path) == ""


def test_a_teacher_is_asked_about_no_longer_text_than_it_takes(tmp_path: Path) -> None:
    # The first sentences fill all eight places; the others leave room.
    lines = ["sentence\tlabel", *(f"{' '.join(['film'] * (20 if number < 30 else 2))}\t{number % 2}" for number in range(60))]
    (tmp_path / "made.tsv").write_text("\n".join(lines) + "\n")
    source = f"tsv:{tmp_path / 'made.tsv'}"
    section = DataSection(train=source, test=source, max_length=8, tokenizer=TokenizerSection(vocabulary=64))
    data: PreparedData = ImportPath("kdedge.tasks.text_classification:TASK").load().prepare(section, 0, made(tmp_path / "data"))
    teacher = files(transformer(data), tmp_path / "teacher")
    assert chosen(teacher, training(model=transformer(data)), data, tmp_path / "choice").view_bytes > 0


def test_layers_of_a_text_teacher_are_not_kept(texts: PreparedData, tmp_path: Path) -> None:
    teacher = files(transformer(texts), tmp_path / "teacher")
    how = training(({"ce": 0.5}, {"rkd": 1.0, "layers": ["layers.0"]}), transformer(texts))
    found = chosen(teacher, how, texts, tmp_path / "choice")
    assert not found.use
    assert found.reason == "what its layers give for a text (layers.0) depends on how long the other texts of the batch are"
