"""What holds for every test."""

from __future__ import annotations

import os

# ONNX Runtime reports to its maker as soon as it is imported, which some tests do on their own.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
