"""Answers on disk: what is written is read back, from files that are mapped and not loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.distill.answers import Answers, AnswerWriter
from kdedge.errors import TrainingError

ALL = np.arange(6, dtype=np.int64)


def written(folder: Path, answers: dict[str, Any], dtype: str = "float16", top_k: int | None = None, classes: int = 4) -> Answers:
    folder.mkdir(exist_ok=True)
    count = len(next(iter(answers.values())))
    with AnswerWriter(folder, count, dtype, top_k) as writer:
        for part in np.array_split(np.arange(count), 3):
            writer.add({name: rows[part] for name, rows in answers.items()})
    return Answers(writer.files, count, classes)


def test_answers_of_every_shape_come_back_by_sample_in_any_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    given = {name: generator.normal(size=(6, *shape)).astype(np.float32) for name, shape in (("logits", (4,)), ("attention:a/b", (2, 3)), ("x", ()))}
    known = written(tmp_path / "a", given, "float32")
    places = np.array([5, 0, 0, 3])
    for name, rows in given.items():
        found = known.rows(name, places)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, rows[places])


def test_halves_keep_eleven_bits(tmp_path: Path) -> None:
    rows = np.concatenate([np.geomspace(1e-4, 6e4, 3000), -np.geomspace(1e-4, 6e4, 3000)]).astype(np.float32).reshape(-1, 4)
    found = written(tmp_path / "a", {"logits": rows}).rows("logits", np.arange(len(rows)))
    assert np.all(np.abs(found - rows) <= 2**-11 * np.abs(rows))


def test_what_does_not_fit_into_halves_is_noticed_and_not_made_infinite(tmp_path: Path) -> None:
    for large in (65520.0, -1e6):
        with pytest.raises(OverflowError), AnswerWriter(tmp_path, 1, "float16", None) as writer:
            writer.add({"logits": np.array([[0.0, large]], np.float32)})


def test_top_k_by_hand(tmp_path: Path) -> None:
    # Probabilities 1/2, 1/4, 1/8, 1/8: the two largest stay, 1/4 of the mass is spread over the other two.
    logits = np.log(np.array([[4.0, 1.0, 2.0, 1.0], [1.0, 1.0, 2.0, 4.0]], np.float32)) + np.float32(7.0)
    known = written(tmp_path / "a", {"logits": np.repeat(logits, 3, axis=0)}, top_k=2)
    found = np.exp(known.rows("logits", np.array([0, 5])))
    np.testing.assert_allclose(found, [[1 / 2, 1 / 8, 1 / 4, 1 / 8], [1 / 8, 1 / 8, 1 / 4, 1 / 2]], rtol=2e-3)


def test_as_many_as_there_are_classes_are_all_of_them(tmp_path: Path) -> None:
    logits = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.testing.assert_array_equal(written(tmp_path / "a", {"logits": logits}, top_k=4).rows("logits", ALL), logits)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), min_size=3, max_size=8), st.integers(1, 4))
def test_top_k_is_a_distribution_with_the_largest_in_place(tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]], top_k: int) -> None:
    logits = np.array(rows, np.float32)
    known = written(tmp_path_factory.mktemp("k") / "a", {"logits": logits}, top_k=top_k, classes=5)
    found = known.rows("logits", np.arange(len(rows)))
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(1), 1, atol=2e-2)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    exact = np.sort(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), axis=1)
    found = np.sort(found.astype(np.float64), axis=1)
    np.testing.assert_allclose(found[:, -top_k:], exact[:, -top_k:], rtol=2**-11, atol=1e-6)
    # The mass of the rest is what it was, in logarithms, and lies evenly on them.
    rest = np.log(np.exp(exact[:, :-top_k]).sum(1))
    np.testing.assert_allclose(found[:, 0] + np.log(5 - top_k), rest, rtol=2**-10, atol=1e-5)
    assert np.all(found[:, 0] == found[:, -top_k - 1])


def test_a_file_of_another_size_or_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    written(tmp_path / "a", {"logits": np.zeros((6, 4), np.float32)})
    path = tmp_path / "a" / "answer0.npy"
    with pytest.raises(TrainingError, match=r"answer0\.npy holds 6 samples where the data has 7"):
        Answers({"logits": path}, 7, 4)
    content = path.read_bytes()
    for spoiled in (content[:-1], content[:40], b""):
        path.write_bytes(spoiled)
        with pytest.raises(TrainingError, match=r"answer0\.npy is cut off or damaged"):
            Answers({"logits": path}, 6, 4)


_READS = """
import json, re, sys
import numpy as np
from pathlib import Path
from kdedge.distill.answers import Answers

def memory():
    # Mapped pages of the file are the system's to take back (RssFile); what the process itself holds is RssAnon.
    found = dict(re.findall(r"(\\w+):\\s+(\\d+) kB", Path("/proc/self/status").read_text()))
    return int(found["RssAnon"])

known = Answers({"logits": Path(sys.argv[1])}, int(sys.argv[2]), 1000)
generator = np.random.default_rng(0)
def read(times):
    for _ in range(times):
        known.rows("logits", generator.integers(0, int(sys.argv[2]), 128))
read(100)
before = memory()
read(500)
print(json.dumps({"before": before, "grown": memory() - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which this system does not have")
def test_the_memory_of_a_run_does_not_grow_with_what_is_kept(tmp_path: Path) -> None:
    found = []
    for samples in (20_000, 2_000_000):  # 40 MB, and 4 GB that no machine of this kind has to spare
        path = tmp_path / "answers.npy"
        with path.open("wb") as handle:
            np.lib.format.write_array_header_1_0(handle, {"descr": "<f2", "fortran_order": False, "shape": (samples, 1000)})
            handle.truncate(handle.tell() + samples * 2000)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run([sys.executable, "-c", _READS, str(path), str(samples)], capture_output=True, text=True, check=True, env=environment)
        found.append(json.loads(ended.stdout))
    for each in found:
        assert each["grown"] < 4_000, found  # kB
    assert found[1]["before"] - found[0]["before"] < 4_000, found
