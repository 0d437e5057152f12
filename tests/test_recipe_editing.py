"""A recipe with other losses keeps its author's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdedge.recipe_file import load_recipe
from kdedge.recipe_file.editing import with_losses

ENTRIES = ["{ce: 0.1}", "{kd: 9, temperature: 2, standardize: true}"]
LOSSES = ({"ce": 0.1}, {"kd": 9, "temperature": 2, "standardize": True})
HEAD = """\
# My recipe.
name: mine  # a name
task: image-classification
data: {train: "npz:data/cifar.npz", test: 'npz:../x.npz'}  # the data
teacher: onnx:teacher.onnx
student: {model: "kdedge:cnn"}
"""
TAIL = """\
# The gate comes last.
gate: {size: "<= 1 MB"}
"""
FORMS = {
    "flow": (
        "distill:\n  epochs: 8\n  losses: [{ce: 1.0}, {kd: 1.0}]  # by hand\n",
        "losses: [{ce: 0.1}, {kd: 9, temperature: 2, standardize: true}]  # by hand",
    ),
    "block": (
        "distill:\n  losses:  # by hand\n    - {ce: 1.0}\n    - kd: 1.0\n      temperature: 3\n  # epochs\n  epochs: 8\n",
        "  losses:  # by hand\n    - {ce: 0.1}\n    - {kd: 9",
    ),
    "block at the key's own indent": ("distill:\n  losses:\n  - {ce: 1.0}\n  - {kd: 1.0}\n  epochs: 8\n", "  losses:\n  - {ce: 0.1}\n  - {kd: 9"),
    "none": ("distill:\n  # so many\n  epochs: 8\n", "  # so many\n  losses: [{ce: 0.1}, {kd"),
    "none in a flow section": ("distill: {epochs: 8}\n", "distill: {losses: [{ce: 0.1}"),
    "alias": ("distill: {epochs: 8, losses: *mine}\n", "losses: [{ce: 0.1}, {kd: 9, temperature: 2, standardize: true}]}"),
}


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_only_the_losses_change_and_comments_stay(tmp_path: Path, form: str) -> None:
    section, expected = FORMS[form]
    head = HEAD
    if form == "alias":
        head = HEAD.replace("teacher: onnx:teacher.onnx", 'teacher: {model: "kdedge:cnn", train: {losses: &mine [{ce: 1.0}]}}')
    source = written(tmp_path / "recipes", head + section + TAIL)
    recipe = load_recipe(source)
    target = tmp_path / "elsewhere" / "deep" / "tuned.yaml"
    text = with_losses(recipe, source, ENTRIES, ["found so", "and so"], target)
    assert text.startswith("# found so\n# and so\n# My recipe.\nname: mine  # a name\n")
    assert expected in text
    assert text.endswith(TAIL)
    assert "# the data\n" in text
    target.parent.mkdir(parents=True)
    target.write_text(text)
    found = load_recipe(target)
    assert found.distill is not None
    assert found.distill.losses == LOSSES
    assert recipe.distill is not None
    assert found == recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"losses": found.distill.losses})})


def test_an_anchor_that_others_use_is_written_anew_rather_than_wrong(tmp_path: Path) -> None:
    text = HEAD + "distill: {losses: &mine [{ce: 1.0}], epochs: 8, stages: [{losses: *mine}]}\n"
    source = written(tmp_path, text)
    target = tmp_path / "other" / "tuned.yaml"
    target.parent.mkdir()
    target.write_text(with_losses(load_recipe(source), source, ENTRIES, [], target))
    found = load_recipe(target)
    assert found.distill is not None
    assert found.distill.losses == LOSSES
    assert found.distill.stages[0].losses == ({"ce": 1.0},)
    assert found.data == load_recipe(source).data


def test_a_recipe_without_a_file_is_written_whole(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, HEAD + "distill: {epochs: 8}\n" + TAIL))
    target = tmp_path / "tuned.yaml"
    target.write_text(with_losses(recipe, None, ENTRIES, ["found"], target))
    found = load_recipe(target)
    assert found.distill is not None
    assert (found.distill.losses, found.gate, found.data) == (LOSSES, recipe.gate, recipe.data)
