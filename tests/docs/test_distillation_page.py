"""`docs/distillation.md` names every loss, and what it shows can be used as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdedge.distill.lessons import check_lessons
from kdedge.distill.losses import LOSSES
from kdedge.recipe_file import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
BASE: dict[str, Any] = {
    "name": "page",
    "task": "image-classification",
    "data": {"train": "sklearn:digits", "test": "sklearn:digits"},
    "student": {"model": "kdedge:cnn"},
}
TEACHER = {"model": "kdedge:cnn", "train": {"epochs": 1}}


@pytest.fixture
def own_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_losses.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_every_loss_has_a_row_and_no_row_is_of_none() -> None:
    table = PAGE.partition("## Methods")[2].partition("## A loss")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == set(LOSSES)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_snippet_is_a_part_of_a_recipe_that_can_be_run(snippet: str, own_loss: Path) -> None:
    needs_none = any(name in snippet for name in ("mutual", "byot", "generations"))
    rest = {key: value for key, value in {**BASE, **({} if needs_none else {"teacher": TEACHER})}.items() if f"{key}:" not in snippet.split()}
    # As a file, in the page's own words: what YAML in general allows is more than a recipe may hold.
    path = own_loss / "page.yaml"
    path.write_text(yaml.safe_dump(rest) + snippet, encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.distill is not None
    check_lessons(recipe.distill, has_teacher=recipe.teacher is not None, has_unlabelled=recipe.data.unlabelled is not None)


def test_there_is_a_snippet_for_every_strategy() -> None:
    for word in ("start:", "learned:", "stages:", "generations:", "byot:", "peers:", "assistants:", "learn_from: unlabelled", "mixup: true"):
        assert any(word in snippet for snippet in SNIPPETS), word


def test_the_examples_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(examples/[\w-]+\.yaml)`", PAGE)
    assert len(named) >= 4
    for name in named:
        assert (Path(__file__).parents[2] / name).exists(), name


def test_a_loss_of_ones_own_takes_fifteen_lines_and_trains_a_student(own_loss: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import small_recipes

    from kdedge.api import run

    assert len(CODE.strip().splitlines()) <= 15
    entry = next(yaml.safe_load(snippet) for snippet in SNIPPETS if "my_losses" in snippet)["distill"]["losses"]
    recipe = small_recipes.write(tmp_path, distill={"epochs": 1, "batch_size": 16, "losses": entry})
    (lesson,) = run(recipe, workspace=tmp_path / "workspace", until="distill").training
    assert '"my_losses:cosine"' in lesson.metrics.read_text()
    made: dict[str, Any] = {}
    exec(CODE, made)
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # At a right angle and the same: the mean of 1 and 0.
    assert made["cosine"](logits, torch.tensor([[0.0, 2.0], [3.0, 0.0]])).item() == 0.5
