"""The session options of `runtimes/onnxruntime.py`, as onnxruntime-web takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.onnxruntime import OPTIONS
from kdedge.runtimes.options import read_options

_PROVIDERS = {"CPUExecutionProvider": "wasm", "WebGpuExecutionProvider": "webgpu"}
_ENTRIES = {
    "spinning": ("intra_op", "allow_spinning"),
    "qdq_int8_allowed": ("qdqisint8allowed",),
    "unpack_weights": ("disable_quant_qdq",),
}


def web_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the page gives to onnxruntime-web: `provider` (wasm or webgpu), `threads` (None: its own choice), `session` (its session options).

    Raises:
        RuntimeFailure: an unknown option or value, or one that WebAssembly does not know.
        NotAvailable: an execution provider that no browser has.
    """
    effective = read_options("onnxruntime", options, OPTIONS)
    providers = [_PROVIDERS.get(str(name)) for name in effective["providers"]]
    if None in providers or not providers:
        raise NotAvailable(f"onnxruntime-web has no provider {', '.join(map(str, effective['providers']))} (it has: {', '.join(_PROVIDERS)})")
    if (effective["inter_threads"] or 1) > 1:
        raise RuntimeFailure("onnxruntime-web runs one operator at a time: leave session option `inter_threads` out")
    if effective["x64_quant_precision"]:
        raise RuntimeFailure("session option `x64_quant_precision` is for x86 machines: a browser does not know it")
    entries: dict[str, Any] = {}
    for name, path in _ENTRIES.items():
        if effective[name] is not None:
            inside = entries
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            inside[path[-1]] = "1" if effective[name] else "0"
    session = {"graphOptimizationLevel": effective["optimization"], "extra": {"session": entries}}
    return {"provider": "webgpu" if "webgpu" in providers else "wasm", "threads": effective["threads"], "session": session, "effective": effective}
