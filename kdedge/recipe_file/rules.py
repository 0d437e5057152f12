"""A gate policy in a file of its own: the `gate` section of a recipe, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdedge.errors import RecipeError
from kdedge.recipe_file.sentences import shown
from kdedge.recipe_file.yaml_tree import parse


def load_rules(path: Path) -> dict[str, Any]:
    """Read a policy: a mapping of figure to rule, or a mapping with that under `gate`.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not a text file in UTF-8 (byte {error.start})") from error
    found = parse(text, str(path)).value
    rules = found.get("gate", found) if isinstance(found, dict) else found
    if not isinstance(rules, dict):
        raise RecipeError(f"{path}: a policy is a mapping such as `agreement_student: '>= 0.98'`, not {shown(rules)}")
    return rules
