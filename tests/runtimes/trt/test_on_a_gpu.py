"""The adapter on a real GPU with a real TensorRT. Skipped where there is none; the first thing to run on a new board:

python -m pytest tests/runtimes/trt/test_on_a_gpu.py -ra
python docs/hardware_page.py --record        runs this file and keeps on record which functions have now run on hardware
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kdedge.runtimes import cuda, tensorrt
from kdedge.runtimes.errors import RuntimeFailure

AVAILABLE = tensorrt.is_available()
pytestmark = pytest.mark.skipif(not AVAILABLE.available, reason=AVAILABLE.reason)

DYNAMIC = {"profiles": {"image": [[1, 3, 4, 4], [2, 3, 4, 4], [4, 3, 4, 4]]}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDEDGE_ENGINE_CACHE", str(tmp_path / "engines"))


def expected(path: Path, image: Any) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["logits"], {"image": image})[0]


def sqnr_db(golden: Any, found: Any) -> float:
    noise = np.sum((golden.astype(np.float64) - found.astype(np.float64)) ** 2)
    return float(10 * np.log10(np.sum(golden.astype(np.float64) ** 2) / max(noise, 1e-300)))


def test_the_device_says_what_it_is() -> None:
    device = cuda.open_cuda()
    assert device.device_name()
    assert device.compute_capability() >= (5, 0)
    assert device.device_count()[0] >= 1
    with pytest.raises(RuntimeFailure, match="out of memory"):
        device.malloc(1 << 60)


@pytest.mark.parametrize(("kind", "least", "dtype"), [("float32", 80.0, "fp32"), ("float16", 40.0, "fp16"), ("quantized", 30.0, "int8")])
def test_outputs_agree_with_onnx_runtime_and_the_inspector_names_the_type(graphs: Any, kind: str, least: float, dtype: str) -> None:
    path = graphs.quantized() if kind == "quantized" else graphs.float(kind)
    image = np.random.default_rng(0).random((1, 3, 4, 4)).astype("float16" if kind == "float16" else "float32")
    session = tensorrt.open_session([str(path)], {})
    try:
        found = session.run({"image": image})["logits"]
        assert sqnr_db(expected(path, image), found) > least
        assert dtype in {layer.dtype for layer in session.executed()}
    finally:
        session.close()


def test_a_dynamic_batch_and_the_cache_of_engines(graphs: Any) -> None:
    path = graphs.float(batch="N")
    for built in (True, False):
        session = tensorrt.open_session([str(path)], DYNAMIC)
        for count in (2, 4, 1):
            image = np.random.default_rng(count).random((count, 3, 4, 4)).astype(np.float32)
            assert sqnr_db(expected(path, image), session.run({"image": image})["logits"]) > 80
        facts = session.facts()
        assert facts["engine"]["built_here"] is built
        assert all(len(times) == 3 and min(times) > 0 for times in facts["device_times_ms"].values())
        session.close()


def test_a_shape_outside_of_the_profile_is_refused_and_the_session_lives_on(graphs: Any) -> None:
    session = tensorrt.open_session([str(graphs.float(batch="N"))], DYNAMIC)
    with pytest.raises(RuntimeFailure, match="the engine takes"):
        session.run({"image": np.zeros((5, 3, 4, 4), np.float32)})
    assert session.run({"image": np.zeros((2, 3, 4, 4), np.float32)})["logits"].shape == (2, 8, 4, 4)
    session.close()
