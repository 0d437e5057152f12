from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdedge.artifact import PreparedData

# The factories of these tests are named by import path, as a user's are.
sys.path.insert(0, str(Path(__file__).parent))

from distill_world import image_data


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return image_data(tmp_path / "data")
