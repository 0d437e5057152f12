"""What executor_runner prints and writes. Texts are constructed after its source, which the module names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdedge.devices.native.executorch import read_iterations, read_outputs
from kdedge.runtimes.errors import RuntimeFailure

LINE = "I 00:00:00.1 executorch:executor_runner.cpp:880] Iteration {} of {}: {} ms\n"


def test_every_iteration_is_read_in_ns_and_in_order() -> None:
    text = LINE.format(2, 3, "1.500000") + LINE.format(1, 3, "49252.000000") + "other line\n" + LINE.format(3, 3, "0.000001")
    found = read_iterations(text)
    assert found is not None
    assert found.tolist() == [49_252_000_000, 1_500_000, 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Model executed successfully 3 time(s) in 4.5 ms.\n",
        LINE.format(2, 3, "1.5") + LINE.format(3, 3, "1.5"),  # the log forgot the first
        LINE.format(1, 3, "1.5") + LINE.format(2, 4, "1.5"),
        LINE.format(1, 1, "1.5"),
    ],
)
def test_where_one_is_missing_there_are_no_samples(text: str) -> None:
    assert read_iterations(text) is None


def test_outputs_take_their_shape_from_what_is_printed(tmp_path: Path) -> None:
    np.arange(6, dtype=np.float32).tofile(tmp_path / "output-0.bin")
    np.arange(2, dtype=np.float16).tofile(tmp_path / "output-1.bin")
    found = read_outputs(tmp_path, "OutputX 0: tensor(sizes=[2, 3], [\n  0., 1.,\n])\nOutputX 1: tensor(sizes=[2], [0., 1.])\n")
    assert found["output_0"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["output_1"].dtype == np.float16
    # The older word, before outputs could be printed in full.
    (tmp_path / "output-1.bin").unlink()
    assert read_outputs(tmp_path, "Output 0: tensor(sizes=[1, 6], [0.])\n")["output_0"].shape == (1, 6)


def test_outputs_that_are_not_told_or_are_no_floats_are_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="may not know --output_file"):
        read_outputs(tmp_path, "OutputX 0: tensor(sizes=[1, 2], [0., 1.])\n")
    np.arange(6, dtype=np.int64).tofile(tmp_path / "output-0.bin")
    with pytest.raises(RuntimeFailure, match=r"output 0 has 48 bytes for \[6\], which are no floats"):
        read_outputs(tmp_path, "OutputX 0: tensor(sizes=[6], [0, 1])\n")
