"""`kdedge doctor` as a person starts it."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Program
from small_recipes import SMALL, write


def test_a_recipe_is_examined_and_json_holds_what_the_table_says(kdedge: Program, tmp_path: Path) -> None:
    ended = kdedge("doctor", write(tmp_path), "--json", "--taps")
    assert ended.code == 0, ended.err
    assert "layers of the student" in ended.out
    found = json.loads(ended.out.splitlines()[-1])
    assert found["counts"]["error"] == 0
    assert "trains its teacher" in next(each["message"] for each in found["findings"] if each["check"] == "teacher")
    assert found["layers"]["student"]
    assert not list((tmp_path / ".kdedge" / "stages").glob("*distill-*"))


def test_a_teacher_that_the_workspace_holds_is_examined(kdedge: Program, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    assert kdedge("distill", recipe, "--quiet").code == 0
    found = json.loads(kdedge("doctor", recipe, "--json", "--quiet").out)
    assert "teacher accuracy" in {each["check"] for each in found["findings"]}


def test_a_teacher_whose_weights_do_not_fit_is_a_finding_that_ends_with_2(kdedge: Program, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "empty.safetensors")
    teacher = {**SMALL, "weights": "empty.safetensors", "normalize": "none"}
    ended = kdedge("doctor", write(tmp_path, teacher=teacher))
    assert ended.code == 2
    assert "error" in ended.out.split()[0]
    assert "Traceback" not in ended.err


def test_a_recipe_that_is_wrong_is_a_sentence(kdedge: Program, tmp_path: Path) -> None:
    ended = kdedge("doctor", write(tmp_path, distill={"losses": [{"kf": 1.0}]}))
    assert ended.code == 2
    assert "kf" in ended.err
