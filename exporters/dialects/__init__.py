"""How Q/DQ are written for one family of kernels: one file a dialect. Named here, imported when they are used."""

from __future__ import annotations

DIALECTS: dict[str, str] = {
    "onnxruntime-x86": "kdedge.exporters.dialects.onnxruntime_x86:DIALECT",
    "openvino": "kdedge.exporters.dialects.openvino:DIALECT",
    "tensorrt": "kdedge.exporters.dialects.tensorrt:DIALECT",
}
