from __future__ import annotations

from pathlib import Path

import pytest
from model_world import image_data, text_data

from kdedge.artifact import PreparedData


@pytest.fixture
def images() -> PreparedData:
    return image_data()


@pytest.fixture
def texts(tmp_path: Path) -> PreparedData:
    return text_data(tmp_path)
