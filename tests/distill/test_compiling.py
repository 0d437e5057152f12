"""Training through torch.compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_world import StopAfter, StoppedError, made, spec, training
from safetensors.torch import load_file

from kdedge import progress
from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.distill.spec import TeacherSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.trainer import distill

LOSSES = ({"ce": 0.5}, {"kd": 1.0}, {"fitnet": 0.1, "layers": ["conv"]}, {"at": 1.0, "layers": ["norm"]})


@pytest.fixture
def teacher(data: PreparedData, tmp_path: Path) -> TeacherFiles:
    return obtain((TeacherSpec(spec(width=8), training(epochs=1)),), data, 5, folder=made(tmp_path / "teacher"))


def losses_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["terms"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_compiled_student_learns_the_same_with_taps_and_dropout_and_resumes(data: PreparedData, teacher: TeacherFiles, tmp_path: Path) -> None:
    eager, fast, broken = (made(tmp_path / name) for name in ("eager", "fast", "broken"))
    distill(spec(), training(*LOSSES, teacher=True, checkpoint_seconds=0.0), teacher, data, 5, folder=eager)
    how = training(*LOSSES, teacher=True, checkpoint_seconds=0.0, compile=True)
    distill(spec(), how, teacher, data, 5, folder=fast)
    plain, compiled = load_file(str(eager / "model.safetensors")), load_file(str(fast / "model.safetensors"))
    assert list(plain) == list(compiled)
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-4) for name in plain)
    for one, other in zip(losses_of(eager), losses_of(fast), strict=True):
        assert set(one) == {"ce", "kd", "fitnet", "at"}
        assert all(other[name]["raw"] == pytest.approx(one[name]["raw"], rel=1e-4) for name in one)
    with progress.listening(StopAfter(6)), pytest.raises(StoppedError):
        distill(spec(), how, teacher, data, 5, folder=broken)
    torch.compiler.reset()
    distill(spec(), how, teacher, data, 5, folder=broken)
    assert (broken / "model.safetensors").read_bytes() == (fast / "model.safetensors").read_bytes()


_PROGRAM = """
import sys
from pathlib import Path
from distill_world import image_data, spec, training
from kdedge.distill.trainer import distill
distill(spec(), training(compile=True), None, image_data(Path(sys.argv[1])), 5, folder=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_without_a_compiler_there_is_a_sentence(tmp_path: Path) -> None:
    nothing = made(tmp_path / "cache")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(nothing)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "data"), str(made(tmp_path / "run"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("kdedge.errors.ModelError: model `tiny` cannot be compiled ("), done.stderr
    assert last.endswith("install a C++ compiler such as g++, or set `compile: false`")
