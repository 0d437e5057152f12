"""The worker runs anywhere with Python 3.8 and numpy: it imports nothing else of kdedge, and works as a package of another name."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_models import FAKE_RUNTIME

RUNTIMES = Path(__file__).parents[2] / "runtimes"
FILES = sorted(RUNTIMES.glob("*.py"))
# What an adapter may import, inside a function only.
RUNTIME_PACKAGES = {"onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx"}
# They must get as far as the sentence that refuses an old Python.
PARSED_BY_ANY_PYTHON = ("__init__.py", "worker.py", "errors.py")


def copied(folder: Path) -> Path:
    """The folder as it lies on a board: package `kdedge_worker`, with the fake runtime beside the real ones."""
    package = folder / "kdedge_worker"
    shutil.copytree(RUNTIMES, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FAKE_RUNTIME, package / "fake.py")
    with (package / "__init__.py").open("a") as handle:
        handle.write('\nADAPTERS["fake"] = "fake"\n')
    return package


def job_folder(folder: Path) -> Path:
    folder.mkdir()
    np.save(folder / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (folder / "model").write_text("any")
    job = {
        "schema": 1,
        "kind": "validate",
        "runtime": "fake",
        "graphs": {"main": ["model"]},
        "options": {},
        "buckets": [{"image": "x.npy"}],
        "batch": 2,
    }
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def work(python: str, folder: Path, job: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python, "-m", "kdedge_worker.worker", str(job)], capture_output=True, text=True, env=environment, cwd=job, check=False)


def interpreter(name: str, *modules: str) -> str | None:
    """A Python that starts and has the modules; one with numpy can be named by KDEDGE_PYTHON38."""
    versions = sorted(Path.home().glob(f".pyenv/versions/{name.removeprefix('python')}.*/bin/python"))
    for candidate in (os.environ.get("KDEDGE_PYTHON38"), shutil.which(name), *map(str, versions)):
        if candidate is None:
            continue
        wanted = name.removeprefix("python").split(".")
        program = f"import sys{''.join(', ' + module for module in modules)}; assert sys.version_info[:2] == ({', '.join(wanted)})"
        if subprocess.run([candidate, "-c", program], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_parses_as_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_imports_the_standard_library_numpy_and_its_siblings_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    at_top = {id(node) for node in tree.body}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom) and statement.level:
            assert statement.level == 1, f"{path.name}: leaves the package"
            continue
        names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
        if isinstance(statement, ast.ImportFrom):
            names = [statement.module or ""]
        for name in {name.partition(".")[0] for name in names}:
            allowed = name in sys.stdlib_module_names or name == "numpy" or (name in RUNTIME_PACKAGES and id(statement) not in at_top)
            assert allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("name", PARSED_BY_ANY_PYTHON)
def test_what_is_read_before_the_version_check_has_no_new_syntax(name: str) -> None:
    tree = ast.parse((RUNTIMES / name).read_text(), feature_version=(3, 6))
    future = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert not future, "Python 3.6 knows no `annotations` feature"


def test_the_worker_works_as_a_package_of_another_name(tmp_path: Path) -> None:
    copied(tmp_path)
    job = job_folder(tmp_path / "job")
    done = work(sys.executable, tmp_path, job)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((job / "result.json").read_text())
    assert (result["status"], result["examples"], result["iterations"]) == ("ok", 5, 3)
    assert np.load(job / "outputs/0/doubled.npy").tolist() == [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18]]
    assert result["evidence"]["before"]["context_switches"]["voluntary"] <= result["evidence"]["after"]["context_switches"]["voluntary"]


def test_an_adapter_named_like_its_runtime_does_not_hide_it_in_a_copy(tmp_path: Path) -> None:
    copied(tmp_path)
    program = "from kdedge_worker import adapter; m = adapter('onnxruntime').import_runtime(); print(m.__name__, hasattr(m, 'InferenceSession'))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True
    )
    assert done.stdout.split() == ["onnxruntime", "True"]


def test_every_file_compiles_under_a_real_python_3_8(tmp_path: Path) -> None:
    python = interpreter("python3.8")
    if python is None:
        pytest.skip("no python3.8 on PATH")
    package = copied(tmp_path)
    subprocess.run([python, "-m", "compileall", "-q", str(package)], check=True)


def test_a_job_is_done_by_a_real_python_3_8_with_numpy_alone(tmp_path: Path) -> None:
    python = interpreter("python3.8", "numpy") or interpreter("python3.8")
    if python is None:
        pytest.skip("no python3.8: name one by KDEDGE_PYTHON38")
    copied(tmp_path)
    if interpreter("python3.8", "numpy") is None:  # the last numpy for it, beside the worker
        wheel = ("--python-version", "3.8", "--only-binary", ":all:", "numpy==1.24.4")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(tmp_path), *wheel)
        if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
            pytest.skip("this Python 3.8 has no numpy, and none can be fetched")
    job = job_folder(tmp_path / "job")
    done = work(python, tmp_path, job)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((job / "result.json").read_text())
    assert result["status"] == "ok"
    assert result["evidence"]["python"].startswith("3.8.")
    assert np.load(job / "outputs/0/doubled.npy").shape == (5, 2)


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_an_older_python_is_refused_with_a_sentence(version: str, tmp_path: Path) -> None:
    python = next((str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")), None) or shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {version}")
    copied(tmp_path)
    done = work(python, tmp_path, job_folder(tmp_path / "job"))
    assert done.returncode == 2
    assert done.stderr.strip() == f"kdedge's worker needs Python 3.8 or newer; this is {version}"


def test_a_worker_that_is_called_wrongly_says_how() -> None:
    done = subprocess.run([sys.executable, "-m", "kdedge.runtimes.worker"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "usage: python -m kdedge.runtimes.worker JOBFOLDER | supervise FOLDER SECONDS | probe | sweep ROOT SECONDS BYTES",
    )
    done = subprocess.run([sys.executable, "-m", "kdedge.runtimes.worker", "/nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the job folder /nowhere cannot be written" in done.stderr
