"""NVIDIA's Python module: which one is here, whether it is new enough, and what it says while it works.

Python 3.8, standard library only; the module is imported by `load_module` and nowhere else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import re
from typing import Any, Iterator, List, Optional, Tuple

from .errors import NotAvailable

MODULES = ("tensorrt", "tensorrt_rtx")
_OLDEST = {"tensorrt": (10, 0), "tensorrt_rtx": (1, 2)}


def load_module(name: Optional[str] = None) -> Any:
    """NVIDIA's Python module: `tensorrt` where it is installed, else `tensorrt_rtx`, or the one that is asked for.

    Raises:
        NotAvailable: none is installed, its libraries do not load, or it is TensorRT 8 or 9.
    """
    reasons = []
    for candidate in (name,) if name else MODULES:
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == candidate
            reasons.append("%s is not installed" % candidate if missing else "%s is installed but does not load: %s" % (candidate, error))
            continue
        require_supported(candidate, str(module.__version__))
        return module
    raise NotAvailable(
        "; ".join(reasons) + ". On a Jetson TensorRT comes with JetPack (python3-libnvinfer), elsewhere with: pip install tensorrt;"
        " to parse and build without a GPU: pip install tensorrt-rtx"
    )


def require_supported(name: str, version: str) -> None:
    """Refuse what is too old for one code path.

    Raises:
        NotAvailable: TensorRT 8 or 9 (JetPack 5 and older), or a TensorRT-RTX before compute capabilities could be chosen.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST[name]:
        oldest = "%d.%d" % _OLDEST[name]
        help_text = "; JetPack 5 and older are not supported: JetPack 6 brings TensorRT 10.3" if name == "tensorrt" else ""
        raise NotAvailable("%s %s is too old: kdedge needs %s or newer%s" % (name, version, oldest, help_text))


def make_logger(trt: Any) -> Any:
    """A logger that keeps (severity, text) of everything from INFO up in `lines` and prints nothing."""

    class Collector(trt.ILogger):  # type: ignore[misc]  # the base class exists only once TensorRT is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: List[Tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            name = str(severity).rsplit(".", 1)[-1]
            if name != "VERBOSE":
                self.lines.append((name, text))

    return Collector()


def said(logger: Any, *severities: str) -> List[str]:
    """What a collecting logger heard at these severities, each text once, without the address of the source file that said it."""
    texts = [re.sub(r"^\S+\.(cpp|h):\d+: ", "", text).strip() for severity, text in logger.lines if severity in severities]
    return list(dict.fromkeys(text for text in texts if "cudaError 35" not in text))


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No cyclic garbage collection inside.

    TensorRT holds a lock while it calls a logger that is written in Python. A collection that starts in there and finds an old builder or
    engine destroys it, and the destructor waits for the same lock, for ever: seen with tensorrt-rtx 1.7.1, where the old builder hung on
    the traceback of a refused graph. So its objects are made, used and dropped where no collection can start.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
