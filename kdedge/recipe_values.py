"""How single values of a recipe are read: paths relative to its folder, sources and models by prefix, conditions; and what all sections share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo

# Readers and models whose argument is a file or folder: it is relative to the recipe, like every path in it.
PATH_READERS = ("npz", "folder", "tsv")
PATH_MODELS = ("onnx", "transformers")
# Models whose file or folder holds the weights already.
COMPLETE_MODELS = PATH_MODELS
# Models that kdedge builds by name, which have no weights of their own.
NAMED_MODELS = ("kdedge", "torchvision", "timm")
MODEL_FORMS = "kdedge:NAME, torchvision:NAME, timm:NAME, transformers:FOLDER, onnx:FILE or package.module:factory"
_CONDITION = re.compile(r"(>=|<=|>|<)\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*[^\s\d<>=]*")


def _absolute(path: str | Path, info: ValidationInfo) -> Path:
    base = info.context.get("base") if info.context else None
    # Not the methods of Path: those raise RuntimeError for a link to itself, and for the home of a user who does not exist.
    return Path(path) if base is None else Path(os.path.realpath(Path(base) / os.path.expanduser(path)))  # noqa: PTH111


def _prefixed(value: str, prefixes: tuple[str, ...], info: ValidationInfo) -> str:
    prefix, _, rest = value.partition(":")
    return f"{prefix}:{_absolute(rest, info)}" if prefix in prefixes else value


def _source(value: str, info: ValidationInfo) -> str:
    reader, _, argument = value.partition(":")
    if not reader or not argument:
        raise ValueError(f"`{value}` does not say how to read it: write READER:ARGUMENT, such as npz:data/cifar10.npz or folder:data/photos")
    return _prefixed(value, PATH_READERS, info)


def _model(value: str, info: ValidationInfo) -> str:
    prefix, _, rest = value.partition(":")
    if not prefix or not rest:
        raise ValueError(f"`{value}` is not a model: write {MODEL_FORMS}")
    return _prefixed(value, PATH_MODELS, info)


def _condition(value: str) -> str:
    # What each figure allows is the gate's business, and so is `require: all`.
    if value != "all" and not _CONDITION.fullmatch(value.strip()):
        example = '">= 0.98" or "<= 2 ms" (`require` takes all, or a list of targets)'
        raise ValueError(f"`{value}` is not a condition: write a comparison (>=, <=, > or <), a number and its unit, such as {example}")
    return value


def _rule_or_names(value: Any) -> str:
    return "names" if isinstance(value, list | tuple) else "rule"


def one_or_many(value: Any) -> str:
    """Which of two forms a value has, for pydantic: `many` (a list) or `one`."""
    return "many" if isinstance(value, list | tuple) else "one"


def preset_or_numbers(value: Any) -> str:
    """Which of two forms a normalisation has, for pydantic: `numbers` (a section) or `preset` (a name)."""
    return "numbers" if isinstance(value, dict | BaseModel) else "preset"


# Relative to the recipe's folder, absolute once loaded (as it is where a recipe is made in Python).
RecipePath = Annotated[Path, AfterValidator(_absolute)]
Source = Annotated[str, AfterValidator(_source)]
ModelName = Annotated[str, AfterValidator(_model)]
Rule = Annotated[
    Annotated[str, AfterValidator(_condition), Tag("rule")] | Annotated[tuple[str, ...], Tag("names")],
    Discriminator(_rule_or_names),
]
Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1)]
Value = TypeVar("Value", bound=str)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen.

    `exclude=True` marks what no stage's key holds: how the work is done (how often it is saved, how long it may take), not what comes out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
