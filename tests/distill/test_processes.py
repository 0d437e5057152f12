from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distill_world import image_data, spec, training
from safetensors.torch import load_file

from kdedge.distill.trainer import distill

_RANK = """
import sys
from pathlib import Path
from distill_world import image_data, spec, training
from kdedge.distill.trainer import distill

root = Path(sys.argv[1])
distill(spec("flat"), training(ema=0.5, clip_norm=0.1), None, image_data(root / "data" / sys.argv[2]), 5, folder=root / "spread")
"""


@pytest.mark.slow
def test_two_processes_train_the_student_that_one_process_trains(tmp_path: Path) -> None:
    # Without batch norm (each process has its own batch statistics) the sum over processes is the sum over the batch, up to rounding.
    (tmp_path / "alone").mkdir()
    (tmp_path / "spread").mkdir()
    script = tmp_path / "rank.py"
    script.write_text(_RANK.replace("sys.argv[2]", '__import__("os").environ["RANK"]'))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path)]
    done = subprocess.run(launch, env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    distill(spec("flat"), training(ema=0.5, clip_norm=0.1), None, image_data(tmp_path / "data" / "alone"), 5, folder=tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "spread").iterdir()) == ["metrics.jsonl", "model.safetensors"]
    alone, spread = (load_file(str(tmp_path / name / "model.safetensors")) for name in ("alone", "spread"))
    assert set(alone) == set(spread)
    assert all(torch.allclose(alone[name], spread[name], atol=1e-5) for name in alone)
    lines = [[json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("alone", "spread")]
    assert lines[0] == pytest.approx(lines[1], rel=0.02)  # batches of 13 are spread as 7 and 6, and the mean of means is told
