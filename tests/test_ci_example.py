"""The workflow in `examples/ci/` is one that GitHub reads and that calls kdedge as it is."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from kdedge.cli import app

FILE = Path(__file__).parents[1] / "examples" / "ci" / "github-actions.yml"
TEXT = FILE.read_text(encoding="utf-8")
FLOW: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = FLOW["jobs"]["check"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step}


def options_of(command: str) -> set[str]:
    found: Any = get_command(app)
    for name in command.split():
        found = found.commands[name]
    return {option for parameter in found.params for option in parameter.opts}


def calls() -> list[tuple[str, list[str]]]:
    """Every call of kdedge: the command, and its words."""
    found = []
    for script in SCRIPTS.values():
        for line in script.replace("\\\n", " ").splitlines():
            if line.strip().startswith("kdedge "):
                words = shlex.split(line.partition(">")[0])[1:]
                command = " ".join(words[:2]) if words[0] == "baseline" else words[0]
                found.append((command, words))
    return found


def test_it_runs_on_pull_requests_and_pins_every_action_by_its_major_version() -> None:
    assert set(FLOW[True]) == {"pull_request", "workflow_dispatch"}  # `on` is a boolean to YAML 1.1
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) == 5
    assert all(re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@v\d+", each) for each in used)
    assert FLOW["permissions"] == {"contents": "read"}


def test_every_option_of_kdedge_that_it_names_exists() -> None:
    assert [command for command, _ in calls()] == ["baseline set", "check", "check"]
    for command, words in calls():
        given = {word for word in words if word.startswith("--")}
        assert given <= options_of(command), command
    assert {"--junit", "--markdown", "--html"} <= set(calls()[2][1])
    extras = tomllib.loads((FILE.parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.findall(r"pip install 'kdedge\[([^\]]+)\]'", TEXT) == ["onnx,history,report"]
    assert {extra for named in re.findall(r"kdedge\[([^\]]+)\]", TEXT) for extra in named.split(",")} <= set(extras)
    comments = " ".join(line for line in TEXT.splitlines() if line.lstrip().startswith("#"))
    assert set(re.findall(r"--[a-z][a-z-]+", comments)) <= options_of("check")


def test_only_the_default_branch_keeps_baselines_and_history() -> None:
    """A pull request reads the caches of its own branch first. If it kept one, it would go on with that baseline when a newer one was set."""
    (restored,) = (step for step in STEPS if step.get("uses", "").startswith("actions/cache/restore@"))
    (saved,) = (step for step in STEPS if step.get("uses", "").startswith("actions/cache/save@"))
    assert not any(step.get("uses", "").startswith("actions/cache@") for step in STEPS)
    assert restored["with"]["path"].split() == saved["with"]["path"].split() == [".kdedge/baselines", ".kdedge/history.sqlite"]
    assert saved["if"] == "github.event_name == 'workflow_dispatch'"
    assert saved["with"]["key"] == restored["with"]["key"]
    assert saved["with"]["key"].startswith(restored["with"]["restore-keys"])
    order = [step.get("name") for step in STEPS]
    assert order.index("Set the baseline") < order.index("See how noisy this runner is") < order.index(saved["name"])


def test_the_reports_are_kept_whatever_the_verdict() -> None:
    kept = next(step for step in STEPS if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert kept["if"].startswith("always()")
    written = set(re.findall(r"(?:--junit|--html|>) (\S+\.(?:xml|html|json))", SCRIPTS["Check the latency"]))
    assert all(file.startswith("latency/") or file in kept["with"]["path"].split() for file in written)
    assert len(written) == 3


@pytest.mark.parametrize(("code", "ends", "says"), [(0, 0, ""), (1, 1, "::error"), (2, 2, "::error"), (3, 0, "::warning"), (4, 4, "::error")])
def test_each_exit_code_ends_the_step_as_the_comments_say(code: int, ends: int, says: str, tmp_path: Path) -> None:
    ended = run_step("Check the latency", code, tmp_path)
    assert ended.returncode == ends
    assert ended.stdout.startswith(says)
    assert bool(ended.stdout) == bool(says)


@pytest.mark.parametrize("code", range(5))
def test_a_noisy_runner_costs_no_baseline(code: int, tmp_path: Path) -> None:
    ended = run_step("See how noisy this runner is", code, tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith("::warning") == (code != 0)


def run_step(name: str, code: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """A step's script, with a `kdedge` that ends with this code."""
    program = folder / "kdedge"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    variables = {**FLOW["env"], "GITHUB_STEP_SUMMARY": "summary.md", "PATH": f"{folder}:/usr/bin:/bin"}
    # GitHub's own way to run a step without `shell:` (docs: jobs.<job_id>.steps[*].shell).
    return subprocess.run(["bash", "-e", "-c", SCRIPTS[name]], cwd=folder, env=variables, capture_output=True, text=True, check=False)
