from __future__ import annotations

import sys
from pathlib import Path

import pytest

import kdedge
from kdedge.api import importable


def test_modules_beside_the_recipe_can_be_imported_inside_and_the_path_is_as_before_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.path)
    with importable(tmp_path):
        assert sys.path == [*before, str(tmp_path)]
    assert sys.path == before
    # A script in the recipe's folder has that folder first already, and keeps it there.
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    with importable(tmp_path):
        assert sys.path == before
    assert sys.path == before


def test_run_is_there_without_being_imported_before_it_is_used() -> None:
    from kdedge.api import run

    assert kdedge.run is run
    with pytest.raises(AttributeError, match="no `walk`"):
        _ = kdedge.walk
