"""What pip installs: real files in the sdist and the wheel, and a base that works alone."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from command_line import COMMANDS

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "kdedge"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        origin = ROOT / name
        if origin.is_symlink():
            target.symlink_to(origin.readlink())
        elif origin.is_file():
            target.write_bytes(origin.read_bytes())
    # `python -m build` without a choice builds the sdist and then the wheel from it: what the wheel holds, the sdist held.
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], check=True, capture_output=True)
    return out


@pytest.fixture(scope="session")
def base(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv that holds the wheel and its base dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, with_pip=True)
    (wheel,) = distributions.glob("*.whl")
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([str(folder / "bin/python"), "-m", "pip", "install", "-q", *constraints, str(wheel)], check=True, capture_output=True)
    return folder / "bin"


def test_sdist_and_wheel_hold_the_linked_folders_as_real_files(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    (sdist,) = distributions.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "kdedge/__init__.py",
        "kdedge/demo.yaml",
        "kdedge/py.typed",
        "kdedge/report/page.jinja",
        "kdedge/exporters/build.py",
        "kdedge/exporters/dialects/tensorrt.py",
        "kdedge/runtimes/worker.py",
        "kdedge/devices/local.py",
        "kdedge/devices/catalog/jetson-orin-nano-8gb.toml",
        "kdedge/devices/browser/page/index.html",
        "kdedge/bundle/self_check.py",
    ):
        assert name in names, f"{name} is missing from the wheel"
    assert not [name for name in names if not name.startswith("kdedge")], "the wheel holds something beside kdedge"
    with tarfile.open(sdist) as archive:
        links = [member.name for member in archive if member.issym() or member.islnk()]
        assert not links


def test_the_base_alone_imports_and_shows_every_help(base: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(base / "kdedge"), *words], capture_output=True, text=True, cwd=base)

    assert subprocess.run([str(base / "python"), "-c", "import kdedge; print(kdedge.__version__)"], cwd=base, check=False).returncode == 0
    assert run("--help").returncode == 0
    for command in COMMANDS:
        result = run(command, "--help")
        assert result.returncode == 0, result.stderr
        assert "Usage" in result.stdout


def test_what_is_missing_is_named_with_the_extra_that_brings_it(base: Path, tmp_path: Path) -> None:
    result = subprocess.run([str(base / "kdedge"), "demo", "--workspace", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert "pip install 'kdedge[train]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_command_is_covered_here() -> None:
    from typer.main import get_command

    from kdedge.cli import app

    assert set(get_command(app).commands) == set(COMMANDS)  # type: ignore[attr-defined]
