"""Recipes that run whole in about a second, for tests that break them: 48 tiny images, networks of a few hundred weights."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from command_line import Ended

Plain = dict[str, Any]
Change = Callable[[Plain], Any]

SMALL: Plain = {"model": "kdedge:cnn", "arguments": {"width": 4, "depth": 0, "stages": 2}}
BASE: Plain = {
    "name": "small",
    "task": "image-classification",
    "data": {"train": "npz:data.npz", "test": "npz:data.npz", "calibration": 16},
    "teacher": {**SMALL, "train": {"epochs": 1, "batch_size": 16}},
    "student": SMALL,
    "distill": {"epochs": 1, "batch_size": 16, "losses": [{"ce": 1.0}, {"kd": 1.0, "temperature": 2}]},
    "export": [{"target": "onnxruntime-x86", "precision": ["fp32"]}],
    "profile": {"launches": 1, "warmup_seconds": 0, "warmup_iterations": 1, "min_seconds": 0.01, "min_iterations": 2},
}
# Texts whose last word is their label.
SENTENCES = "sentence\tlabel\n" + "".join(f"a film of year {year} was {('bad', 'fine')[year % 2]}\t{year % 2}\n" for year in range(40))
TEXTS: Plain = {"train": "tsv:train.tsv", "test": "tsv:test.tsv", "max_length": 16, "calibration": 16, "tokenizer": {"vocabulary": 128}}
TINY_TRANSFORMER: Plain = {"model": "kdedge:transformer-text", "arguments": {"width": 8, "heads": 2, "layers": 1}}

_STAGE = re.compile(r"(\w+\.\w+(?: \S+)*?)\s+(cached|[\d.]+ s)")
_numbers = itertools.count()


def arrays(**changes: Any) -> dict[str, npt.NDArray[Any]]:
    """48 training and 24 test images of 8x8 in three classes, each brightest in one colour; an array that is changed to None is left out."""
    generator = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for split, size in (("train", 48), ("test", 24)):
        labels = np.arange(size, dtype=np.int64) % 3
        images = generator.integers(0, 60, (size, 8, 8, 3)).astype(np.uint8)
        images[np.arange(size), :, :, labels] += np.uint8(150)
        made |= {f"x_{split}": images, f"y_{split}": labels}
    return {name: array for name, array in {**made, **changes}.items() if array is not None}


def write(folder: Path, change: Change | None = None, data: dict[str, Any] | None = None, **sections: Any) -> Path:
    """`folder/recipe.yaml`, and its data in `folder/data.npz`; a section that is given as None is left out."""
    content = {**deepcopy(BASE), **sections}
    if change is not None:
        change(content)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **(arrays() if data is None else data))
    path = folder / "recipe.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), encoding="utf-8")
    return path


def write_texts(folder: Path, change: Change | None = None, train: str | bytes = SENTENCES, test: str | bytes = SENTENCES) -> Path:
    """The same for a text task, with its data in `train.tsv` and `test.tsv`."""

    def for_texts(content: Plain) -> None:
        content |= {"task": "text-classification", "data": deepcopy(TEXTS), "student": deepcopy(TINY_TRANSFORMER)}
        content["teacher"] = {**deepcopy(TINY_TRANSFORMER), "train": {"epochs": 1, "batch_size": 16}}
        if change is not None:
            change(content)

    path = write(folder, for_texts)
    for name, content in (("train", train), ("test", test)):
        (folder / f"{name}.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def module(folder: Path, code: str) -> str:
    """A module of the user's beside the recipe; its name, which no other test has."""
    name = f"mine_{next(_numbers)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")
    return name


def kdedge(*arguments: object) -> Ended:
    """The program with these arguments, within this process."""
    from kdedge.cli import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["kdedge", *map(str, arguments)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = argv
    return Ended(code, out.getvalue(), err.getvalue())


def run(recipe: Path, *arguments: object, command: str = "run") -> Ended:
    """`kdedge run RECIPE` with a workspace beside the recipe."""
    return kdedge(command, recipe, "--workspace", recipe.parent / "workspace", *arguments)


def refused(ended: Ended, *words: str) -> None:
    """The command ended as bad input must: with code 2 and, last on standard error, an error that holds these words."""
    said = " ".join(ended.err.split())
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert "defect of kdedge" not in said, ended.err
    assert ended.code == 2, f"exit code {ended.code}: {ended.out}{ended.err}"
    for word in words:
        assert word in said, f"no `{word}` in: {ended.err}"


def stages(ended: Ended) -> dict[str, bool]:
    """The stages that a command finished, and whether each was read from the cache."""
    return {found[1]: found[2] == "cached" for line in ended.err.splitlines() if (found := _STAGE.fullmatch(line.strip()))}


def cells(ended: Ended, code: int = 0) -> dict[str, tuple[str, str]]:
    """`TARGET PRECISION` -> status and reason, of a command that ended with this exit code and was asked for --json."""
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert ended.code == code, ended.err
    artifacts = json.loads(ended.out.splitlines()[-1])["artifacts"]
    return {f"{cell['target']} {cell['precision']}": (cell["status"], cell["reason"]) for cell in artifacts}
