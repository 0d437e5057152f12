"""The quantizers that kdedge is compared with, each run in a process of its own in their own environment (`make bench-quantization` makes it).

Run: python benchmarks/quantization_peers.py PEER FIXED.onnx CALIBRATION.npz OUT [--memory GB]

Writes OUT (an `.onnx`, or an `.xml` with its `.bin`) and prints one line of JSON: seconds, and the peak memory of the process. Each is used as its
documentation recommends: ONNX Runtime's on a graph whose shapes were inferred and that was simplified, u8 activations and s8 weights a channel;
NNCF's with all calibration examples, instead of the first 300, with either preset, and with its more accurate bias correction (`-accurate-bias`).
For x86 CPUs without VNNI there is what both documentations name against saturation: weights of 7 bits, `reduce_range` (`-reduced`) or the overflow
fix of all layers (`-overflow-fix`), and for matrix products unsigned weights (`-unsigned`). Nothing of kdedge is imported here, so that no peer pays
for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(CI="true", NNCF_CI="1", ORT_DISABLE_TELEMETRY="1")  # nothing phones home
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--memory", type=float, default=12.0, help="GB of address space at most: beyond it the peer has failed")
    arguments = parser.parse_args()
    limit = int(arguments.memory * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.disable(logging.WARNING)
    with np.load(arguments.calibration, allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    begin = time.monotonic()
    PEERS[arguments.peer](arguments.model, feeds, arguments.out)
    seconds = time.monotonic() - begin
    print(json.dumps({"seconds": seconds, "peak_memory_mb": _peak_memory_mb()}))


def _peak_memory_mb() -> float:
    """The kernel's high-water mark since this program began; `ru_maxrss` would start at what the parent held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _examples(feeds: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for index in range(len(next(iter(feeds.values())))):
        yield {name: array[index : index + 1] for name, array in feeds.items()}


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------------


def _static(method: str, reduced: bool = False) -> Callable[[Path, dict[str, Any], Path], None]:
    def quantize(model: Path, feeds: dict[str, Any], out: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.examples = _examples(feeds)

            def get_next(self) -> dict[str, Any] | None:
                return next(self.examples, None)

        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(model), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=getattr(CalibrationMethod, method),
            reduce_range=reduced,
        )

    return quantize


def _dynamic(per_channel: bool, reduced: bool = False, signed: bool = True) -> Callable[[Path, dict[str, Any], Path], None]:
    def quantize(model: Path, feeds: dict[str, Any], out: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)  # which gives up on a length that is free
        kind = QuantType.QInt8 if signed else QuantType.QUInt8
        quantize_dynamic(str(prepared), str(out), weight_type=kind, per_channel=per_channel, reduce_range=reduced)

    return quantize


# ---- NNCF ------------------------------------------------------------------------------------------------------------------


def _nncf(preset: str, fast_bias: bool = True, overflow_fix: bool = False) -> Callable[[Path, dict[str, Any], Path], None]:
    def quantize(model: Path, feeds: dict[str, Any], out: Path) -> None:
        import nncf  # type: ignore[import-not-found]
        import openvino

        advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE) if overflow_fix else None
        examples = list(_examples(feeds))
        found = nncf.quantize(
            openvino.Core().read_model(str(model)),
            nncf.Dataset(examples),
            subset_size=len(examples),
            preset=getattr(nncf.QuantizationPreset, preset),
            fast_bias_correction=fast_bias,
            advanced_parameters=advanced,
        )
        openvino.save_model(found, str(out), compress_to_fp16=False)

    return quantize


_PRESETS = {"nncf": "PERFORMANCE", "nncf-mixed": "MIXED"}
_BIAS = {"": True, "-accurate-bias": False}
_OVERFLOW = {"": False, "-overflow-fix": True}

PEERS: dict[str, Callable[[Path, dict[str, Any], Path], None]] = {
    "onnxruntime-minmax": _static("MinMax"),
    "onnxruntime-entropy": _static("Entropy"),
    "onnxruntime-percentile": _static("Percentile"),
    **{f"onnxruntime-{method.lower()}-reduced": _static(method, reduced=True) for method in ("MinMax", "Entropy", "Percentile")},
    "onnxruntime-dynamic": _dynamic(False),
    "onnxruntime-dynamic-per-channel": _dynamic(True),
    "onnxruntime-dynamic-per-channel-reduced": _dynamic(True, reduced=True),
    "onnxruntime-dynamic-per-channel-unsigned": _dynamic(True, signed=False),
    **{
        f"{name}{bias}{overflow}": _nncf(preset, fast, fixed)
        for name, preset in _PRESETS.items()
        for bias, fast in _BIAS.items()
        for overflow, fixed in _OVERFLOW.items()
    },
}


if __name__ == "__main__":
    main()
