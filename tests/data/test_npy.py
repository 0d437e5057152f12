from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from kdedge.data.npy import NpyWriter, save_npy, write_npy


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4"])
def test_blocks_make_the_same_bytes_as_numpys_own_writer(tmp_path: Path, dtype: str) -> None:
    array = np.arange(7 * 3 * 2).reshape(7, 3, 2).astype(dtype)
    np.save(tmp_path / "whole.npy", array)
    write_npy(tmp_path / "blocks.npy", dtype, array.shape, [array[:4], array[4:4], array[4:].transpose(0, 2, 1).copy().transpose(0, 2, 1)])
    assert (tmp_path / "blocks.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    save_npy(tmp_path / "saved.npy", array)
    assert (tmp_path / "saved.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_blocks_that_do_not_make_up_the_shape_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 rows were written where 2 were announced"):
        write_npy(tmp_path / "short.npy", "u1", (2, 3), [np.zeros((1, 3), np.uint8)])
    with pytest.raises(ValueError, match="does not fit"):
        write_npy(tmp_path / "wide.npy", "u1", (1, 3), [np.zeros((1, 4), np.uint8)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("rows", [10, 10_000_000])
def test_a_full_disk_is_an_os_error_that_names_the_file(rows: int) -> None:
    with pytest.raises(OSError, match="/dev/full") as caught, NpyWriter(Path("/dev/full"), "u1", (rows,)) as writer:
        writer.write(np.zeros(rows, np.uint8))
    assert caught.value.errno == errno.ENOSPC
