"""PyTorch: a `.pt2` file that `torch.export.save` wrote, run as it is on the CPU.

A program may carry the names of its inputs and outputs as an extra file `kdedge.json`: {"inputs": [...], "outputs": [...]}, in the order of
the arguments and of the returned values. Without it the names are those of the exported function's parameters and returned dict.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import NotAvailable, RuntimeFailure
from .executed import OTHER, dtype_named
from .installed import is_installed, version_of
from .options import Option, read_options
from .session import Availability, ExecutedLayer

NAMES_FILE = "kdedge.json"

OPTIONS: Dict[str, Option] = {
    "threads": Option(int, "threads inside an operator; holds for the whole process", minimum=1),
}

# Members of an archive that are unpickled without the `weights_only` filter.
_CODE_MEMBERS = ("custom_obj_", "opaque_obj_")
_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"

# Operators that compute no activation, whatever the type of the data that they touch.
_MOVE_WORDS = (
    "view reshape flatten permute transpose t squeeze unsqueeze expand clone contiguous cat stack slice select split chunk narrow alias "
    "detach _to_copy to copy pad constant_pad_nd index index_select gather repeat getitem sym_size lift_fresh_copy empty full zeros "
    "ones arange"
)
_MOVES = frozenset(_MOVE_WORDS.split())


def is_available() -> Availability:
    """Whether PyTorch is installed here."""
    if not is_installed("torch"):
        return Availability(False, "torch is not installed: pip install torch")
    return Availability(True, version=version())


def version() -> str:
    """Of the installed PyTorch, "" where there is none."""
    return version_of("torch", ("torch",))


def import_runtime() -> Any:
    """Import PyTorch.

    Raises:
        NotAvailable: it is not installed, or its libraries cannot be loaded.
    """
    try:
        import torch
        import torch.export
    except ImportError as error:
        raise NotAvailable("torch cannot be imported: %s; pip install torch" % error) from error
    return torch


def open_session(paths: Sequence[str], options: Mapping[str, Any]) -> TorchSession:
    """Load `paths[0]`.

    Raises:
        NotAvailable: PyTorch is not here.
        RuntimeFailure: an unknown option, a file that is no exported program, or one that holds pickled objects.
    """
    effective = read_options("torch", options, OPTIONS)
    torch = import_runtime()
    if effective["threads"] is not None:
        torch.set_num_threads(effective["threads"])
    program, names = _load(torch, paths[0])
    return TorchSession(torch, program, names, effective)


class TorchSession:
    """A loaded program. `native` is the callable module."""

    def __init__(self, torch: Any, program: Any, names: Mapping[str, Sequence[str]], options: Dict[str, Any]) -> None:
        self._torch = torch
        self._program = program
        self._options = options
        self.native: Any = program.module()
        self.input_names: Sequence[str] = list(names.get("inputs") or program.graph_signature.user_inputs)
        self.output_names: Sequence[str] = list(names.get("outputs") or _returned_names(program))
        # Inputs are mapped read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

    def run(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """One inference, without autograd.

        Raises:
            torch's own errors: an input's shape or dtype does not fit.
        """
        with self._torch.inference_mode():
            returned = self.native(*[self._torch.from_numpy(inputs[name]) for name in self.input_names])
        values = returned.values() if isinstance(returned, dict) else returned if isinstance(returned, (tuple, list)) else (returned,)
        return {name: np.ascontiguousarray(value.numpy()) for name, value in zip(self.output_names, values)}

    def executed(self) -> List[ExecutedLayer]:
        """The operators of the program: torch runs them one by one, in the dtype that the program states."""
        layers = []
        for node in self._program.graph.nodes:
            if node.op != "call_function":
                continue
            value = node.meta.get("val")
            value = value[0] if isinstance(value, (tuple, list)) and value else value
            name = str(getattr(node.target, "__name__", node.target))
            operator = name.split(".")[0]
            dtype = OTHER if operator in _MOVES else dtype_named(str(getattr(value, "dtype", "")).replace("torch.", ""))
            layers.append(ExecutedLayer(node.name, operator, dtype, "cpu"))
        return layers

    def facts(self) -> Dict[str, Any]:
        """The effective options and the threads that torch uses."""
        return {"options": self._options, "threads": self._torch.get_num_threads()}

    def close(self) -> None:
        """Drop the module."""
        self.native = None
        self._program = None


def _load(torch: Any, path: str) -> Tuple[Any, Dict[str, Sequence[str]]]:
    label = os.path.basename(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.rpartition("/")[2] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise RuntimeFailure("torch cannot open %s: it is no .pt2 archive (%s)" % (label, error)) from error
    pickled = [name for name in members if name.startswith(_CODE_MEMBERS)]
    if pickled:
        raise RuntimeFailure("torch: %s holds pickled objects (%s), which could run code: refused" % (label, ", ".join(pickled)))
    extra = {NAMES_FILE: ""}
    before: Optional[str] = os.environ.get(_FORCE_WEIGHTS_ONLY)
    # torch.export.load unpickles some tensors without the filter that keeps code out, unless it is told.
    os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        program = torch.export.load(path, extra_files=extra)
        names = json.loads(extra[NAMES_FILE]) if extra[NAMES_FILE] else {}
    except MemoryError:  # says nothing of itself; the worker knows what it means
        raise
    except Exception as error:
        raise RuntimeFailure("torch cannot open %s: %s" % (label, " ".join(str(error).split()))) from error
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before
    return program, names


def _returned_names(program: Any) -> List[str]:
    spec = program.call_spec.out_spec
    if spec is not None and spec.type is dict:
        return [str(key) for key in spec.context]
    count = len(program.graph_signature.user_outputs)
    return ["output"] if count == 1 else ["output_%d" % number for number in range(count)]
