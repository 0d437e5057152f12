"""`docs/data.md`: `make data` fills `data/` from any of the folders that it names, and does not pass over a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fetched(source: Path, destination: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "examples" / "fetch_data.py"
    return subprocess.run([sys.executable, str(script), str(source), str(destination)], capture_output=True, text=True, check=False)


def test_one_of_the_folders_is_enough_and_the_others_are_named(tmp_path: Path) -> None:
    (tmp_path / "from" / "text_sst2").mkdir(parents=True)
    (tmp_path / "from" / "text_sst2" / "dev.tsv.gz").write_bytes(b"bytes")
    done = fetched(tmp_path / "from", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "text_sst2" / "dev.tsv.gz").read_bytes() == b"bytes"
    assert f"{tmp_path / 'from' / 'cifar10'}: not there, left out" in done.stdout


def test_a_folder_that_holds_none_of_them_is_an_error(tmp_path: Path) -> None:
    done = fetched(tmp_path / "nowhere", tmp_path / "data")
    assert done.returncode != 0
    assert done.stderr.startswith(f"data error: {tmp_path / 'nowhere'} holds none of cifar10, ")
    assert "docs/data.md" in done.stderr
    assert not (tmp_path / "data").exists()
