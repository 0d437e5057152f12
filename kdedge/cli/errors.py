"""From an exception to a sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from kdedge.cli.inspecting import printable
from kdedge.errors import KdedgeError

INTERRUPTED = "finished stages are kept; run the same command again to go on"


class Interrupted(KdedgeError):
    """The user pressed Ctrl-C."""

    kind = "interrupted"


@contextmanager
def explained(debug: bool) -> Iterator[None]:
    """Print what went wrong as a sentence on standard error and exit; with `debug`, let the traceback through."""
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        _end(f"{Interrupted.kind}: {INTERRUPTED}", 2)
    except BrokenPipeError:
        unread()
    except KdedgeError as error:
        if debug:
            raise
        _end(f"{error.kind}: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        if debug:
            raise
        _end(missing(error), 2)
    except OSError as error:
        if debug:
            raise
        _end(f"system error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""), 2)
    except MemoryError as error:
        if debug:
            raise
        _end(f"out of memory: {error or 'the system gave no more'}; finished stages are kept", 2)
    except Exception as error:
        if debug:
            raise
        _end(unexpected(error) if not _lacks_memory(error) else f"out of memory: {error}; finished stages are kept", 2)


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Inside the block SIGTERM, by which CI and service managers end a job, does what Ctrl-C does: what is finished is kept, workers are killed,
    boards are let go, and temporary folders go."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    # Only the main thread hears of signals; who is to outlive SIGTERM was started so.
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def unread() -> NoReturn:
    """Whoever read the output has gone (`kdedge ... | head`): end without a word, and never with a verdict's code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())  # Python flushes both once more at its end
    sys.exit(2)


# What each optional module comes with; the base installs none of them.
EXTRAS = {
    "torch": "train",
    "accelerate": "train",
    "safetensors": "train",
    "PIL": "train",
    "sklearn": "train",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "tokenizers": "text",
    "transformers": "text",
    "torchvision": "vision",
    "timm": "vision",
    "gymnasium": "rl",
    "optuna": "tune",
    "sqlalchemy": "history",
    "alembic": "history",
    "psycopg": "postgres",
    "adbutils": "devices",
    "segno": "devices",
    "jinja2": "report",
    "matplotlib": "report",
}


def missing(error: ModuleNotFoundError) -> str:
    """The sentence for a module that is not installed: which extra brings it."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(module)
    if extra is None:
        return f"the module `{error.name}` is not installed"
    return f"this needs `{module}`, which is not installed; it comes with: pip install 'kdedge[{extra}]'"


# torch raises a plain RuntimeError where memory is short, or where sizes are too large for any.
_NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed", "out of memory")


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def unexpected(error: Exception) -> str:
    """The sentence for an exception that nobody foresaw: of the user's own code, where it passed through that, else of kdedge."""
    what = f"{type(error).__name__}: {error}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    if own:
        return f"error in your own code: {what} ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}); finished stages are kept"
    return f"unexpected {what}\nThis is a defect of kdedge; `--debug` shows where. Finished stages are kept."


def _is_foreign(file: str) -> bool:
    """Whether a file belongs neither to kdedge, nor to Python, nor to an installed package."""
    path = Path(file)
    if not path.is_file():
        return False  # <frozen importlib>, <string>
    package = Path(__file__).parents[1]
    installed = sysconfig.get_paths()
    roots = [package, *(package / link for link in ("exporters", "runtimes", "devices"))]
    roots += [Path(installed[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not any(path.resolve().is_relative_to(root.resolve()) for root in roots)


def _end(sentence: str, code: int) -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
    print("\n".join(printable(line) for line in sentence.split("\n")), file=sys.stderr)
    sys.exit(code)
