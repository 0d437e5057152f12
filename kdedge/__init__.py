"""kdedge takes a trained teacher and ships a small student that is proven to behave like it on a phone or a Jetson board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdedge.api import run as run

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> Any:
    # `import kdedge` stays light: the worker on a board and `kdedge --help` import this file too.
    if name == "run":
        from kdedge.api import run

        return run
    raise AttributeError(f"module `kdedge` has no `{name}`")
