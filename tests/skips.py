"""What a test may be skipped for on a machine that `.ci/run` has prepared. All else it installs: there a skip would hide a missing install step."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any

import pytest

EXPECTED = (
    r"no CUDA device",
    r"this machine has a CUDA device",
    r"this CPU has no bf16 arithmetic",
    r"`make data` has not been run",
    r"real data `\w+` is not in any of",
    r"benchmarks/foreign_models\.py fetches it",
    r"need another torch: `make test-vision` runs this",
    r"[Nn]o [Pp]ython ?3\.[678]",
    r"this Python 3\.8 has no numpy",
    r"the table holds for",
    # A container without the rights, or another system.
    r"the right to mount a small file system",
    r"only root can mount a file system",
    r"no file system can be mounted here",
    r"another file system$",
    r"^needs Linux|^needs a Linux|depends on the machine|does not have$|through /proc$|/dev/full",
)


def is_expected(reason: str) -> bool:
    """Whether a prepared machine may lack what a test was skipped for."""
    return any(re.search(pattern, reason) for pattern in EXPECTED)


def judged(report: Any) -> Any:
    """A report of pytest's; a skip that is not expected becomes a failure."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
        if not is_expected(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing that it needs may be missing (CI is set; see tests/skips.py): {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Of each test, where CI says that it is one."""
    report = yield
    return judged(report) if os.environ.get("CI") else report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """The same of each file that was skipped whole."""
    report = yield
    return judged(report) if os.environ.get("CI") else report
