"""README promises commands; each must be one that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_make_command_in_the_readme_is_a_target_of_the_makefile() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets, f"README names {named - targets}, which the Makefile does not have"


def test_every_kdedge_command_in_the_readme_is_one() -> None:
    from typer.main import get_command

    from kdedge.cli import app

    named = set(re.findall(r"^\s*(?:\.venv/bin/)?kdedge ([a-z]+)", README, flags=re.MULTILINE))
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert "run" in named
    assert named <= commands


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), f"README links to {target}, which is not there"


def test_the_first_screen_is_short() -> None:
    first = README.split("\n## ", 1)[0]
    assert len(first.splitlines()) < 40
    assert "](docs/" in first, "the first screen shows no picture of the report"
