from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from distill_world import image_data

from kdedge.artifact import PreparedData


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Models this small gain nothing from a second thread, and lose much where the second core is taken.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return image_data(tmp_path / "data")
