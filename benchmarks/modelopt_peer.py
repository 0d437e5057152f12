"""NVIDIA's ModelOpt as a quantizer for TensorRT, in an environment of its own (`make bench-modelopt` makes it).

Run: python benchmarks/modelopt_peer.py METHOD FIXED.onnx CALIBRATION.npz OUT.onnx

METHOD is `max` or `entropy`, the two that it has for int8. Calibrated on the CPU, the rest of the graph left in float32, as kdedge's int8 artifact
has it. Prints one line of JSON: seconds, and the peak memory of the process. Nothing of kdedge is imported here.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("method", choices=("max", "entropy"))
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

    with np.load(arguments.calibration, allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    begin = time.monotonic()
    quantize(
        str(arguments.model),
        quantize_mode="int8",
        calibration_data=feeds,
        calibration_method=arguments.method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(arguments.out),
        log_level="ERROR",
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.monotonic() - begin, "peak_memory_mb": peak}))


if __name__ == "__main__":
    main()
