"""The worker's archive is the same file wherever it is built, and any Python 3.8 with numpy runs it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from board_world import DOUBLED, fake_job, fake_worker

from kdedge.devices.board_job import staged_job
from kdedge.devices.worker_archive import PACKAGE, archive_bytes, worker_archive, write_archive
from kdedge.runtimes.job import write_job

RUNTIMES = Path(__file__).parents[2] / "runtimes"


def oldest_python() -> str:
    """The oldest interpreter from 3.8 on that has numpy (KDEDGE_PYTHON38 names one); at last this one."""
    found = [os.environ.get("KDEDGE_PYTHON38", "")]
    found += [str(path) for version in range(8, 11) for path in Path.home().glob(f".pyenv/versions/3.{version}.*/bin/python")]
    works = (path for path in found if path and subprocess.run([path, "-c", "import numpy"], capture_output=True, check=False).returncode == 0)
    return next(works, sys.executable)


def test_the_bytes_depend_on_nothing_but_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = archive_bytes()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    os.utime(RUNTIMES / "job.py")
    assert archive_bytes() == first
    assert worker_archive().stem == hashlib.sha256(first).hexdigest()
    with zipfile.ZipFile(worker_archive()) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.filename for entry in entries} == {"__main__.py", *(f"{PACKAGE}/{path.name}" for path in RUNTIMES.glob("*.py"))}


def test_another_content_has_another_name(tmp_path: Path) -> None:
    assert write_archive(tmp_path, {"fake.py": b"1"}).name != write_archive(tmp_path, {"fake.py": b"2"}).name


def test_an_adapter_named_like_its_runtime_does_not_hide_it_in_the_archive() -> None:
    program = "from kdedge_worker import adapter; m = adapter('onnxruntime').import_runtime(); print(m.__name__, hasattr(m, 'InferenceSession'))"
    environment = {"PYTHONPATH": str(worker_archive()), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["onnxruntime", "True"]


def test_it_does_a_job_under_the_oldest_python_that_is_here(tmp_path: Path) -> None:
    job = fake_job(tmp_path)
    work = tmp_path / "job" / "work"
    work.mkdir(parents=True)
    staged, names = staged_job(job, tmp_path, {Path(path): path for path in (job.graphs["main"][0], job.buckets[0]["image"])})
    for name, path in names.items():
        (tmp_path / "job" / name).parent.mkdir(parents=True)
        (tmp_path / "job" / name).symlink_to(path)
    write_job(str(work), staged)
    command = [oldest_python(), str(fake_worker(tmp_path))]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([*command, "supervise", str(tmp_path / "job"), "60"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((work / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("ok", "")
    assert np.load(work / result["outputs"][0]["doubled"]).tolist() == DOUBLED
    facts = json.loads(subprocess.run([*command, "probe"], capture_output=True, text=True, env=environment, check=True).stdout)
    assert facts["numpy"] is True
    assert facts["fingerprint"]["fake"] == "1.0"
