"""The pytest plugin: a check within a person's own tests, and nothing at all where no test asks for it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from regression_world import make_world

from kdedge.regression.arms import WHOLE, Given, arms_of
from kdedge.regression.baselines import set_baseline

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
_CALL = "latency_check({baseline!r}, {candidate!r}, on={on!r}, sizes=('batch=1',){more})"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of tests with two models and simulated devices."""
    make_world(pytester.path, monkeypatch)
    return pytester


def run(
    suite: pytest.Pytester, on: str, *arguments: str, baseline: str = "before.onnx", candidate: str = "after.onnx", more: str = ""
) -> pytest.RunResult:
    call = _CALL.format(baseline=baseline, candidate=candidate, on=on, more=f", {more}" if more else "")
    suite.makepyfile(f"def test_latency(latency_check):\n    report = {call}\n    print('state', report.state)\n")
    return suite.runpytest_inprocess("-p", "kdedge.pytest_plugin", "-p", "no:cacheprovider", "-rA", *arguments)


def test_what_is_not_slower_passes_and_gives_its_report(suite: pytest.Pytester) -> None:
    result = run(suite, "same")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["state equivalent"])


def test_a_regression_fails_the_test_with_the_sentence_and_no_traceback(suite: pytest.Pytester) -> None:
    result = run(suite, "slower")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["regressed: median is slower by more than 3 %*"])
    assert "Traceback" not in result.stdout.str()
    assert "run_check" not in result.stdout.str()


def test_the_margin_is_the_users_own(suite: pytest.Pytester) -> None:
    run(suite, "slower", more="margin='15%'").assert_outcomes(passed=1)


def test_what_cannot_be_told_is_skipped_unless_asked_otherwise(suite: pytest.Pytester) -> None:
    result = run(suite, "loud")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*inconclusive: median cannot be told from 3 %*"])
    run(suite, "loud", more="inconclusive='fail'").assert_outcomes(failed=1)
    run(suite, "loud", more="inconclusive='pass'").assert_outcomes(passed=1)
    run(suite, "loud", "-o", "latency_inconclusive=fail").assert_outcomes(failed=1)
    refused = run(suite, "loud", "-o", "latency_inconclusive=perhaps")
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(["*latency_inconclusive = perhaps: it is one of skip, fail, pass*"])


def test_an_invalid_check_is_an_error_and_no_regression(suite: pytest.Pytester) -> None:
    result = run(suite, "hot")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*KdedgeError: invalid: *the CPU throttled because of heat*"])
    assert "regressed" not in result.stdout.str()
    assert "checking.py" not in result.stdout.str()


def test_a_kept_baseline_goes_by_its_name(suite: pytest.Pytester) -> None:
    kept = arms_of(suite.path / "before.onnx", Given(sizes=("batch=1",)), suite.path / "inputs")[WHOLE]
    set_baseline("released", kept, "local", {}, suite.path / ".kdedge" / "baselines")
    run(suite, "slower", baseline="released").assert_outcomes(failed=1)
    run(suite, "same", baseline="released").assert_outcomes(passed=1)


def test_a_missing_file_is_named(suite: pytest.Pytester) -> None:
    result = run(suite, "same", candidate="absent.onnx")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*absent.onnx: there is no such file*"])


def test_unused_it_loads_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, pytest\n"
        "code = pytest.main(['-p', 'kdedge.pytest_plugin', '-p', 'no:cacheprovider', '--help'])\n"
        "print('code', int(code), [name for name in ('numpy', 'onnx', 'torch', 'sqlalchemy', 'yaml', 'typer') if name in sys.modules])\n"
    )
    variables = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=variables, check=True)
    assert ended.stdout.splitlines()[-1] == "code 0 []"
    assert "latency_inconclusive" in ended.stdout


def test_pytest_finds_it_by_an_entry_point_of_the_modules_own_name() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entries == {"kdedge.pytest_plugin": "kdedge.pytest_plugin"}
