from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, TensorSpec
from kdedge.errors import WorkspaceError
from kdedge.estimate import Estimate
from kdedge.record import digest_of, from_plain, to_plain

ROOT = Path("/somewhere/workspace")
FOLDER = ROOT / "stages" / "a"


def key_of(value: Any) -> str:
    """The key, where a file's content is its path in capitals and a module's source its name backwards."""
    return digest_of(value, lambda path: str(path).upper(), lambda module: module[::-1])


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Couple:
    left: Any
    right: Any


class Section(BaseModel):
    model_config = ConfigDict(frozen=True)
    epochs: int = 1
    extra: dict[str, Any] = Field(default_factory=dict)
    every_seconds: float = Field(default=60.0, exclude=True)


class OtherSection(Section):
    pass


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
names = st.text("abc./-", min_size=1).filter(lambda name: Path(name).parts and ".." not in Path(name).parts and not name.startswith("/"))
paths = st.builds(lambda base, name: base / name, st.sampled_from([FOLDER, ROOT, Path("/elsewhere")]), names)
nouns = st.one_of(
    st.builds(ImageEncoder, st.tuples(st.integers(1, 64), st.integers(1, 64))),
    st.builds(Estimate, st.text(), st.floats(), st.none() | st.floats(), st.none() | st.floats(), st.integers(), st.text()),
    st.builds(TensorSpec, st.text(), st.just("float32"), st.tuples(st.integers(1, 9) | st.builds(Dimension, st.text(), st.just(1), st.just(8)))),
    st.builds(ImportPath, st.just("package.module:name")),
)
keys = st.text() | st.integers() | st.none() | st.floats(allow_nan=False) | st.tuples(st.text(), st.integers())
values = st.recursive(
    plain | paths | nouns,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


# ---- results, written and read back ----------------------------------------------------------------------------------------


def written_and_read(value: Any, folder: Path = FOLDER, root: Path = ROOT) -> Any:
    text = json.dumps(to_plain(value, FOLDER, ROOT), sort_keys=True, allow_nan=False)
    return from_plain(json.loads(text), folder, root)


@given(values)
def test_a_result_that_is_written_and_read_is_the_same(value: Any) -> None:
    assert shape(written_and_read(value)) == shape(value)


@given(values)
def test_a_result_is_written_as_the_same_text_again(value: Any) -> None:
    again = written_and_read(value)
    assert json.dumps(to_plain(again, FOLDER, ROOT), sort_keys=True) == json.dumps(to_plain(value, FOLDER, ROOT), sort_keys=True)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2])
def test_every_float_survives(value: float) -> None:
    found = written_and_read(value)
    assert type(found) is float
    assert repr(found) == repr(value)


def test_paths_move_with_the_folder_that_they_lie_in() -> None:
    value = (FOLDER / "model.onnx", ROOT / "stages" / "b" / "x.npy", Path("/elsewhere/data.npz"), FOLDER)
    moved = Path("/moved")
    assert written_and_read(value, moved / "stages" / "a", moved) == (
        moved / "stages" / "a" / "model.onnx",
        moved / "stages" / "b" / "x.npy",
        Path("/elsewhere/data.npz"),
        moved / "stages" / "a",
    )


def test_the_text_names_no_place_of_the_workspace() -> None:
    assert "somewhere" not in json.dumps(to_plain({"a": FOLDER / "x", "b": [ROOT / "y"]}, FOLDER, ROOT))


def test_a_value_that_looks_like_a_record_is_only_a_value() -> None:
    value = {"$": "dataclass", "type": "os:system", "fields": {"$": "path"}}
    assert written_and_read(value) == value


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", 1j, [{"deep": ({3},)}], Section(), ImageEncoder, len], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    with pytest.raises(WorkspaceError, match="cannot be kept"):
        to_plain(value, FOLDER, ROOT)


def test_a_type_outside_of_kdedge_can_be_written_but_not_read() -> None:
    record = to_plain(Pair(1, 2), FOLDER, ROOT)
    with pytest.raises(WorkspaceError, match="not one of kdedge's"):
        from_plain(record, FOLDER, ROOT)


@pytest.mark.parametrize("named", ["kdedge.record:to_plain", "kdedge.artifact:Path"])
def test_a_record_can_name_dataclasses_only(named: str) -> None:
    with pytest.raises(WorkspaceError, match="no dataclass"):
        from_plain({"$": "dataclass", "type": named, "fields": {}}, FOLDER, ROOT)


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(WorkspaceError, match="unknown tag 'set'"):
        from_plain({"$": "set", "items": []}, FOLDER, ROOT)


# ---- keys ------------------------------------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """What a value is, types and all, so that 1, 1.0 and True differ and one nan is like another."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (type(value).__qualname__, [(field.name, shape(getattr(value, field.name))) for field in dataclasses.fields(value)])
    if isinstance(value, dict):
        return ("dict", sorted(((repr(shape(key)), shape(item)) for key, item in value.items()), key=lambda pair: pair[0]))
    if isinstance(value, tuple | list):
        return (type(value).__name__, [shape(item) for item in value])
    return (type(value).__name__, repr(value))


def shape_for_keys(value: Any) -> str:
    """The same with lists as tuples: they mean the same to a stage, and YAML knows lists only."""
    return repr(shape(value)).replace("('list', ", "('tuple', ")


@given(values, values)
def test_two_values_have_one_key_if_and_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (key_of(one) == key_of(other)) == (shape_for_keys(one) == shape_for_keys(other))


@given(st.dictionaries(keys, plain, min_size=2))
def test_the_order_of_a_mapping_does_not_count(value: dict[Any, Any]) -> None:
    assert key_of(dict(reversed(value.items()))) == key_of(value)


@given(st.lists(plain, min_size=2).filter(lambda items: shape(items) != shape(items[::-1])))
def test_the_order_of_a_sequence_counts(value: list[Any]) -> None:
    assert key_of(value[::-1]) != key_of(value)


@pytest.mark.parametrize(
    "different",
    [
        (None, False, 0, 0.0, -0.0, "", "0", "None", (), {}, ((),)),
        (1, True, 1.0, "1", (1,), {1: 1}, {"1": 1}),
        (math.nan, math.inf, -math.inf, "nan", "inf", 1e308),
        (0.1, 0.1 + 1e-17 + 1e-16, "0.1"),
        ("ab", ("a", "b"), ("ab",), ("a", ("b",)), (("a", "b"),), ("", "ab"), "a:b", "a\nb"),
        ({"a": {"b": 1}}, {"a": {}, "b": 1}, {"a": 1, "b": {}}, ("a", {"b": 1})),
        (Pair(1, 2), Pair(2, 1), Couple(1, 2), (1, 2), {"left": 1, "right": 2}, Pair(1, Pair(1, 2))),
        (Section(), Section(epochs=2), Section(extra={"a": 1}), OtherSection(), {"epochs": 1, "extra": {}}),
        (Path("/a"), "/a", "/A", Path("/b")),
        (ImportPath("a.b:c"), ImportPath("a.b:d"), ImportPath("a.x:c"), "a.b:c"),
    ],
    ids=lambda group: repr(group[0]),
)
def test_each_of_these_has_a_key_of_its_own(different: tuple[Any, ...]) -> None:
    assert len({key_of(value) for value in different}) == len(different)


@pytest.mark.parametrize(
    "same",
    [
        ((1, ("a", 2.0)), [1, ["a", 2.0]]),
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        (math.nan, -math.nan, float("nan")),
        (Section(), Section(every_seconds=1.0)),
    ],
    ids=lambda group: repr(group[0]),
)
def test_each_of_these_has_the_same_key(same: tuple[Any, ...]) -> None:
    assert len({key_of(value) for value in same}) == 1


def test_a_file_counts_by_its_content_wherever_it_lies() -> None:
    contents = {Path("/a"): "one", Path("/copy/of/a"): "one", Path("/b"): "two"}
    found = {path: digest_of((path,), contents.__getitem__, str) for path in contents}
    assert found[Path("/a")] == found[Path("/copy/of/a")] != found[Path("/b")]


def test_code_counts_by_its_name_and_by_the_source_of_its_module() -> None:
    sources = {"user.losses": "x = 1"}
    before = digest_of({"loss": ImportPath("user.losses:focal")}, str, sources.__getitem__)
    sources["user.losses"] = "x = 2"
    assert digest_of({"loss": ImportPath("user.losses:focal")}, str, sources.__getitem__) != before


def test_a_missing_file_is_an_error_that_names_it() -> None:
    def absent(path: Path) -> str:
        raise WorkspaceError(f"{path}: No such file or directory")

    with pytest.raises(WorkspaceError, match="/not/there"):
        digest_of([{"x": Path("/not/there")}], absent, str)


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", 1j, (1, [b""]), {"a": {2}}, Section, len],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_key_is_refused(value: Any) -> None:
    with pytest.raises(WorkspaceError, match="has no key"):
        key_of(value)


@given(values)
def test_a_result_that_was_read_back_has_the_key_of_the_one_that_was_written(value: Any) -> None:
    assert key_of(written_and_read(value)) == key_of(value)
