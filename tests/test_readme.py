"""README promises commands; each must be one that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdedge.checks import check_recipe, teachers_of
from kdedge.recipe import Recipe
from kdedge.recipe_file import load_recipe
from kdedge.recipe_values import PATH_MODELS, PATH_READERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_make_command_in_the_readme_is_a_target_of_the_makefile() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", README, flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets, f"README names {named - targets}, which the Makefile does not have"


def test_every_kdedge_command_in_the_readme_is_one() -> None:
    from typer.main import get_command

    from kdedge.cli import app

    named = set(re.findall(r"^\s*(?:\.venv/bin/)?kdedge ([a-z]+)", README, flags=re.MULTILINE))
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert "run" in named
    assert named <= commands


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), f"README links to {target}, which is not there"


def test_the_first_screen_is_short() -> None:
    first = README.split("\n## ", 1)[0]
    assert len(first.splitlines()) < 40
    assert "](docs/" in first, "the first screen shows no picture of the report"


def test_the_recipe_in_the_readme_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(block)
    assert load_recipe(recipe).name == "cifar10-r56-r20"
    assert len(block.splitlines()) <= 25


# The teacher of this one is made by hand, as its first lines say; tests/e2e/test_strategies.py makes it and runs the recipe whole.
MADE_BY_HAND = "digits-onnx-teacher.yaml"


@pytest.mark.parametrize("path", sorted(path for path in (ROOT / "examples").glob("*.yaml") if path.name != MADE_BY_HAND), ids=lambda path: path.name)
def test_every_example_is_a_recipe_that_can_be_run_where_its_data_is(path: Path) -> None:
    recipe = load_recipe(path)
    missing = [str(file) for file in files_of(recipe) if not file.exists()]
    if missing:
        pytest.skip(f"`make data` has not been run: there is no {missing[0]}")
    check_recipe(recipe)


def files_of(recipe: Recipe) -> list[Path]:
    sources = [text for text in (recipe.data.train, recipe.data.test, recipe.data.unlabelled) if text and text.partition(":")[0] in PATH_READERS]
    models = (*teachers_of(recipe), recipe.student)
    weights = [section.weights for section in models if section.weights]
    named = [section.model for section in models if section.kind in PATH_MODELS]
    return [*(Path(text.partition(":")[2]) for text in (*sources, *named)), *weights]
