"""A gate policy in a file of its own: the `gate` section of a recipe, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdedge.errors import RecipeError
from kdedge.recipe_file.reading import text_of
from kdedge.recipe_file.sentences import shown
from kdedge.recipe_file.yaml_tree import parse


def load_rules(path: Path) -> dict[str, Any]:
    """Read a policy: a mapping of figure to rule, or a mapping with that under `gate`.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or holds no mapping.
    """
    found = parse(text_of(path, "; a policy is a file of rules such as `agreement_student: '>= 0.98'`"), str(path)).value
    rules = found.get("gate", found) if isinstance(found, dict) else found
    if not isinstance(rules, dict):
        raise RecipeError(f"{path}: a policy is a mapping such as `agreement_student: '>= 0.98'`, not {shown(rules)}")
    return rules
