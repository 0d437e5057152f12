"""Several processes of one launch train what one process trains, and a whole run is done once by them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_recipes
import spread_runs
import torch
from safetensors.torch import load_file

# A barrier that one process never reaches would be waited for much longer.
LIMIT = 120
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Whatever the machine has: with `--cpu` Accelerate starts one process, and leaves several to MPI.
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def launched(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run python with these words; the launcher starts two processes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its processes
        raise
    assert process.returncode == code, err[-5000:]
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases by two processes, and beside them by this one."""
    root = tmp_path_factory.mktemp("spread")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (root / "teacher").mkdir()
    for case in (*spread_runs.EXACT, "unused", "memory", "statistics"):
        spread_runs.run(case, root, root / "alone" / case)
    for seed in range(4):
        spread_runs.run("statistics", root, root / "seeds" / str(seed), seed)
    torch.set_num_threads(threads)
    launched(*TORCHRUN, Path(spread_runs.__file__), root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("case", [*spread_runs.EXACT, "unused"])
def test_two_processes_train_the_student_that_one_process_trains(spread: Path, case: str) -> None:
    folders = spread / "alone" / case, spread / "spread" / case
    assert sorted(path.name for path in folders[1].iterdir()) == ["metrics.jsonl", "model.safetensors"]
    alone, both = (load_file(str(folder / "model.safetensors")) for folder in folders)
    assert set(alone) == set(both)
    assert all(torch.allclose(alone[name], both[name], atol=1e-5) for name in alone)
    assert losses_of(folders[1]) == pytest.approx(losses_of(folders[0]), rel=1e-5)


@pytest.mark.slow
def test_with_batch_statistics_two_processes_reach_a_loss_within_the_spread_of_seeds(spread: Path) -> None:
    seeds = [losses_of(spread / "seeds" / str(seed))[-1] for seed in range(4)]
    alone, both = (losses_of(spread / how / "statistics")[-1] for how in ("alone", "spread"))
    assert both != alone
    assert abs(both - alone) < max(seeds) - min(seeds)


@pytest.mark.slow
def test_a_memory_is_shared_by_processes_with_batches_of_unequal_sizes(spread: Path) -> None:
    # What is compared with what is drawn in each process for itself.
    alone, both = (losses_of(spread / how / "memory") for how in ("alone", "spread"))
    assert both == pytest.approx(alone, rel=0.2)


@pytest.mark.slow
def test_a_whole_run_by_two_processes_is_told_once_and_equals_that_of_one(tmp_path: Path) -> None:
    # Without batch statistics, so that one process comes to the same student.
    code = """
    from torch import nn
    def net(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    """
    student = {"model": f"{small_recipes.module(tmp_path, code)}:net", "arguments": {"classes": 3}}
    recipe = small_recipes.write(tmp_path, student=student, teacher={**student, "train": {"epochs": 1, "batch_size": 16}})
    done = launched(*TORCHRUN, "-m", "kdedge", "run", recipe, "--workspace", tmp_path / "two", "--json")
    results = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(results) == 1
    for stage in ("prepare.prepare", "teacher.obtain", "trainer.distill", "page.write_report"):
        assert sum(line.startswith(stage) for line in done.stderr.splitlines()) == 1, done.stderr
    assert not list((tmp_path / "two" / "partial").iterdir())
    alone = small_recipes.kdedge("run", recipe, "--workspace", tmp_path / "one", "--json")
    assert _metrics(results[0]) == _metrics(alone.out.splitlines()[-1])


@pytest.mark.slow
def test_an_error_in_two_processes_is_told_once_and_ends_both(tmp_path: Path) -> None:
    recipe = small_recipes.write(tmp_path)
    words = ("--workspace", tmp_path / "workspace", "--set", "distill.optimizer.lr=1e30")
    done = launched(*TORCHRUN, "-m", "kdedge", "run", recipe, *words, code=1)
    told = [line for line in done.stderr.splitlines() if line.startswith("training error")]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("training error: the loss term `ce` became")


_API = """
import os
import sys
import kdedge
for _ in range(2):  # trained, then cached
    result = kdedge.run(sys.argv[1], workspace=sys.argv[2], until="distill")
os.write(1, f"{result.exit_code} {result.student.parameters}\\n".encode())  # a line at once: both write to one pipe
"""


@pytest.mark.slow
def test_each_process_that_calls_run_gets_its_result(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_API)
    done = launched(*ACCELERATE, tmp_path / "mine.py", small_recipes.write(tmp_path), tmp_path / "workspace")
    lines = [line for line in done.stdout.split("\n") if line]
    assert len(lines) == 2
    assert lines[0] == lines[1]


def _metrics(line: str) -> Any:
    found = json.loads(line)
    return found["verdict"], found["student"], found["teacher"]
