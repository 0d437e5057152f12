"""What `docs/latency.md` says is what kdedge does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from kdedge.cli import app
from kdedge.gate import parse_policy
from kdedge.latency.verdicts import EXIT_CODES

PAGE = (Path(__file__).parents[2] / "docs" / "latency.md").read_text(encoding="utf-8")


def options(*command: str) -> set[str]:
    found: Any = get_command(app)
    for name in command:
        found = found.commands[name]
    return {option for parameter in found.params for option in parameter.opts}


def test_the_table_of_verdicts_is_that_of_the_exit_codes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\d) \|$", PAGE, re.MULTILINE)
    assert {state: int(code) for state, code in rows} == EXIT_CODES


def test_every_option_that_it_names_exists() -> None:
    known = options("check") | options("baseline", "set") | options("history") | options("compare")
    named = set(re.findall(r"(?<=[\s`])--[a-z][a-z-]*[a-z]", PAGE))
    assert named <= known
    assert {"--junit", "--markdown", "--html", "--time-budget", "--margin"} <= named


def test_its_commands_exist() -> None:
    program: Any = get_command(app)
    for line in re.findall(r"^    kdedge (.+)$", PAGE, re.MULTILINE):
        words = line.split()
        assert words[0] in program.commands, line
        if words[0] == "baseline":
            assert words[1] in program.commands["baseline"].commands


def test_its_budgets_are_rules_of_a_gate() -> None:
    (block,) = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    assert [rule.key for rule in parse_policy(yaml.safe_load(block)["gate"]).rules] == ["latency_median", "latency_p90"]


def test_its_test_is_one_that_pytest_reads() -> None:
    (block,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    compile(block, "docs/latency.md", "exec")
