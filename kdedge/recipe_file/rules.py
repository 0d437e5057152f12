"""A gate policy in a file of its own: the `gate` section of a recipe, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kdedge.errors import RecipeError


def load_rules(path: Path) -> dict[str, Any]:
    """Read a policy: a mapping of figure to rule, or a mapping with that under `gate`.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: is not YAML: {error}") from error
    rules = found.get("gate", found) if isinstance(found, dict) else found
    if not isinstance(rules, dict):
        raise RecipeError(f"{path}: a policy is a mapping such as `agreement_student: '>= 0.98'`, not a {type(rules).__name__}")
    return rules
