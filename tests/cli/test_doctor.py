"""`kdedge doctor` as a person starts it."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Program
from small_recipes import SMALL, module, write, write_texts


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


def test_answers_that_the_recipe_says_to_keep_and_that_cannot_be_kept_end_with_2_as_the_run_would(kdedge: Program, tmp_path: Path) -> None:
    recipe = write(tmp_path)
    assert kdedge("distill", recipe, "--quiet").code == 0
    maps = ("--set", "distill.losses=[{ce: 1.0}, {fitnet: 1.0, layers: [stages.0]}]", "--set", "distill.views=2", "--set", "distill.epochs=4")
    said = "the teacher's answers cannot be kept: a loss compares whole feature maps (stages.0)"
    for use, code in (("auto", 0), ("always", 2)):
        examined = kdedge("doctor", recipe, *maps, "--set", f"distill.cache.use={use}", "--json", "--quiet")
        assert (examined.code, said in examined.out) == (code, bool(code)), examined.out
        ran = kdedge("distill", recipe, *maps, "--set", f"distill.cache.use={use}", "--quiet")
        assert (ran.code, said in " ".join(ran.err.split())) == (code, bool(code)), ran.err


UNMASKED = """
    from torch import nn

    class Unmasked(nn.Module):
        '''A mean over all tokens, those of the padding too.'''

        def __init__(self, classes: int, vocabulary: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, classes)

        def forward(self, ids, mask):
            return self.embedding(ids).mean(1)
"""


def test_no_views_are_advised_for_a_teacher_of_texts_that_sees_the_padding(kdedge: Program, tmp_path: Path) -> None:
    short = "sentence\tlabel\n" + "".join(f"{'film ' * (1 + year % 5)}{('bad', 'fine')[year % 2]}\t{year % 2}\n" for year in range(40))
    teacher = f"{module(tmp_path, UNMASKED)}:Unmasked"
    recipe = write_texts(tmp_path, lambda content: content["teacher"].update(model=teacher, arguments={}), short, short)
    assert kdedge("distill", recipe, "--quiet").code == 0
    ended = kdedge("doctor", recipe, "--set", "distill.epochs=9", "--json", "--quiet")
    (cache,) = [each for each in json.loads(ended.out)["findings"] if each["check"] == "cache"]
    assert cache["message"].startswith("the teacher is asked in every step: what the teacher says about a text (`logits`) depends on how long"), cache
    assert cache["advice"] == ""
