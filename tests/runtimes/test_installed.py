"""The version of a runtime is the same whether it was imported or not."""

from __future__ import annotations

import sys
from importlib import metadata
from types import ModuleType

import pytest

from kdedge.runtimes.installed import version_of


def test_a_version_does_not_depend_on_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ModuleType("numpy")
    loaded.__version__ = "2.0-with-the-hash-of-a-build"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy", loaded)
    assert version_of("numpy", ("nothing-of-this-name", "numpy")) == metadata.version("numpy")


def test_a_module_of_no_distribution_says_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ModuleType("vendors_runtime")
    loaded.__version__ = "10.3"  # type: ignore[attr-defined]
    assert version_of("vendors_runtime", ("vendors-runtime",)) == ""
    monkeypatch.setitem(sys.modules, "vendors_runtime", loaded)
    assert version_of("vendors_runtime", ("vendors-runtime",)) == "10.3"
