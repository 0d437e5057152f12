"""What every runtime adapter gives. An adapter is one module with three functions and a class:

    is_available() -> Availability           never raises; says why not and what would help
    version() -> str                         of the runtime, "" where it is not installed
    open_session(paths, options) -> Session  imports the runtime; `paths` as in a job's artifact, the main file first

It may have a fourth, `import_runtime()`: imports the runtime (and nothing that phones home), so that the worker can time that apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

try:
    from typing import Protocol
except ImportError:  # pragma: no cover - Python 3.7 and older are refused by the worker anyway
    Protocol = object  # type: ignore[assignment]


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can run here; `reason` says why not and what would help, `version` is the runtime's own."""

    available: bool
    reason: str = ""
    version: str = ""


@dataclass(frozen=True)
class ExecutedLayer:
    """One layer as it really ran: the runtime's name for it, the operator or kernel, the dtype that it computed in, and who ran it.

    `sources`: names of nodes of the file that the runtime says are inside; empty where it does not tell. `milliseconds`: what the layer took by
    the runtime's own clock in the middle of a few inferences, None where the runtime times no layers.
    """

    name: str
    operator: str
    dtype: str
    provider: str
    sources: Tuple[str, ...] = ()
    milliseconds: Optional[float] = None


class Session(Protocol):
    """An opened artifact. `run` takes and gives dicts of contiguous arrays by graph name; the arrays returned belong to the caller."""

    input_names: Sequence[str]
    output_names: Sequence[str]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """One inference, finished when it returns (device work is synchronised)."""

    def executed(self) -> List[ExecutedLayer]:
        """What really ran, layer by layer, read back from the runtime after at least one `run`."""

    def facts(self) -> Dict[str, Any]:
        """What else should be on record: providers that are active, effective options, device clock times where there are any."""

    def close(self) -> None:
        """Give the runtime's memory back; the session cannot be used after."""
