"""constraints.txt pins whatever `pip install -e .[dev]` brings, so that every machine has the same."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS: dict[str, str] = {
    canonicalize_name(name): version
    for name, _, version in (line.strip().partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    if version
}


def own(extra: str) -> list[Requirement]:
    return [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]


def needed() -> dict[str, Requirement]:
    """Every distribution that the base and the extra `dev` lead to, by what is installed here."""
    found: dict[str, Requirement] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in PROJECT["dependencies"]] + own("dev")
    while waiting:
        requirement = waiting.pop()
        if requirement.name == PROJECT["name"]:
            waiting += [each for extra in requirement.extras for each in own(extra)]
            continue
        found[canonicalize_name(requirement.name)] = requirement
        step = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if step not in seen:
            seen.add(step)
            waiting += further(requirement)
    return found


def further(requirement: Requirement) -> Iterator[Requirement]:
    try:
        texts = metadata.requires(requirement.name) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{requirement.name} is not installed: `make setup` installs what development needs")
    for each in map(Requirement, texts):
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            yield each


def test_every_dependency_of_development_is_pinned_within_its_range() -> None:
    unpinned = sorted(name for name in needed() if name not in PINS)
    assert not unpinned, f"constraints.txt does not pin {', '.join(unpinned)}"
    outside = [f"{requirement} but =={PINS[name]}" for name, requirement in needed().items() if not requirement.specifier.contains(PINS[name], True)]
    assert not outside, "; ".join(outside)
    assert PINS["torch"] == "2.13.0"


def test_nothing_is_pinned_that_nobody_needs() -> None:
    assert sorted(set(PINS) - set(needed())) == []


def test_the_base_installs_neither_torch_nor_a_runtime() -> None:
    base = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert base == {"numpy", "pydantic", "pyyaml", "typer", "rich"}


def test_what_needs_another_torch_is_left_out_of_all() -> None:
    everything = {extra for requirement in own("all") for extra in requirement.extras}
    assert everything == set(PROJECT["optional-dependencies"]) - {"all", "dev", "vision", "tensorrt"}
