"""A session option that is misspelt, of another type or out of range is an error that names what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from kdedge.runtimes import ADAPTERS, adapter
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.options import Option, read_options

TABLE = {
    "threads": Option(int, "how many", minimum=1),
    "level": Option(str, "how far", "all", ("none", "all")),
    "spinning": Option(bool, "whether"),
}


def test_absent_options_have_their_defaults_and_given_ones_win() -> None:
    assert read_options("r", {}, TABLE) == {"threads": None, "level": "all", "spinning": None}
    assert read_options("r", {"threads": 2, "level": "none", "spinning": False}, TABLE) == {"threads": 2, "level": "none", "spinning": False}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thread": 1}, r"unknown session option `thread`; did you mean `threads`\? \(allowed: level, spinning, threads\)"),
        ({"threads": "1"}, r"`threads` must be int, not '1' \(how many\)"),
        ({"threads": True}, "`threads` must be int, not True"),
        ({"threads": 0}, "`threads` is 0; it must be at least 1"),
        ({"level": "some"}, "`level` is 'some'; allowed: none, all"),
        ({"spinning": 1}, "`spinning` must be bool, not 1"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        read_options("r", options, TABLE)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_every_adapter_refuses_an_unknown_option_before_it_opens_anything(runtime: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"{runtime}: unknown session option `colour`"):
        adapter(runtime).open_session(["absent"], {"colour": 1})


def test_an_unknown_runtime_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RuntimeFailure, match="no runtime `tflite`; allowed: onnxruntime, openvino, tensorrt, torch"):
        adapter("tflite")


@pytest.mark.parametrize("runtime", sorted(ADAPTERS))
def test_every_adapter_says_whether_it_can_run_here_without_raising(runtime: str) -> None:
    module = adapter(runtime)
    answer = module.is_available()
    assert answer.available or answer.reason
    assert isinstance(module.version(), str)
    assert callable(module.open_session)
