"""From an exception to a sentence and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kdedge.errors import KdedgeError


@contextmanager
def explained(debug: bool) -> Iterator[None]:
    """Print what went wrong as a sentence on standard error and exit; with `debug`, let the traceback through."""
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        _end("interrupted: finished stages are kept; run the same command again to go on", 2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(2)
    except KdedgeError as error:
        if debug:
            raise
        _end(f"{error.kind}: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        if debug:
            raise
        _end(missing(error), 2)
    except Exception as error:
        if debug:
            raise
        _end(f"unexpected {type(error).__name__}: {error}\nThis is a defect of kdedge; `--debug` shows where. Finished stages are kept.", 2)


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


def _end(sentence: str, code: int) -> None:
    sys.stdout.flush()
    print(sentence, file=sys.stderr)
    sys.exit(code)
