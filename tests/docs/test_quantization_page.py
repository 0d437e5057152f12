"""What `docs/quantization.md` shows is a section that a recipe takes as it stands, and it names every choice."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import get_args

import yaml

from kdedge.recipe import QuantizeSection

PAGE = (Path(__file__).parents[2] / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_its_snippet_is_a_section_of_a_recipe() -> None:
    snippet = textwrap.dedent("\n".join(line for line in PAGE.splitlines() if line.startswith("    ")))
    section = QuantizeSection.model_validate(yaml.safe_load(snippet)["quantize"])
    assert section.recover == ("normalization", "equalization", "adaptive_rounding", "bias_correction")
    assert section.aware is not None
    assert section.mixed is not None


def test_it_names_every_key_and_every_observer() -> None:
    observers = get_args(QuantizeSection.model_fields["observer"].annotation)
    for name in (*QuantizeSection.model_fields, *observers):
        assert f"`{name}`" in PAGE, name
