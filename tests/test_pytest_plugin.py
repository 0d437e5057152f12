"""The pytest plugin: a check within a person's own tests, and nothing at all where no test asks for it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from regression_world import make_world

from kdedge.regression.arms import WHOLE, Given, arms_of
from kdedge.regression.baselines import set_baseline

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
SUITE = """
import contextlib

import pytest

MODELS = ("before.onnx", "after.onnx")
SIZES = {"sizes": ("batch=1",)}

def test_same(latency_check):
    assert latency_check(*MODELS, on="same", **SIZES).state == "equivalent"

def test_slower(latency_check):
    latency_check(*MODELS, on="slower", **SIZES)

def test_wide_margin(latency_check):
    latency_check(*MODELS, on="slower", margin="15%", time_budget="20s", **SIZES)

def test_loud(latency_check):
    latency_check(*MODELS, on="loud", **SIZES)

def test_loud_must_not_be(latency_check):
    latency_check(*MODELS, on="loud", inconclusive="fail", **SIZES)

def test_loud_is_fine(latency_check):
    assert latency_check(*MODELS, on="loud", inconclusive="pass", **SIZES).state == "inconclusive"

def test_hot(latency_check):
    latency_check(*MODELS, on="hot", **SIZES)

def test_kept(latency_check):
    latency_check("released", "after.onnx", on="slower", **SIZES)

def test_absent(latency_check):
    latency_check("before.onnx", "absent.onnx", on="same", **SIZES)

def test_nothing_stays_open(latency_check):
    from kdedge import devices
    latency_check(*MODELS, on="same", **SIZES)
    assert not devices._opened

def test_boards_are_let_go_before_another_worker_has_its_turn(latency_check, monkeypatch):
    from kdedge import devices, pytest_plugin
    seen = []

    @contextlib.contextmanager
    def alone(*_):
        seen.append(len(devices._opened))
        yield
        seen.append(len(devices._opened))

    monkeypatch.setattr(pytest_plugin, "_alone", alone)
    latency_check(*MODELS, on="same", **SIZES)
    assert seen == [0, 0]
"""

# What a check does is written down instead: when it began and when it ended.
SIDE_BY_SIDE = """
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

@pytest.mark.parametrize("number", range(4))
def test_one(latency_check, number, monkeypatch):
    def run_check(*arguments, **more):
        begun = time.monotonic()
        time.sleep(0.3)
        Path(f"{number}.txt").write_text(f"{begun} {time.monotonic()}")
        cell = SimpleNamespace(notes=(), state="equivalent", decisive=SimpleNamespace(verdict=SimpleNamespace(state="equivalent", reason="")))
        return SimpleNamespace(state="equivalent", cells=(cell,), lost=())
    monkeypatch.setattr("kdedge.regression.checking.run_check", run_check)
    latency_check("a.onnx", "b.onnx")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ElementTree.Element]:
    """The suite above, run once as a process of its own: the test cases of its JUnit file by name."""
    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        world = make_world(folder, patch)
        variables = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    kept = arms_of(world.before, Given(sizes=("batch=1",)), folder / "inputs")[WHOLE]
    set_baseline("released", kept, "local", {}, folder / ".kdedge" / "baselines")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "kdedge.pytest_plugin", "-p", "no:cacheprovider", "--junit-xml=junit.xml"]
    subprocess.run(command, cwd=folder, env=variables, capture_output=True, check=False)
    return {str(case.get("name")): case for case in ElementTree.parse(folder / "junit.xml").getroot().iter("testcase")}


def outcome(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")


def said(case: ElementTree.Element) -> str:
    child = next(child for child in case if child.tag in ("failure", "error", "skipped"))
    return f"{child.get('message')}\n{child.text}"


def test_what_is_not_slower_passes_and_gives_its_report(ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran["test_same"]) == "passed"
    properties = [each.get("value") for each in ran["test_same"].iter("property")]
    assert len(properties) == 1
    assert str(properties[0]).startswith("equivalent: median is not slower by 3 %")


@pytest.mark.parametrize("name", ["test_slower", "test_kept"])
def test_a_regression_fails_the_test_with_the_sentence_and_no_traceback(name: str, ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran[name]) == "failure"
    assert said(ran[name]).startswith("Failed: regressed: median is slower by more than 3 %: ")
    assert "latency_check(" not in said(ran[name])


def test_the_margin_is_the_users_own(ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran["test_wide_margin"]) == "passed"


def test_what_cannot_be_told_is_skipped_unless_asked_otherwise(ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran["test_loud"]) == "skipped"
    assert "inconclusive: median cannot be told from 3 %" in said(ran["test_loud"])
    assert outcome(ran["test_loud_must_not_be"]) == "failure"
    assert outcome(ran["test_loud_is_fine"]) == "passed"


def test_a_worker_lets_boards_go_within_its_turn(ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran["test_boards_are_let_go_before_another_worker_has_its_turn"]) == "passed"


def test_an_invalid_check_is_an_error_and_no_regression(ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran["test_hot"]) == "failure"
    assert "KdedgeError: " in said(ran["test_hot"])
    assert "invalid: " in said(ran["test_hot"])
    assert "the CPU throttled because of heat" in said(ran["test_hot"])
    assert "regressed" not in said(ran["test_hot"])


def test_what_is_missing_is_a_sentence_at_the_line_of_the_test(ran: dict[str, ElementTree.Element]) -> None:
    told = said(ran["test_absent"])
    assert "absent.onnx: there is no such file" in told
    assert 'latency_check("before.onnx", "absent.onnx"' in told
    assert "checking.py" not in told


def test_a_board_is_let_go_after_each_check(ran: dict[str, ElementTree.Element]) -> None:
    assert outcome(ran["test_nothing_stays_open"]) == "passed"


def test_workers_of_xdist_check_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "test_side_by_side.py").write_text(SIDE_BY_SIDE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "kdedge.pytest_plugin", "-p", "xdist", "-n", "2", f"--basetemp={tmp_path / 'temporary'}"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(command, cwd=tmp_path, env={**variables, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    times = sorted(tuple(map(float, (tmp_path / f"{number}.txt").read_text().split())) for number in range(4))
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(times))


def test_the_ini_file_says_what_inconclusive_means(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nlatency_inconclusive = perhaps\n")
    pytester.makepyfile("def test_latency(latency_check):\n    latency_check('before.onnx', 'after.onnx')\n")
    result = pytester.runpytest_inprocess("-p", "kdedge.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*latency_inconclusive = perhaps: it is one of skip, fail, pass*"])


def test_unused_it_loads_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, pytest\n"
        "code = pytest.main(['-p', 'kdedge.pytest_plugin', '-p', 'no:cacheprovider', '--help'])\n"
        "print('code', int(code), [name for name in ('numpy', 'onnx', 'torch', 'sqlalchemy', 'yaml', 'typer') if name in sys.modules])\n"
    )
    variables = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=variables, check=True)
    assert ended.stdout.splitlines()[-1] == "code 0 []"
    assert "latency_inconclusive" in ended.stdout


def test_pytest_finds_it_by_an_entry_point_of_the_modules_own_name() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entries == {"kdedge.pytest_plugin": "kdedge.pytest_plugin"}
