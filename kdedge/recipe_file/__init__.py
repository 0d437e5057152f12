"""Recipes as files: YAML in, a validated `Recipe` out, and the schema for editors."""

from __future__ import annotations

from kdedge.recipe_file.reading import load_recipe, recipe_schema

__all__ = ["load_recipe", "recipe_schema"]
