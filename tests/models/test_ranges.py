"""Numbers with which a model of kdedge cannot be built are refused without building it, by the same rule as where it is built."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from kdedge.artifact import ImportPath
from kdedge.errors import ModelError
from kdedge.models import MODELS
from kdedge.models.catalog import check
from kdedge.models.ranges import RANGES, Range, check_ranges
from kdedge.models.signature import signature_of
from kdedge.recipe import ModelSection

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("cnn", {"width": 0}, "width is at least 1, not 0"),
    ("cnn", {"depth": -1}, "depth is at least 0, not -1"),
    ("cnn", {"stages": 11}, "stages is 1 to 10, not 11"),
    ("resnet20-cifar", {"width": 0}, "width is at least 1, not 0"),
    ("vgg8", {"width": -8}, "width is at least 1, not -8"),
    ("mobilenetv2", {"width": 0.0}, "width is more than 0, not 0.0"),
    ("mobilenetv2", {"depth": float("nan")}, "depth is more than 0, not nan"),
    ("mobilenetv2", {"dropout": 1.0}, "dropout is at least 0 and less than 1, not 1.0"),
    ("transformer-text", {"heads": 0}, "heads is at least 1, not 0"),
    ("transformer-text", {"heads": 3}, "width 128 cannot be split over 3 heads"),  # by the default width
    ("transformer-text", {"width": 10}, "width 10 cannot be split over 4 heads"),  # by the default heads
]


@pytest.mark.parametrize(("name", "arguments", "said"), WRONG)
def test_a_number_without_sense_is_refused_by_the_check_and_by_the_factory(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=f"model `kdedge:{name}`: arguments.{said}"):
        check(ModelSection(model=f"kdedge:{name}", arguments=arguments))
    offered = {"classes": 3, "vocabulary": 20, "max_length": 8}
    factory = ImportPath(MODELS[name])
    known = {key: value for key, value in offered.items() if signature_of(factory).takes(key)}
    with pytest.raises(ValueError, match=said):
        factory.load()(**known, **arguments)


def test_a_number_with_sense_is_not() -> None:
    for name, arguments in (("cnn", {"depth": 0, "stages": 10}), ("transformer-text", {"layers": 0}), ("mobilenetv2", {"width": 0.1}), ("vgg8", {})):
        check(ModelSection(model=f"kdedge:{name}", arguments=arguments))
    check_ranges("mine:factory", {"width": -3, "heads": 0})  # a user's own factory takes what it likes
    check_ranges("kdedge.models.vgg:vgg8", {"width": 10**400})  # no float


def test_every_model_has_ranges_for_arguments_that_it_takes() -> None:
    assert set(RANGES) == set(MODELS.values())
    for function, ranges in RANGES.items():
        assert set(ranges) <= set(signature_of(ImportPath(function)).parameters)


def test_a_range_says_what_it_holds() -> None:
    assert [str(one) for one in (Range(1), Range(1, 10), Range(0, above=True), Range(0, 1, below=True))] == [
        "at least 1",
        "1 to 10",
        "more than 0",
        "at least 0 and less than 1",
    ]
    assert [value for value in (0, 1, 10, 11) if Range(1, 10).holds(value)] == [1, 10]
    assert not Range(0).holds(float("inf"))


def test_the_check_does_without_torch() -> None:
    code = "import sys; from kdedge.models.catalog import check; from kdedge.recipe import ModelSection; "
    code += "check(ModelSection(model='kdedge:cnn', arguments={'width': 4})); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
