"""In CI a test that was skipped for want of something that CI installs has failed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from skips import judged


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("no CUDA device: this machine has no NVIDIA driver (libcuda.so.1)", "skipped"),
        ("this CPU has no bf16 arithmetic", "skipped"),
        ("needs OpenSSH's server (openssh-server)", "failed"),
        ("no Chromium is installed (looked for chromium)", "failed"),
        ("onnxruntime-web cannot be fetched: there is no npm", "failed"),
        ("PostgreSQL's server (package postgresql) is not installed", "failed"),
        ("could not import 'tensorrt_rtx': No module named 'tensorrt_rtx'", "failed"),
        ("no emulated arm64 here: qemu-aarch64-static is not installed", "failed"),
    ],
)
def test_what_ci_installs_is_never_a_reason_to_skip(reason: str, outcome: str) -> None:
    report = judged(SimpleNamespace(skipped=True, outcome="skipped", longrepr=("file.py", 1, f"Skipped: {reason}")))
    assert report.outcome == outcome
    assert (reason in report.longrepr) == (outcome == "failed")


def test_a_test_that_ran_is_left_as_it_is() -> None:
    report = SimpleNamespace(skipped=False, outcome="passed", longrepr=None)
    assert judged(report) is report
    assert report.outcome == "passed"


def test_a_skip_in_ci_really_fails_the_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest("from skips import pytest_make_collect_report, pytest_runtest_makereport")
    pytester.makepyfile(
        test_one="""
            import pytest
            def test_needs_a_server(): pytest.skip("needs OpenSSH's server")
            def test_needs_a_gpu(): pytest.skip("no CUDA device")
        """,
        test_two="""
            import pytest
            pytest.importorskip("no_such_package")
            def test_never_begun(): ...
        """,
    )
    for variable, counts in (("true", {"failed": 1, "skipped": 1, "errors": 1}), ("", {"skipped": 3})):
        monkeypatch.setenv("CI", variable)
        result = pytester.runpytest_inprocess("--continue-on-collection-errors")
        result.assert_outcomes(**counts)
