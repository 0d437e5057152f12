"""Where real data and pretrained weights lie, for the tests that need them. They are no part of the project and may be absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


def shared(name: str) -> Path:
    """The file or folder `name` of the real data; skips the test where it is absent.

    Looked for in the folder that the environment variable KDEDGE_DATA names, in `data/` of the project, and in `../shared/data` beside it.
    """
    given = os.environ.get("KDEDGE_DATA")
    folders = [*([Path(given)] if given else []), _ROOT / "data", _ROOT.parent / "shared" / "data"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"real data `{name}` is not in any of: {', '.join(str(folder) for folder in folders)} (set KDEDGE_DATA)")
