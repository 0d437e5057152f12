"""What holds for every test."""

from __future__ import annotations

import contextlib
import importlib
import os

import pytest
import signal_stack
from hypothesis import settings
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  # pytest finds them here

pytest_plugins = ["pytester"]

# Properties hold on a loaded machine too: how long an example takes says nothing.
settings.register_profile("kdedge", deadline=None)
settings.load_profile("kdedge")

# torch.compile needs setuptools, which refuses to be imported once something else has loaded the standard library's distutils.
with contextlib.suppress(ImportError):
    importlib.import_module("setuptools")

# ONNX Runtime reports to its maker as soon as it is imported, which some tests do on their own.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_STACK = pytest.StashKey[signal_stack.Stack | None]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_STACK] = signal_stack.read()


def pytest_runtest_teardown(item: pytest.Item) -> None:
    signal_stack.put_back(item.stash.get(_STACK, None))
