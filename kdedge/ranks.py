"""Several processes of one launch (`torchrun`, `accelerate launch`): the first does all the work, and shares what all can do together.

The others wait until they are called (`serve`), so that nothing is read, locked, measured or printed twice. A function that is marked
`everywhere` runs in all processes with the same arguments; they see the same disk.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from kdedge.errors import MissingExtra

P = ParamSpec("P")
R = TypeVar("R")

# What a process waits for may take days (a sweep, a profile of many launches). One that dies is noticed by the launcher at once.
_PATIENCE = timedelta(days=30)
# An error that every process meets is told by the first; the launcher ends the others within this time, in seconds, before they tell it too.
_GRACE = 5.0


@dataclass
class _Launch:
    """What this process knows of its launch: the group that orders go through, whether it leads, and whether all work together now."""

    group: Any = None
    leads: bool = False
    together: bool = False


@dataclass
class Outcome:
    """What the other processes get at the end."""

    value: Any = None


_launch = _Launch()


def processes() -> int:
    """How many processes were launched together; 1 without a launcher."""
    launched = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def waits() -> bool:
    """Whether this process is not the first of its launch."""
    return processes() > 1 and int(os.environ["RANK"]) > 0


def alone() -> bool:
    """Whether the other processes of the launch wait for this one, so that work which needs them all cannot begin."""
    return _launch.leads and not _launch.together


@contextmanager
def leading() -> Iterator[Outcome]:
    """In the first process: the others wait inside the block (in `serve`), and go on after it with the value of the outcome.

    Raises:
        MissingExtra: several processes were launched, and Accelerate is not installed.
    """
    outcome = Outcome()
    if processes() == 1 or _launch.leads:
        yield outcome
        return
    _connect()
    _launch.leads = True
    try:
        yield outcome
    finally:
        _launch.leads = False
        # After an error in the middle of common work nobody listens; the launcher ends the others.
        if not _launch.together:
            _broadcast((None, outcome.value))


def serve() -> Any:
    """In every process but the first: do what is shared until the first has ended its block, and return the value of its outcome.

    Raises:
        MissingExtra: as `leading`.
    """
    _connect()
    try:
        while True:
            order, value = _broadcast(None)
            if order is None:
                return value
            module, name, sys.path[:] = order
            arguments, named = value
            getattr(importlib.import_module(module), name)(*arguments, **named)
            _meet()
    except KeyboardInterrupt:
        sys.exit(2)  # the first process says so
    except Exception:  # whatever it is, it is raised again, after the first process, which met it too, has told it
        time.sleep(_GRACE)
        raise


def everywhere(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as one that all processes of a launch run together. Without a launch, or where all call it anyway, nothing changes."""

    @functools.wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        if not alone():
            return function(*arguments, **named)
        _broadcast(((function.__module__, function.__name__, list(sys.path)), (arguments, named)))
        _launch.together = True
        result = function(*arguments, **named)
        # What was written must not be moved while another process still looks at it.
        _meet()
        _launch.together = False
        return result

    return called


def _connect() -> None:
    if _launch.group is not None:
        return
    try:
        import torch
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "accelerate", "train", "running in several processes") from error
    # Without `cpu` Accelerate takes processes of a machine without an accelerator for strangers.
    owned = not torch.distributed.is_initialized()
    PartialState(cpu=not torch.accelerator.is_available())
    if owned:
        # Left to the end of the process, threads of the groups may outlive what they work for, which aborts the process.
        atexit.register(_disconnect)
    _launch.group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)


def _disconnect() -> None:
    from torch import distributed

    _launch.group = None
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _broadcast(value: Any) -> Any:
    """What the first process says, in every process."""
    from torch import distributed

    said = [value]
    distributed.broadcast_object_list(said, src=0, group=_launch.group)
    return said[0]


def _meet() -> None:
    from torch import distributed

    distributed.barrier(group=_launch.group)
