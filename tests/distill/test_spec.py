from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdedge.artifact import ImportPath
from kdedge.distill.losses import LEARNED, LOSSES
from kdedge.distill.ranges import RANGES, range_of
from kdedge.distill.signature import signature_of, signature_of_class
from kdedge.distill.spec import TermSpec
from kdedge.distill.terms import terms_of, training_spec
from kdedge.errors import RecipeError
from kdedge.recipe import DistillSection, TrainSection


def _terms(*losses: dict[str, Any], teacher: bool = True) -> tuple[TermSpec, ...]:
    return terms_of(DistillSection(losses=losses), teacher)


def test_the_default_losses_of_distill_are_labels_and_standardized_kd() -> None:
    ce, kd = terms_of(DistillSection(), True)
    assert (ce.name, ce.weight.points, ce.parameters, ce.tensors) == ("ce", ((0.0, 0.1),), {}, ("label_losses",))
    assert (kd.name, kd.weight.points, kd.parameters) == ("kd", ((0.0, 9.0),), {"temperature": 2.0, "standardize": True})
    assert kd.function == ImportPath("kdedge.distill.losses.kd:kd_loss")
    assert kd.tensors == ("student_logits", "teacher_logits")
    assert kd.needs_teacher
    assert not ce.needs_teacher


def test_a_training_spec_keeps_section_terms_and_augmentation() -> None:
    section = TrainSection(epochs=3)
    spec = training_spec(section, augment=("crop4",))
    assert (spec.section, spec.augment, [term.name for term in spec.terms]) == (section, ("crop4",), ["ce"])


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"kdd": 1.0}], f"distill.losses[0].kdd: unknown loss; did you mean `kd`? (allowed: {', '.join(LOSSES)}, or your own as module:function)"),
        (
            [{"ce": 0.1}, {"kd": 9.0, "temperatur": 2}],
            "distill.losses[1].temperatur: unknown key; did you mean `temperature`? (allowed: kd, temperature, standardize, start, stop)",
        ),
        ([{"kd": 1.0, "temperature": "hot"}], "distill.losses[0].temperature: must be a number (as the default, 4.0), not 'hot'"),
        ([{"kd": 1.0, "temperature": True}], "distill.losses[0].temperature: must be a number"),
        ([{"kd": 1.0, "temperature": 0}], "distill.losses[0].temperature: must be greater than 0, not 0"),
        ([{"kd": 1.0, "standardize": 1}], "distill.losses[0].standardize: must be true or false"),
        ([{"kd": "much"}], "distill.losses[0].kd: a weight is a number of at least 0, not 'much'"),
        ([{"kd": -1.0}], "distill.losses[0].kd: a weight is a number of at least 0, not -1.0"),
        ([{"kd": float("nan")}], "distill.losses[0].kd: a weight is a number of at least 0, not nan"),
        ([{"kd": 1.0, "ce": 1.0}], "distill.losses[0]: names 2 losses (kd, ce)"),
        ([{"kd": 1.0}, {"kd": 2.0}], "distill.losses[1]: `kd` is there already"),
        ([{}], "distill.losses[0]: is empty"),
        ([], "distill.losses: is empty"),
        ([{"ce": 0.0}], "distill.losses: every weight is 0"),
        ([{"dkd": 1.0, "beta": -1}], "distill.losses[0].beta: must be at least 0, not -1"),
        ([{"dkd": 1.0, "beta": {"0": 1.0, "1": -1.0}}], "distill.losses[0].beta.1: must be at least 0, not -1.0"),
        ([{"dist": 1.0, "gamma": -1}], "distill.losses[0].gamma: must be at least 0, not -1"),
        ([{"ttm": 1.0, "gamma": 0}], "distill.losses[0].gamma: must be greater than 0, not 0"),
        ([{"rkd": 1.0, "layers": ["a"], "angle": -1}], "distill.losses[0].angle: must be at least 0, not -1"),
        ([{"byot": 1.0, "layers": ["a", "b"], "alpha": 1.5}], "distill.losses[0].alpha: must be at least 0 and at most 1, not 1.5"),
        ([{"crd": 1.0, "layers": ["a"], "negatives": 0}], "distill.losses[0].negatives: must be at least 1, not 0"),
        ([{"crd": 1.0, "layers": ["a"], "momentum": 1.0}], "distill.losses[0].momentum: must be at least 0 and less than 1, not 1.0"),
        ([{"vid": 1.0, "layers": ["a"], "initial_variance": 0}], "distill.losses[0].initial_variance: must be greater than 0, not 0"),
        ([{"reviewkd": 1.0, "layers": ["a"], "middle": 0}], "distill.losses[0].middle: must be at least 1, not 0"),
        ([{"kd": 1.0, "stop": 0.9}], "distill.losses: at 0.9 of the run no loss counts (`kd`), so that nothing is learned there"),
        ([{"kd": 1.0, "start": 0.5}], "distill.losses: at 0 of the run no loss counts"),
        ([{"kd": {"0": 0.0, "0.2": 1.0}}], "distill.losses: at 0 of the run no loss counts"),
        ([{"ce": {"0": 1.0, "0.4": 0.0}}, {"kd": 1.0, "start": 0.6}], "distill.losses: at 0.4 of the run no loss counts (`ce`, `kd`)"),
        ([{"nowhere.at_all:loss": 1.0}], "distill.losses[0]: `nowhere.at_all:loss`: there is no module `nowhere.at_all`"),
    ],
)
def test_a_wrong_loss_is_refused_with_its_key_and_what_is_allowed(losses: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _terms(*losses)
    assert message in str(caught.value)


def test_a_term_that_compares_with_a_teacher_is_refused_where_there_is_none() -> None:
    with pytest.raises(
        RecipeError, match=r"distill\.losses\[1\]: `kd` compares with a teacher, and there is none here \(without one: ce, mutual, byot\)"
    ):
        _terms({"ce": 1.0}, {"kd": 1.0}, teacher=False)


def test_an_error_in_a_teachers_training_names_the_teachers_key() -> None:
    with pytest.raises(RecipeError, match=r"^teacher\.train\.losses\[0\]: `kd` compares with a teacher"):
        terms_of(TrainSection(losses=({"kd": 1.0},)), False)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "losses_of_a_user.py").write_text(
        "import module_that_does_not_exist\n"
        "LIMIT = 3\n"
        "def margin(student_logits, labels, *, size=0.5, limit=LIMIT): ...\n"
        "def odd(student_logits, pixels): ...\n"
        "def loose(student_logits, **more): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "losses_of_a_user"


def test_a_users_loss_is_checked_without_importing_it(module: str) -> None:
    (term,) = _terms({f"{module}:margin": 2, "size": 1}, teacher=False)
    assert (term.name, term.weight.points, term.tensors, term.parameters) == (
        f"{module}:margin",
        ((0.0, 2.0),),
        ("student_logits", "labels"),
        {"size": 1},
    )
    with pytest.raises(RecipeError, match=rf"\.sise: unknown key; did you mean `size`\? \(allowed: {module}:margin, size, limit, start, stop\)"):
        _terms({f"{module}:margin": 2, "sise": 1})


def test_a_users_loss_that_no_step_can_feed_is_refused(module: str) -> None:
    with pytest.raises(RecipeError, match="asks for `pixels`, which no training step has"):
        _terms({f"{module}:odd": 1.0})
    with pytest.raises(RecipeError, match="a loss takes named arguments only"):
        _terms({f"{module}:loose": 1.0})
    with pytest.raises(RecipeError, match=r"defines no function `margins` \(it defines: loose, margin, odd\)"):
        _terms({f"{module}:margins": 1.0})


def test_reading_a_recipes_losses_imports_no_torch() -> None:
    code = (
        "import sys; from kdedge.distill.terms import training_spec; from kdedge.recipe import DistillSection;"
        "training_spec(DistillSection(), has_teacher=True, augment=()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("missing", ["torch", "accelerate"])
@pytest.mark.parametrize("stage", ["trainer", "teacher"])
def test_a_stage_without_its_libraries_names_the_extra_that_brings_them(missing: str, stage: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; import kdedge.distill.{stage}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert f"training needs `{missing}`, which is not installed; it comes with: pip install 'kdedge[train]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_number_that_a_loss_takes_has_a_range_that_holds_its_default(loss: str) -> None:
    own = signature_of_class(ImportPath(LEARNED[loss])).parameters if loss in LEARNED else {}
    numbers = {name: value for name, value in {**own, **signature_of(ImportPath(LOSSES[loss])).parameters}.items() if not isinstance(value, bool)}
    for name, value in numbers.items():
        allowed = range_of(loss, name)
        assert allowed is not None, name
        assert allowed.holds(value), name
    assert set(RANGES.get(loss, {})) <= set(numbers)


def test_some_loss_counts_at_every_moment_of_a_run() -> None:
    assert len(_terms({"kd": 1.0, "stop": 0.5}, {"ce": 1.0, "start": 0.5})) == 2
    assert len(_terms({"kd": {"0": 0.0, "0.2": 1.0}}, {"ce": {"0": 1.0, "0.5": 0.0, "1": 0.0}})) == 2
