"""Recipes as files: YAML in, a validated `Recipe` out, and the schema for editors."""

from __future__ import annotations

from kdedge.recipe_file.reading import load_recipe, read_recipe, recipe_schema
from kdedge.recipe_file.rules import load_rules

__all__ = ["load_recipe", "load_rules", "read_recipe", "recipe_schema"]
