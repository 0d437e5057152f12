"""Inputs come in order and whole, outputs are `.npy` files of the shape that their header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.runtimes.arrays import Bucket, OutputFile
from kdedge.runtimes.errors import RuntimeFailure


def column(path: Path, count: int) -> str:
    np.save(path, np.arange(count, dtype=np.float32).reshape(-1, 1))
    return str(path)


@given(count=st.integers(1, 40), batch=st.integers(1, 50), fixed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_example_once_and_in_order(count: int, batch: int, fixed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = column(tmp_path_factory.mktemp("bucket") / "x.npy", count)
    with Bucket({"x": path}) as bucket:
        batches = list(bucket.batches(batch, fixed))
    kept = np.concatenate([inputs["x"][:size, 0] for inputs, size in batches])
    assert kept.tolist() == list(range(count))
    sizes = {len(inputs["x"]) for inputs, _ in batches}
    assert sizes == {batch} if fixed else sizes <= {batch, count % batch or batch}


def test_a_ragged_last_batch_is_filled_up_with_the_last_example(tmp_path: Path) -> None:
    with Bucket({"x": column(tmp_path / "x.npy", 5)}) as bucket:
        (first, one), (last, two) = bucket.batches(3, fixed=True)
    assert (first["x"][:, 0].tolist(), one) == ([0, 1, 2], 3)
    assert (last["x"][:, 0].tolist(), two) == ([3, 4, 4], 2)


def test_inputs_are_views_of_the_file_and_a_launch_has_its_own_copy(tmp_path: Path) -> None:
    with Bucket({"x": column(tmp_path / "x.npy", 4)}) as bucket:
        (inputs, _), *_ = bucket.batches(2, fixed=True)
        own = bucket.first(6)["x"]
    assert not inputs["x"].flags.owndata
    assert not inputs["x"].flags.writeable
    assert own.flags.owndata
    assert own[:, 0].tolist() == [0, 1, 2, 3, 3, 3]


def test_reading_ahead_covers_a_file_larger_than_its_window(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((700, 1 << 13), dtype=np.float32)  # 22 MiB, windows of 8
    np.save(tmp_path / "x.npy", rows)
    with Bucket({"x": str(tmp_path / "x.npy")}) as bucket:
        read = np.concatenate([inputs["x"] for inputs, _ in bucket.batches(64, fixed=False)])
    assert np.array_equal(read, rows)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 3), np.float32), "holds no example"),
        (np.asfortranarray(np.zeros((4, 3), np.float32)), "C order"),
        (np.array(1.0), "C order"),
    ],
)
def test_an_input_that_cannot_be_sliced_is_named(array: npt.NDArray[np.float32], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(RuntimeFailure, match=said):
        Bucket({"pixels": str(tmp_path / "x.npy")})


def test_an_input_that_is_pickled_or_no_npy_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    for name in ("objects", "text", "absent"):
        with pytest.raises(RuntimeFailure, match=rf"`x` \({name}.npy\) cannot be read as .npy"):
            Bucket({"x": str(tmp_path / f"{name}.npy")})


def test_inputs_of_one_bucket_have_the_same_number_of_examples(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="a has 3, b has 4"):
        Bucket({"a": column(tmp_path / "a.npy", 3), "b": column(tmp_path / "b.npy", 4)})


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_an_output_that_grew_batch_by_batch_is_the_array_that_went_in(dtype: str, tmp_path: Path) -> None:
    whole = np.arange(7 * 6).reshape(7, 2, 3).astype(dtype)
    output = OutputFile("y", str(tmp_path / "y.npy"), rows=7)
    output.append(whole[:4], batch=4, count=4)
    padded = np.concatenate([whole[4:], whole[-1:]])
    output.append(padded, batch=4, count=3)
    output.close()
    read = np.load(tmp_path / "y.npy", allow_pickle=False)
    assert read.dtype == whole.dtype
    assert np.array_equal(read, whole)
    np.save(tmp_path / "at_once.npy", whole)
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "at_once.npy").read_bytes()


def test_an_output_without_a_batch_dimension_is_named(tmp_path: Path) -> None:
    for shape in ((), (3, 2)):
        output = OutputFile("y", str(tmp_path / "y.npy"), rows=4)
        with pytest.raises(RuntimeFailure, match=r"`y` has shape .* first dimension must be the batch"):
            output.append(np.zeros(shape, np.float32), batch=4, count=4)
        output.abandon()


def test_an_output_that_changes_its_shape_or_loses_rows_is_named(tmp_path: Path) -> None:
    output = OutputFile("y", str(tmp_path / "y.npy"), rows=4)
    output.append(np.zeros((2, 5), np.float32), batch=2, count=2)
    with pytest.raises(RuntimeFailure, match=r"`y` changed from float32\[5\] to float32\[6\]"):
        output.append(np.zeros((2, 6), np.float32), batch=2, count=2)
    with pytest.raises(RuntimeFailure, match="2 rows where 4 examples went in"):
        output.close()
