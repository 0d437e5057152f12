"""A bundle that was really packed, as the tests of bundles make it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

_MAKES_BUNDLES = Path(__file__).parents[1] / "bundle" / "conftest.py"


def _work(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("bundle_world_of_regression_tests", _MAKES_BUNDLES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Work(folder)


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle for tests that copy it before they damage it."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "work").mkdir()
    path: Path = _work(folder / "work").bundle(folder / "out").path
    return path
