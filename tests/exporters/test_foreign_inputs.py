"""Calibration files: two layouts of one .npz, a folder of them, and sentences for everything else."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kdedge.errors import DataError
from kdedge.exporters.foreign.inputs import MOST_HELD_BACK, Examples, Input, batches, held_back, inputs_of
from kdedge.exporters.foreign.opening import open_graph

IMAGE = Input("image", np.dtype("float32"), ("batch", 3, 4, 4))
IDS = Input("ids", np.dtype("int64"), ("batch", "length"))
STATE = Input("state", np.dtype("float32"), (2, 1, 8))
RATE = Input("rate", np.dtype("int64"), ())


def written(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def floats(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "calls" / "c.npz", image=floats(5, 3, 4, 4))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("image", archive.read("image.npy"))
    said = r"c\.npz holds `image` more than once"
    with pytest.raises(DataError, match=said), Examples(path, [IMAGE]):
        pass
    with pytest.raises(DataError, match=said), Examples(path.parent, [IMAGE]) as calls:
        calls.feed(0)


def test_an_array_with_the_axes_of_its_input_counts_examples_along_axis_0(tmp_path: Path) -> None:
    array = floats(5, 3, 4, 4)
    with Examples(written(tmp_path / "c.npz", image=array), [IMAGE]) as calls:
        assert (len(calls), calls.joined) == (5, True)
        assert np.array_equal(calls.feed(2)["image"], array[2:3])
        assert [len(feed["image"]) for feed in batches(calls, [0, 1, 4], 2)] == [2, 1]


def test_one_axis_more_counts_calls_and_gives_each_input_its_own_shape(tmp_path: Path) -> None:
    path = written(tmp_path / "c.npz", image=floats(5, 3, 4, 4), state=floats(5, 2, 1, 8), rate=np.full(5, 16000))
    with Examples(path, [IMAGE, STATE, RATE]) as calls:
        assert (len(calls), calls.joined) == (5, False)
        feed = calls.feed(4)
    assert {name: array.shape for name, array in feed.items()} == {"image": (1, 3, 4, 4), "state": (2, 1, 8), "rate": ()}
    assert int(feed["rate"]) == 16000
    assert feed["rate"].dtype.name == "int64"


def test_a_fixed_batch_takes_as_many_examples_at_a_time_and_leaves_the_rest(tmp_path: Path) -> None:
    eight = Input("image", np.dtype("float32"), (8, 3, 4, 4))
    with Examples(written(tmp_path / "c.npz", image=floats(20, 3, 4, 4)), [eight]) as calls:
        assert (len(calls), calls.feed(1)["image"].shape) == (2, (8, 3, 4, 4))
    with (
        pytest.raises(DataError, match="holds 5 examples: the graph takes 8 at a time"),
        Examples(written(tmp_path / "few.npz", image=floats(5, 3, 4, 4)), [eight]),
    ):
        pass


def test_a_graph_of_one_input_takes_a_single_array_of_any_name_and_numbers_in_the_type_of_the_graph(tmp_path: Path) -> None:
    with Examples(written(tmp_path / "c.npz", anything=np.zeros((3, 3, 4, 4))), [IMAGE]) as calls:
        assert calls.feed(0)["image"].dtype == np.float32
    with Examples(written(tmp_path / "i.npz", ids=np.zeros((3, 7), np.int32)), [IDS]) as calls:
        assert calls.feed(0)["ids"].dtype == np.int64


def test_a_folder_holds_one_call_a_file_and_sizes_may_change(tmp_path: Path) -> None:
    for number, length in enumerate((7, 3)):
        written(tmp_path / f"{number}.npz", ids=np.full((1, length), number), rate=np.asarray(8000))
    with Examples(tmp_path, [IDS, RATE]) as calls:
        assert [calls.feed(place)["ids"].shape for place in range(len(calls))] == [(1, 7), (1, 3)]
        assert not calls.joined


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": floats(2, 3, 4, 4), "state": floats(2, 2, 1, 8)}, r"has no array `image` \(it has: images, state\); the graph takes `image`"),
        ({"image": floats(2, 3, 4, 4), "state": floats(2, 2, 1, 8), "more": floats(2)}, "an array `more`, which the graph does not take"),
        ({"image": floats(2, 3, 4, 4), "state": floats(3, 2, 1, 8)}, "all arrays must have as many examples.*`image` 2, `state` 3"),
        ({"image": np.zeros((2, 3, 4, 4), np.uint8), "state": floats(2, 2, 1, 8)}, "dtype uint8, the graph takes floats.*preprocessing"),
        ({"image": floats(2, 3, 4), "state": floats(2, 2, 1, 8)}, r"shape \[2, 3, 4\].*give \[N, 3, 4, 4\] for N examples, or \[N, batch, 3, 4, 4\]"),
        ({"image": floats(2, 1, 4, 4), "state": floats(2, 2, 1, 8)}, r"shape \[2, 1, 4, 4\]; the graph takes `image` float32 \[batch, 3, 4, 4\]"),
        ({"image": floats(0, 3, 4, 4), "state": floats(0, 2, 1, 8)}, "holds 0 examples"),
    ],
)
def test_a_file_that_does_not_fit_is_told_what_is_wanted(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said), Examples(written(tmp_path / "c.npz", **arrays), [IMAGE, STATE]):
        pass


def test_a_single_number_has_no_axis_that_counts_calls(tmp_path: Path) -> None:
    path, anything = written(tmp_path / "c.npz", x=np.float32(3)), Input("x", np.dtype("float32"), None)
    with (
        pytest.raises(DataError, match=r"`x` has the shape \[\]; the graph takes `x` float32 of any shape: give \[N, \.\.\.\] for N calls"),
        Examples(path, [anything]),
    ):
        pass


def test_an_input_without_a_type_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.UNDEFINED, ["n"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(DataError, match=r"`m\.onnx`: input `x` is .*calibration examples are tensors of numbers"):
        inputs_of(open_graph(tmp_path / "m.onnx"), "m.onnx")


def test_numbers_that_the_graph_cannot_take_are_named_by_example(tmp_path: Path) -> None:
    broken = floats(3, 3, 4, 4)
    broken[1, 0, 0, 0] = np.nan
    with (
        Examples(written(tmp_path / "n.npz", image=broken), [IMAGE]) as calls,
        pytest.raises(DataError, match="example 1 of `image` has a value that is not"),
    ):
        calls.feed(1)
    small = Input("ids", np.dtype("int32"), ("n",))
    with Examples(written(tmp_path / "l.npz", ids=np.asarray([2**40])), [small]) as calls, pytest.raises(DataError, match="int32 cannot hold"):
        calls.feed(0)


@pytest.mark.parametrize("content", [b"no zip", b""])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"is not an \.npz file"), Examples(tmp_path / "c.npz", [IMAGE]):
        pass


def test_an_archive_that_was_copied_in_part_is_said_to_be_one(tmp_path: Path) -> None:
    whole = written(tmp_path / "c.npz", image=floats(3, 3, 4, 4)).read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"c\.npz is an \.npz file of which the end is missing"), Examples(tmp_path / "c.npz", [IMAGE]):
        pass


def test_python_objects_are_refused_and_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was loaded",))

    for path in (tmp_path / "c.npz", tmp_path / "folder" / "0.npz"):
        path.parent.mkdir(exist_ok=True)
        np.savez(path, image=np.asarray([Trap()], object))
    with pytest.raises(DataError, match="Python objects are refused"), Examples(tmp_path / "c.npz", [IMAGE]):
        pass
    with Examples(tmp_path / "folder", [IMAGE]) as calls, pytest.raises(DataError, match="Python objects are refused"):
        calls.feed(0)


@given(st.integers(2, 2000))
def test_examples_held_back_are_none_of_those_that_calibration_sees(count: int) -> None:
    seen, kept = held_back(count)
    assert sorted((*seen, *kept)) == list(range(count))
    assert 1 <= len(kept) <= MOST_HELD_BACK
    assert len(seen) >= len(kept)


def test_a_single_example_serves_both() -> None:
    assert held_back(1) == ((0,), (0,))
