"""A runtime adapter that misbehaves on request, for tests of what a worker's death becomes.

It imports nothing of kdedge, so that it can stand beside the real adapters in any copy of them. Option `do`: what happens in the first `run`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Availability:
    available: bool
    reason: str = ""
    version: str = "1.0"


@dataclass(frozen=True)
class Layer:
    name: str
    operator: str
    dtype: str
    provider: str


def is_available() -> Availability:
    return Availability(True)


def version() -> str:
    return "1.0"


def open_session(paths: Sequence[str], options: Mapping[str, Any]) -> Any:
    return fake_session(str(options.get("do", "double")))


def fake_session(do: str = "double") -> Any:
    """A session for a test in this process. It only looks like one of kdedge's, hence `Any`."""
    return FakeSession(do)


class FakeSession:
    """Doubles its only input, or does what it was told."""

    input_names = ("image",)
    output_names = ("doubled",)

    def __init__(self, do: str) -> None:
        self._do = do
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(len(inputs["image"]))
        if self._do == "segfault":
            ctypes.string_at(0)
        elif self._do == "hang":
            print("about to hang", file=sys.stderr, flush=True)
            time.sleep(600)
        elif self._do == "allocate":
            import resource

            limit = 1 << 30
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            np.ones(1 << 32, dtype=np.uint8)
        elif self._do == "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._do == "raise":
            raise ValueError("the kernel does not like this input\nsecond line of a long story")
        elif self._do == "exit":
            print("licence expired", file=sys.stderr, flush=True)
            os._exit(7)
        elif self._do == "leave":
            sys.exit("not today")
        elif self._do == "lose a row":
            return {"doubled": inputs["image"][1:] * 2}
        return {"doubled": inputs["image"] * 2}

    def executed(self) -> list[Layer]:
        return [Layer("double", "Mul", "fp32", "fake")]

    def facts(self) -> dict[str, Any]:
        return {"environment": dict(os.environ)}

    def close(self) -> None:
        pass
