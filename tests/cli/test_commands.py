"""What each command that runs no recipe promises."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import COMMANDS, ROOT, Program, started

from kdedge.devices import DEVICES
from kdedge.recipe_file import load_recipe
from kdedge.starter import STARTERS
from kdedge.tasks import TASKS

# ---- help and errors -------------------------------------------------------------------------------------------------------


def test_the_module_is_the_program(tmp_path: Path) -> None:
    ended = started("--help", folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for command in COMMANDS:
        assert f" {command} " in ended.out


def test_the_list_of_commands_says_what_each_does(kdedge: Program) -> None:
    listed = kdedge("--help").out.partition("Commands:")[2]
    said = dict(re.findall(r"^  (\w+) +(.*)$", listed, re.MULTILINE))
    assert len(said) > 20
    assert not {name for name, text in said.items() if len(text.strip(". ").split()) < 3}


@pytest.mark.parametrize("arguments", [("run",), ("run", "a.yaml", "--colour"), ("nonsense",), ("recipe", "nonsense"), ("inspect",)])
def test_a_wrong_command_line_is_a_usage_error(kdedge: Program, arguments: tuple[str, ...]) -> None:
    ended = kdedge(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: kdedge" in ended.err
    assert "Traceback" not in ended.err


def test_debug_may_stand_anywhere(kdedge: Program) -> None:
    with pytest.raises(BaseException, match="no such file"):
        kdedge("--debug", "recipe", "check", "missing.yaml")


# ---- init, recipe ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", STARTERS)
def test_init_writes_a_starter_that_loads(kdedge: Program, tmp_path: Path, task: str) -> None:
    ended = kdedge("init", "first-try", "--task", task)
    assert (ended.code, ended.err) == (0, "")
    assert "kdedge run first-try.yaml" in ended.out
    recipe = load_recipe(tmp_path / "first-try.yaml")
    assert (recipe.name, recipe.task) == ("first-try", task)
    assert "#" in (tmp_path / "first-try.yaml").read_text()


def test_init_never_writes_over_a_recipe(kdedge: Program, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    ended = kdedge("init", "mine")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "recipe error: mine.yaml exists already and is left as it is; choose another name\n"
    assert (tmp_path / "mine.yaml").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "said"), [(("../up",), "cannot name a recipe"), (("a", "--task", "image-clasification"), "did you mean `image-classification`?")]
)
def test_init_says_what_it_cannot_write(kdedge: Program, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = kdedge("init", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_schema_is_json_schema_that_hangs_together(kdedge: Program) -> None:
    ended = kdedge("recipe", "schema")
    assert (ended.code, ended.err) == (0, "")
    schema = json.loads(ended.out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    keywords = {
        "$schema",
        "$defs",
        "$ref",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "anyOf",
        "oneOf",
        "allOf",
    }
    keywords |= {"enum", "const", "default", "description", "title", "pattern", "discriminator", "minLength", "maxLength", "minItems", "maxItems"}
    keywords |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format", "propertyNames", "minProperties", "maxProperties"}
    assert schema["properties"]["task"]["enum"] == sorted(TASKS)
    parts = list(subschemas(schema))
    assert len(parts) > 50
    for part in parts:
        assert set(part) <= keywords, f"unknown keywords {set(part) - keywords}"
        assert part.get("type", "null") in {"null", "boolean", "object", "array", "number", "integer", "string"}
        assert set(part.get("required", ())) <= set(part.get("properties", ()))
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def subschemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and every schema in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs"):
        for inner in schema.get(key, {}).values():
            yield from subschemas(inner)
    for key in ("items", "additionalProperties", "propertyNames"):
        yield from subschemas(schema.get(key))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for inner in schema.get(key, ()):
            yield from subschemas(inner)


def test_every_key_of_an_example_is_in_the_schema(kdedge: Program) -> None:
    properties = set(json.loads(kdedge("recipe", "schema").out)["properties"])
    for example in EXAMPLES:
        assert set(yaml.safe_load(example.read_text())) <= properties


EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads(example: Path) -> None:
    assert load_recipe(example).export


def test_the_packaged_recipe_is_the_example() -> None:
    assert (ROOT / "kdedge" / "demo.yaml").read_text() == (ROOT / "examples" / "digits.yaml").read_text()


def test_a_recipe_that_can_run_is_fine(kdedge: Program) -> None:
    ended = kdedge("recipe", "check", ROOT / "examples" / "digits.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("digits.yaml: fine\n")


def test_a_check_finds_code_beside_the_recipe_as_a_run_does(kdedge: Program, tmp_path: Path) -> None:
    (tmp_path / "losses_of_mine.py").write_text("def soft(student_logits, teacher_logits, temperature=2.0):\n    return 0\n")
    (tmp_path / "mine.yaml").write_text((ROOT / "examples" / "digits.yaml").read_text())
    command = ("recipe", "check", tmp_path / "mine.yaml", "--set")
    fine = kdedge(*command, 'distill.losses=[{"losses_of_mine:soft": 1.0, temperature: 3}]')
    assert (fine.code, fine.err) == (0, "")
    wrong = kdedge(*command, 'distill.losses=[{"losses_of_mine:soft": 1.0, warmth: 3}]')
    assert wrong.code == 2
    assert "warmth" in wrong.err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.epoch=3", "did you mean `epochs`?"),
        ("task=image-clasification", "allowed: image-classification, text-classification"),
        ("data.train=npz:nowhere.npz", "nowhere.npz"),
        ("data.train=npz:nowhere.npz", "--set data.train=npz:nowhere.npz: data.train: there is no file"),
        ("data.augment=[crop]", "--set data.augment=[crop]: data.augment[0]: unknown augmentation `crop`; did you mean `crop4`?"),
        ("data.max_length=9", "--set data.max_length=9: data.max_length is for texts; remove it, image-classification does not use it"),
        ("data.test=tsv:a.tsv", "--set data.test=tsv:a.tsv: data.test: reader `tsv` does not give what image-classification takes"),
        (
            "student.model=kdedge:resnet21-cifar",
            "--set student.model=kdedge:resnet21-cifar: student.model: there is no model `kdedge:resnet21-cifar`",
        ),
        (
            "student.arguments.widht=3",
            "--set student.arguments.widht=3: student.arguments.widht: model `kdedge:cnn`: unknown argument; did you mean `width`?",
        ),
        ("student.arguments.width=0", "--set student.arguments.width=0: student.arguments.width: model `kdedge:cnn`: width is at least 1, not 0"),
        ("student.weights=none.safetensors", "--set student.weights=none.safetensors: student.weights: model `kdedge:cnn`: there is no file"),
        ("teacher=[onnx:a.onnx, python.mine:net]", "--set teacher=[onnx:a.onnx, python.mine:net]: teacher[0].model: model `onnx:"),
        ("distill.peers=[kdedge:cnm]", "distill.peers[0]: must be a section of keys, not 'kdedge:cnm'"),
        ("distill.peers=[{model: kdedge:cnm}]", "distill.peers[0].model: there is no model `kdedge:cnm`; did you mean `cnn`?"),
        ("distill.losses=[{kd: 1.0, temperatur: 4}]", "temperatur"),
        ("gate.acuracy=>= 0.9", "did you mean `accuracy`?"),
        ("gate.acuracy=>= 0.9", "--set gate.acuracy=>= 0.9: gate.acuracy: there is no such figure"),
        ("export.0.target=tensort", "did you mean `tensorrt`?"),
        ("devices=[locl]", "devices[0]: there is no device `locl`; did you mean `local`?"),
    ],
)
def test_a_check_names_what_is_wrong_before_anything_runs(kdedge: Program, override: str, said: str) -> None:
    ended = kdedge("recipe", "check", ROOT / "examples" / "digits.yaml", "--set", override)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert "defect of kdedge" not in ended.err


# ---- devices ---------------------------------------------------------------------------------------------------------------


def test_devices_are_listed_without_connecting_to_any(kdedge: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "devices.yaml").write_text("orin: {transport: 'ssh:nowhere.invalid', profile: jetson-orin-nano-8gb}\n")
    monkeypatch.setenv("KDEDGE_DEVICES", str(tmp_path / "devices.yaml"))
    found = json.loads(kdedge("devices", "list", "--json").out)
    assert found["devices"] == [{"name": "local", "transport": "local"}, {"name": "orin", "transport": "ssh:nowhere.invalid"}]
    assert list(found["schemes"]) == list(DEVICES)
    for_people = kdedge("devices", "list").out
    assert "orin: ssh:nowhere.invalid, jetson-orin-nano-8gb" in for_people
    assert all(f"{scheme}:" in for_people for scheme in DEVICES if scheme != "local")


def test_a_probe_says_what_identifies_a_device(kdedge: Program) -> None:
    (found,) = json.loads(kdedge("devices", "probe", "--json").out)
    assert found["name"] == "local"
    assert found["fingerprint"]["cores"] == str(len(os.sched_getaffinity(0)))
    said = kdedge("devices", "probe").out
    assert f"machine: {found['fingerprint']['machine']}" in said
    assert "catalog:" in said


def test_a_device_that_cannot_be_reached_does_not_hide_the_others(kdedge: Program) -> None:
    probed = kdedge("devices", "probe", "simulated:nowhere", "local", "--json")
    assert probed.code == 2
    first, second = json.loads(probed.out)
    assert "there is no simulated device `nowhere`" in first["error"]
    assert second["name"] == "local"


def test_simulated_devices_are_listed_and_shown(kdedge: Program) -> None:
    listed = json.loads(kdedge("devices", "simulate", "--json").out)
    assert listed["throttle"]["throttle_factor"] > 1
    drawn = json.loads(kdedge("devices", "simulate", "throttle", "--launches", "4", "--json").out)
    assert [launch["invalid"] == "" for launch in drawn] == [True, False, False, False]
    assert drawn == json.loads(kdedge("devices", "simulate", "throttle", "--launches", "4", "--json").out)
