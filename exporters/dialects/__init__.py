"""How Q/DQ are written for one family of kernels: one file a dialect. Named here, imported when they are used."""

from __future__ import annotations

DIALECTS: dict[str, str] = {
    "onnxruntime-x86": "kdedge.exporters.dialects.onnxruntime_x86:DIALECT",
    "onnxruntime-x86-avx2": "kdedge.exporters.dialects.onnxruntime_x86:AVX2",
    "onnxruntime-arm": "kdedge.exporters.dialects.onnxruntime_arm:DIALECT",
    "phone-xnnpack": "kdedge.exporters.dialects.phone_xnnpack:DIALECT",
    "openvino": "kdedge.exporters.dialects.openvino:DIALECT",
    "openvino-avx2": "kdedge.exporters.dialects.openvino:AVX2",
    "tensorrt": "kdedge.exporters.dialects.tensorrt:DIALECT",
    "qnn-htp": "kdedge.exporters.dialects.qnn_htp:DIALECT",
    "qnn-htp-16": "kdedge.exporters.dialects.qnn_htp:SIXTEEN_BITS",
}
