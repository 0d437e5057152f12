"""A recipe file is read, or every mistake in it is named with its file, line and key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdedge.errors import DataError, KdedgeError, ModelError, RecipeError
from kdedge.recipe import Recipe, TeacherSection
from kdedge.recipe_file import load_recipe, load_rules, read_recipe, recipe_schema
from kdedge.recipe_file.yaml_tree import parse
from kdedge.starter import STARTERS, starter
from kdedge.targets import TARGETS

PLAIN = """\
name: small
task: image-classification
data: {train: npz:data/a.npz, test: folder:../photos}
teacher: {model: kdedge:resnet56-cifar, weights: w/teacher.safetensors, normalize: imagenet}
student: {model: kdedge:resnet20-cifar}
distill:
  epochs: 30
  losses: [{ce: 0.1}, {kd: 9.0, temperature: 2}]
export:
  - {target: onnxruntime-x86, precision: [fp32, int8]}
  - {target: openvino, precision: [fp16, int8]}
gate: {size: "<= 1.5 MB"}
"""


def write(folder: Path, text: str = PLAIN) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def load(folder: Path, *overrides: str, text: str = PLAIN) -> Recipe:
    return load_recipe(write(folder, text), overrides)


def refusal(folder: Path, *overrides: str, text: str = PLAIN) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(RecipeError) as caught:
        load(folder, *overrides, text=text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


# ---- what a recipe says ------------------------------------------------------------------------------------------------------


def test_a_plain_recipe_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.name == "small"
    assert recipe.distill is not None
    assert recipe.distill.epochs == 30
    assert recipe.distill.losses == ({"ce": 0.1}, {"kd": 9.0, "temperature": 2})
    assert [export.target for export in recipe.export] == ["onnxruntime-x86", "openvino"]


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path("project/r.yaml"), ["data.tokenizer.folder=tok", "student.weights=/abs/s.safetensors"])
    assert recipe.data.train == f"npz:{folder}/data/a.npz"
    assert recipe.data.test == f"folder:{tmp_path}/photos"
    assert recipe.data.tokenizer.folder == folder / "tok"
    assert isinstance(recipe.teacher, TeacherSection)
    assert recipe.teacher.weights == folder / "w/teacher.safetensors"
    assert recipe.student.weights == Path("/abs/s.safetensors")


@pytest.mark.parametrize("source", ["sklearn:digits", "python:mine.data:photos"])
def test_sources_that_are_no_files_stay_as_they_are(tmp_path: Path, source: str) -> None:
    assert load(tmp_path, f"data.train={source}").data.train == source


def test_short_forms_of_models(tmp_path: Path) -> None:
    text = PLAIN.replace("student: {model: kdedge:resnet20-cifar}", "student: kdedge:cnn")
    text = text.replace(
        "teacher: {model: kdedge:resnet56-cifar, weights: w/teacher.safetensors, normalize: imagenet}",
        "teacher: [onnx:t.onnx, {model: transformers:hf, weight: 2}]",
    )
    recipe = load(tmp_path, "student.arguments.width=8", "teacher.0.weight=3", text=text)
    assert recipe.student.model == "kdedge:cnn"
    assert recipe.student.arguments == {"width": 8}
    assert isinstance(recipe.teacher, tuple)
    assert [(member.model, member.weight) for member in recipe.teacher] == [(f"onnx:{tmp_path}/t.onnx", 3), (f"transformers:{tmp_path}/hf", 2)]
    alone = load(tmp_path, "teacher=onnx:t.onnx").teacher
    assert isinstance(alone, TeacherSection)
    assert alone.model == f"onnx:{tmp_path}/t.onnx"


def test_a_teacher_may_be_absent(tmp_path: Path) -> None:
    assert load(tmp_path, "teacher=null").teacher is None


# ---- --set -------------------------------------------------------------------------------------------------------------------


def test_overrides_replace_values_and_make_sections(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, "distill.epochs=2", "profile.launches=6", "export.0.precision=[int8]", "distill.losses.1.temperature=4", "gate={}", "devices=[a, b]"
    )
    assert recipe.distill is not None
    assert (recipe.distill.epochs, recipe.profile.launches) == (2, 6)
    assert recipe.export[0].precision == ("int8",)
    assert recipe.distill.losses[1]["temperature"] == 4
    assert recipe.gate == {}
    assert recipe.devices == ("a", "b")


def test_a_rule_needs_no_quotes_of_its_own_in_an_override(tmp_path: Path) -> None:
    recipe = load(tmp_path, "gate.agreement_student=>= 98 %", "gate.latency_median= <= 2 ms", "gate.size='<= 1 MB'", "gate.metric=> 0.5")
    assert recipe.gate == {"agreement_student": ">= 98 %", "latency_median": "<= 2 ms", "size": "<= 1 MB", "metric": "> 0.5"}


def test_an_override_takes_a_key_as_errors_write_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"export\[0\]\.precision\[0\]: must be one of") as caught:
        load(tmp_path, "export[0].precision[0]=fp33")
    key = str(caught.value).removeprefix("--set export[0].precision[0]=fp33: ").split(":")[0]
    assert load(tmp_path, f"{key}=fp16").export[0].precision[0] == "fp16"


def test_a_later_override_wins(tmp_path: Path) -> None:
    recipe = load(tmp_path, "seed=1", "seed=2", "student=kdedge:cnn", "student.arguments={width: 4}")
    assert recipe.seed == 2
    assert (recipe.student.model, recipe.student.arguments) == ("kdedge:cnn", {"width": 4})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("profil.launches=3", "--set profil.launches=3: profil: unknown key; did you mean `profile`? (allowed: compare, data, devices,"),
        ("profile.lanches=3", "--set profile.lanches=3: profile.lanches: unknown key; did you mean `launches`?"),
        ("distill.epochs=many", "--set distill.epochs=many: distill.epochs: must be a whole number, not 'many'"),
        ("distill.epochs", "--set distill.epochs: is not key=value; write it like --set distill.epochs=2 or --set export.0.batch=4"),
        ("=3", "--set =3: is not key=value"),
        ("distill..epochs=3", "--set distill..epochs=3: is not key=value"),
        ("distill.losses.2.kd=1", "--set distill.losses.2.kd=1: `distill.losses` is a list: `2` is no place in it (allowed: a place from 0 to 1)"),
        ("distill.losses[2].kd=1", "--set distill.losses[2].kd=1: `distill.losses` is a list: `2` is no place in it"),
        ("[0]=1", "--set [0]=1: is not key=value"),
        ("distill.losses.kd=1", "--set distill.losses.kd=1: `distill.losses` is a list: `kd` is no place in it"),
        ("name.first=x", "--set name.first=x: `name` is 'small', which has no `first` in it"),
        ("data.size=[1", "--set data.size=[1: not valid YAML:"),
        ("export.0.target=tensort", "--set export.0.target=tensort: export[0].target: there is no target `tensort`; did you mean `tensorrt`?"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert refusal(tmp_path, override)[0].startswith(expected)


# ---- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "distill:",
            "distil:",
            "r.yaml:6: distil: unknown key; did you mean `distill`? (allowed: compare, data, devices, distill, export, gate, name,",
        ),
        ("epochs: 30", "epoch: 30", "r.yaml:7: distill.epoch: unknown key; did you mean `epochs`?"),
        ("epochs: 30", "epochs: 30.5", "r.yaml:7: distill.epochs: must be a whole number, not 30.5"),
        ("epochs: 30", 'epochs: "30"', "r.yaml:7: distill.epochs: must be a whole number, not '30'"),
        ("epochs: 30", "epochs: true", "r.yaml:7: distill.epochs: must be a whole number, not true"),
        ("epochs: 30", "epochs:", "r.yaml:7: distill.epochs: must be a whole number, not nothing (an empty value)"),
        ("epochs: 30", "epochs: 0", "r.yaml:7: distill.epochs: must be at least 1, not 0"),
        ("epochs: 30", "epochs: 30\n  ema: 1", "r.yaml:8: distill.ema: must be less than 1, not 1"),
        ("epochs: 30", "gamma: 2", "r.yaml:7: distill.gamma: must be at most 1, not 2"),
        ("epochs: 30", "optimizer: {lr: 0}", "r.yaml:7: distill.optimizer.lr: must be greater than 0, not 0"),
        ("epochs: 30", "optimizer: {nesterov: yes}", "r.yaml:7: distill.optimizer.nesterov: must be true or false, not 'yes'"),
        (
            "epochs: 30",
            "schedule: cosin",
            "r.yaml:7: distill.schedule: must be one of cosine, multistep, constant, not 'cosin'; did you mean `cosine`?",
        ),
        ("epochs: 30", "milestones: 0.5", "r.yaml:7: distill.milestones: must be a list, such as [a, b], not 0.5"),
        ("losses: [{ce: 0.1}, {kd", "losses: [ce, {kd", "r.yaml:8: distill.losses[0]: must be a section of keys, not 'ce'"),
        (
            "gate:",
            "quantize: {observer: minmx}\ngate:",
            "r.yaml:12: quantize.observer: must be one of minmax, moving-average, percentile, entropy, mse, best, not 'minmx'; did you mean",
        ),
        ("gate:", "profile: fast\ngate:", "r.yaml:12: profile: must be a section of keys, not 'fast'"),
        ("name: small", "name: 2024", "r.yaml:1: name: must be text (in quotes, if it looks like a number), not 2024"),
        (
            "name: small",
            "name: my recipe",
            "r.yaml:1: name: must begin with a letter or digit and hold only letters, digits, `.`, `_` and `-`, not 'my recipe'",
        ),
        ("task: image-classification\n", "", "r.yaml:1: task: is missing and has no default"),
        ("train: npz:data/a.npz, ", "", "r.yaml:3: data.train: is missing and has no default"),
        ("npz:data/a.npz", "data/a.npz", "r.yaml:3: data.train: `data/a.npz` does not say how to read it: write READER:ARGUMENT,"),
        ("../photos}", "../photos, size: [32]}", "r.yaml:3: data.size: must be a list of 2 values, not of 1"),
        ("../photos}", "../photos, size: [32, 32, 3]}", "r.yaml:3: data.size: has 3 values, at most 2 are allowed"),
        ("../photos}", "../photos, size: [32, 0]}", "r.yaml:3: data.size[1]: must be at least 1, not 0"),
        ("imagenet", "imagnet", "r.yaml:4: teacher.normalize: must be one of imagenet, cifar10, data, none, not 'imagnet'; did you mean `imagenet`?"),
        (
            "imagenet",
            "{mean: [0.5], std: [0.5, 0.5]}",
            "r.yaml:4: teacher.normalize: mean has 1 numbers and std has 2: both need one number a channel",
        ),
        (
            "weights: w",
            "weihgts: w",
            "r.yaml:4: teacher.weihgts: unknown key; did you mean `weights`? (allowed: arguments, classes, model, normalize, temperature,",
        ),
        ("weights: w/teacher.safetensors, ", "", "r.yaml:4: teacher: `kdedge:resnet56-cifar` has no weights and nothing trains it"),
        ("kdedge:resnet20-cifar", "resnet20", "r.yaml:5: student.model: `resnet20` is not a model: write kdedge:NAME,"),
        ("student: {model: kdedge:resnet20-cifar}", "student: 3", "r.yaml:5: student: must be a section of keys, not 3"),
        ("student: {model: kdedge:resnet20-cifar}", "student: onnx:s.onnx", "r.yaml:5: student: an ONNX file cannot be trained"),
        (
            "fp32, int8",
            "fp32, int9",
            "r.yaml:10: export[0].precision[1]: must be one of fp32, fp16, int8, int8-dynamic, int8-weights, mixed, not 'int9'; did you mean",
        ),
        (
            "precision: [fp16",
            "batch: dyn, precision: [fp16",
            "r.yaml:11: export[1].batch: must be a whole number or `dynamic`, not 'dyn'; did you mean `dynamic`?",
        ),
        ("[fp32, int8]", "[]", "r.yaml:10: export[0].precision: is empty: it needs at least one value"),
        ("[fp32, int8]", "int8", "r.yaml:10: export[0].precision: must be a list, such as [a, b], not 'int8'"),
        (
            "openvino",
            "openvno",
            "r.yaml:11: export[1].target: there is no target `openvno`; did you mean `openvino`? (allowed: ",
        ),
        (
            "[fp16, int8]",
            "[fp16, int8-dynamic]",
            "r.yaml:11: export[1].precision[1]: `openvino` is not made in int8-dynamic (allowed: fp32, fp16, int8, int8-weights, mixed)",
        ),
        ("target: openvino", "target: onnxruntime-x86", "r.yaml:11: export[1].precision[1]: `onnxruntime-x86` in int8 is made already, by export[0]"),
        ('"<= 1.5 MB"', "1.5", "r.yaml:12: gate.size: must be text (in quotes, if it looks like a number), not 1.5"),
        ('size: "<= 1.5 MB"', "require: openvino", "r.yaml:12: gate.require: `openvino` is not a condition"),
        ('"<= 1.5 MB"', "1.5 MB", "r.yaml:12: gate.size: `1.5 MB` is not a condition"),
        ("task: image", "name: other\ntask: image", "r.yaml:2: name: the key is there already, in line 1"),
        ("epochs: 30", "epochs: 30\n  epochs: 31", "r.yaml:8: distill.epochs: the key is there already, in line 7"),
        ("task: image-classification", "task: [a", "r.yaml:3:5: not valid YAML:"),
        (
            "  epochs: 30",
            "\tepochs: 30",
            "r.yaml:7:1: not valid YAML: found character '\\t' that cannot start any token; indent with spaces, not with tabs",
        ),
        (
            'gate: {size: "<= 1.5 MB"}',
            "gate:\n  size: >= 0.9",
            "r.yaml:13:10: not valid YAML: expected chomping or indentation indicators, but found '='; a value that",
        ),
        ("name: small", 'name: "\\ud800"', "r.yaml:1: the text holds half a character"),
        ("name: small", "name: !!python/object:os.system x", "r.yaml:1: the tag tag:yaml.org,2002:python/object:os.system has no place in a recipe"),
        ("epochs: 30", "epochs: !!int many", "r.yaml:7: `many` is not what its tag !!int says"),
        ("epochs: 30", "ema: !!float 0,9", "r.yaml:7: `0,9` is not what its tag !!float says"),
        ("epochs: 30", "channels_last: !!bool yes", "r.yaml:7: `yes` is not what its tag !!bool says"),
        ("epochs: 30", '"\\ud800": 30', "r.yaml:7: the text holds half a character"),
        ("name: small", "1: small", "r.yaml:1: a key must be a text: put it in quotes"),
        ("name: small", "name: small\nseed: .inf", "r.yaml:2: `.inf` is not a finite number"),
        ("name: small", "name: small\n<<: 3", "r.yaml:2: the recipe: << takes a section or a list of sections"),
        (
            "name: small",
            "name: small\n---\nname: b",
            "r.yaml:2:1: not valid YAML: expected a single document in the stream, but found another document",
        ),
    ],
)
def test_a_mistake_is_named_with_line_key_and_what_is_allowed(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in PLAIN
    lines = refusal(tmp_path, text=PLAIN.replace(old, new, 1))
    assert any(line.startswith(expected) for line in lines), "\n".join(lines)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = PLAIN.replace("epochs: 30", "epochs: 0\n  gama: 1").replace("fp32, int8", "fp23").replace("task: ", "tsk: ")
    keys = [line.split(": ")[1] for line in refusal(tmp_path, text=text)]
    assert keys == ["task", "distill.epochs", "distill.gama", "export[0].precision[0]", "tsk"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; `kdedge init NAME` writes a recipe to start from"),
        (b"# nothing\n", "is empty"),
        (b"- a\n", "a recipe is a section of keys (name, task, data, student, ...), not a list"),
        (b"hello", "a recipe is a section of keys (name, task, data, student, ...), not 'hello'"),
        (b"name: \xff\xfe", "is not a text file in UTF-8 (byte 6)"),
        (b"a: \x00", "not valid YAML"),
        (b"a: &x [*x]", "an alias (*name) stands inside what it names"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}")
    assert expected in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file; `kdedge init NAME`"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)


def test_aliases_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "grows to more than" in refusal(tmp_path, text=bomb)[0]


def test_an_alias_repeats_a_section(tmp_path: Path) -> None:
    text = PLAIN.replace("weights: w/teacher.safetensors, normalize: imagenet}", "train: &t {epochs: 3, gamma: 0.5}}").replace(
        "distill:\n  epochs: 30", "distill:\n  <<: *t\n  epochs: 4"
    )
    recipe = load(tmp_path, text=text)
    assert recipe.distill is not None
    assert (recipe.distill.epochs, recipe.distill.gamma) == (4, 0.5)


def test_a_mistake_beside_an_alias_is_named_with_its_own_line(tmp_path: Path) -> None:
    text = PLAIN.replace("weights: w/teacher.safetensors, normalize: imagenet}", "train: &t {epochs: 3}}").replace(
        "distill:\n  epochs: 30", "distill:\n  <<: *t\n  epochs: 0"
    )
    assert refusal(tmp_path, text=text) == ["r.yaml:8: distill.epochs: must be at least 1, not 0"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("distill.losses[1].kd: a weight is a number", "r.yaml:8: distill.losses[1].kd: a weight is a number"),
        ("gate.size: `<= 1` is no rule", "r.yaml:12: gate.size: `<= 1` is no rule"),
        ("gate.sise: there is no such figure", "r.yaml:12: gate.sise: there is no such figure"),
        ("data.size is for images", "r.yaml:3: data.size is for images"),
        ("task: there is no such task", "r.yaml:2: task: there is no such task"),
        ("devices[0]: there is no device", "devices[0]: there is no device"),
        ("student and teacher differ", "student and teacher differ"),
        ("", ""),
    ],
)
def test_what_is_found_wrong_later_is_told_with_its_place(tmp_path: Path, found: str, told: str) -> None:
    tree = read_recipe(write(tmp_path))[1]
    with pytest.raises(RecipeError) as caught, tree.placing():
        raise RecipeError(found)
    assert str(caught.value).replace(f"{tmp_path}/", "") == told


@pytest.mark.parametrize("kind", [ModelError, DataError])
def test_what_models_and_data_have_against_a_recipe_keeps_its_kind_and_gets_its_place(tmp_path: Path, kind: type[KdedgeError]) -> None:
    tree = read_recipe(write(tmp_path), ["data.train=npz:other.npz"])[1]
    with pytest.raises(kind) as caught, tree.placing():
        raise kind("data.train: there is no file other.npz")
    assert str(caught.value) == "--set data.train=npz:other.npz: data.train: there is no file other.npz"


@pytest.mark.parametrize("value", ["1e400", "[1", "{a: 1, a: 2}"])
def test_a_wrong_value_of_set_is_not_said_to_stand_in_a_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path), [f"distill.epochs={value}"])
    assert str(caught.value).startswith(f"--set distill.epochs={value}: ")
    assert not re.search(r":\d+: ", str(caught.value).removeprefix(f"--set distill.epochs={value}"))


def test_an_empty_list_of_two_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path), ["data.size=[]"])
    assert str(caught.value) == "--set data.size=[]: data.size: must be a list of 2 values, not of 0"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file; a policy is a file of rules such as `agreement_student: '>= 0.98'`"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"size: \xff"), "is not a text file in UTF-8 (byte 6)"),
        (lambda path: path.symlink_to("/dev/zero"), "is larger than 1 MB"),
    ],
)
def test_a_policy_file_is_read_as_a_recipe_is(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "policy.yaml"
    make(path)
    with pytest.raises(RecipeError) as caught:
        load_rules(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


# ---- YAML as people write it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E4", 50000.0),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("1_000", "1_000"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: Any) -> None:
    found = parse(text, "x").value
    assert found == value
    assert type(found) is type(value)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aäπ語🙂 \"'\\\n:#-?{}[],&*!|>%@`~09.")
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_what_json_writes_is_read_back_the_same(tree: Any) -> None:
    assert parse(json.dumps(tree, ensure_ascii=False), "x").value == tree


@given(trees)
def test_every_value_has_a_place(tree: Any) -> None:
    parsed = parse(yaml.safe_dump({"a": tree}), "f.yaml")

    def keys(value: Any, key: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [key, *(found for name, item in inside for found in keys(item, (*key, name)))]

    for key in keys(parsed.value, ()):
        assert parsed.place(key).startswith("f.yaml:")
        assert key in parsed.places


# ---- schema and starters -----------------------------------------------------------------------------------------------------


def test_the_schema_knows_targets_and_short_forms() -> None:
    schema = recipe_schema()
    assert schema["$defs"]["ExportSection"]["properties"]["target"]["enum"] == sorted(TARGETS)
    assert schema["properties"]["student"]["anyOf"][0]["type"] == "string"
    assert schema["properties"]["teacher"]["anyOf"][0]["type"] == "string"
    assert schema["additionalProperties"] is False
    many = schema["properties"]["teacher"]["anyOf"][1]["oneOf"][1]
    assert many["items"]["anyOf"][0]["type"] == "string"
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("task", STARTERS)
def test_a_starter_is_a_recipe(tmp_path: Path, task: str) -> None:
    recipe = load(tmp_path, text=starter("first-try", task))
    assert (recipe.name, recipe.task) == ("first-try", task)
    assert recipe.export
    assert recipe.gate


@pytest.mark.parametrize("name", ["2024", "1e3", "null", "true", "r.2", "a_b-c"])
def test_a_starter_keeps_any_name(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, text=starter(name, "image-classification")).name == name


def test_a_starter_of_no_task_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"task `image-clasification`; did you mean `image-classification`\? \(allowed: image-classification, text-"
    ):
        starter("x", "image-clasification")
    with pytest.raises(RecipeError, match="`a b` cannot name a recipe"):
        starter("a b", "image-classification")


def test_reading_a_recipe_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kdedge.recipe_file import load_recipe; import kdedge.models.catalog; "
        f"load_recipe(Path({str(write(tmp_path))!r})); "
        "heavy = {'torch', 'onnx', 'onnx_ir', 'numpy', 'transformers', 'tokenizers', 'rich', 'typer'}; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
