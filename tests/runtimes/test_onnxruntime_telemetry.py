from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def left_behind_by(program: str, home: Path, **variables: str) -> list[str]:
    """What a program leaves in an empty home: ONNX Runtime's telemetry keeps an id of the machine and unsent events there."""
    home.mkdir()
    silenced = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in silenced and not name.startswith("XDG_")}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*"))


@pytest.mark.parametrize(
    "program",
    [
        "from kdedge.runtimes.onnxruntime import import_runtime; import_runtime()",
        "import kdedge.exporters.equivalence",
        "import kdedge.exporters.quantize.calibrate",
    ],
)
def test_onnxruntime_is_imported_without_its_telemetry(program: str, tmp_path: Path) -> None:
    assert left_behind_by(program, tmp_path / "home") == []


def test_no_module_imports_onnxruntime_in_another_way() -> None:
    root = Path(__file__).parents[2]
    files = [path for part in ("kdedge", "exporters", "runtimes", "devices", "benchmarks") for path in (root / part).rglob("*.py")]
    assert len(files) > 100
    plain = [path.relative_to(root).as_posix() for path in files if "\nimport onnxruntime" in path.read_text(encoding="utf-8")]
    assert plain == []
