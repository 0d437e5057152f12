"""The adapter from `open_session` to `close`, on simulated CUDA; parsing and building are TensorRT-RTX's real ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from kdedge.runtimes import ADAPTERS, cuda, tensorrt
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure

DYNAMIC = {"profiles": {"image": [[1, 3, 4, 4], [2, 3, 4, 4], [4, 3, 4, 4]]}}
HERE = Path(__file__).parent


def images(count: int, seed: int = 0, dtype: str = "float32") -> Any:
    return np.random.default_rng(seed).random((count, 3, 4, 4)).astype(dtype)


def expected(path: Path, image: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image})[0]


def opened(module: Any, path: Path, **options: Any) -> Any:
    module.graph = path
    if "profiles" in options:
        module.profiles = options["profiles"]
    return tensorrt.open_session([str(path)], options)


def test_outputs_are_the_graphs_and_belong_to_the_caller(simulated_tensorrt: Any, graphs: Any) -> None:
    path = graphs.float()
    session = opened(simulated_tensorrt, path)
    assert (session.input_names, session.output_names) == (["image"], ["logits"])
    first = session.run({"image": images(1, 1)})["logits"]
    kept = first.copy()
    second = session.run({"image": images(1, 2)})["logits"]
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(first, expected(path, images(1, 1)), rtol=1e-6)
    np.testing.assert_allclose(second, expected(path, images(1, 2)), rtol=1e-6)
    session.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_inputs_of_any_layout_arrive_as_they_are(simulated_tensorrt: Any, graphs: Any, dtype: str) -> None:
    path = graphs.float(dtype)
    session = opened(simulated_tensorrt, path)
    image = np.asfortranarray(images(1, dtype=dtype))
    np.testing.assert_allclose(session.run({"image": image})["logits"], expected(path, image), rtol=1e-3)
    session.close()


def test_a_dynamic_batch_takes_every_size_of_its_profile(simulated_tensorrt: Any, graphs: Any) -> None:
    path = graphs.float(batch="N")
    session = opened(simulated_tensorrt, path, **DYNAMIC)
    for count in (2, 4, 1, 3):
        image = images(count, count)
        np.testing.assert_allclose(session.run({"image": image})["logits"], expected(path, image), rtol=1e-6)
    with pytest.raises(RuntimeFailure, match=r"input `image` has shape \[5, 3, 4, 4\]; the engine takes \[1, 3, 4, 4\] to \[4, 3, 4, 4\]"):
        session.run({"image": images(5)})
    np.testing.assert_allclose(session.run({"image": images(2)})["logits"], expected(path, images(2)), rtol=1e-6)
    session.close()


def test_the_devices_clock_tells_copies_and_kernels_apart(simulated_tensorrt: Any, graphs: Any) -> None:
    session = opened(simulated_tensorrt, graphs.float())
    assert session.facts()["device_times_ms"] == {"copy_in": [], "compute": [], "copy_out": []}
    for _ in range(3):
        session.run({"image": images(1)})
    facts = session.facts()
    assert facts["device_times_ms"] == {"copy_in": [0.25] * 3, "compute": [1.5] * 3, "copy_out": [0.5] * 3}
    assert facts["runs"] == 3
    json.dumps(facts)
    session.close()


def test_the_record_says_which_device_and_how_the_engine_came_to_be(simulated_tensorrt: Any, graphs: Any) -> None:
    session = opened(simulated_tensorrt, graphs.float())
    facts = session.facts()
    session.close()
    assert {name: facts[name] for name in ("module", "version", "device", "compute_capability", "cuda_runtime", "tf32")} == {
        "module": "tensorrt",
        "version": "10.3.0",
        "device": "Simulated Orin",
        "compute_capability": "8.7",
        "cuda_runtime": "12.6",
        "tf32": False,
    }
    assert facts["engine"]["built_here"]
    assert facts["engine"]["build_seconds"] > 0
    again = opened(simulated_tensorrt, graphs.float())
    assert again.facts()["engine"] == {**facts["engine"], "built_here": False, "build_seconds": 0.0, "reason": ""}
    again.close()


def test_executed_layers_come_from_the_inspector_of_either_schema(simulated_tensorrt: Any, graphs: Any) -> None:
    session = opened(simulated_tensorrt, graphs.float())
    for version, first in ((10, "Reformat"), (11, "Convolution")):
        simulated_tensorrt.inspection = json.loads((HERE / f"constructed_inspector_{version}.json").read_text())
        layers = session.executed()
        assert layers[0].operator == first
        assert {layer.provider for layer in layers} == {"tensorrt"}
    session.close()


def test_closing_gives_everything_back_and_ends_the_session(simulated_tensorrt: Any, simulated_cuda: Any, graphs: Any) -> None:
    session = opened(simulated_tensorrt, graphs.float())
    session.run({"image": images(1)})
    assert simulated_cuda.live == 2 * 2 + 1 + 4  # two sides of two tensors, a stream, four events
    session.close()
    session.close()
    assert simulated_cuda.live == 0
    with pytest.raises(RuntimeFailure, match="this session is closed"):
        session.run({"image": images(1)})


def test_a_session_that_cannot_open_gives_back_what_it_took(simulated_tensorrt: Any, simulated_cuda: Any, graphs: Any) -> None:
    simulated_cuda.fail["cudaEventCreate"] = 2
    with pytest.raises(RuntimeFailure, match="cudaEventCreate failed: out of memory"):
        opened(simulated_tensorrt, graphs.float())
    assert simulated_cuda.live == 0


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({}, r"input `image` is missing \(given: none\)"),
        ({"picture": images(1)}, r"input `image` is missing \(given: picture\)"),
        ({"image": images(1), "mask": images(1)}, r"`mask` is no input of this engine \(inputs: image\)"),
        ({"image": images(1).astype(np.float64)}, "input `image` is float64; the engine takes float32"),
        ({"image": images(1)[0]}, r"has shape \[3, 4, 4\]; the engine takes \[1, 3, 4, 4\]"),
    ],
)
def test_a_wrong_input_is_named(simulated_tensorrt: Any, graphs: Any, inputs: dict[str, Any], complaint: str) -> None:
    session = opened(simulated_tensorrt, graphs.float())
    with pytest.raises(RuntimeFailure, match=complaint):
        session.run(inputs)
    session.close()


def test_a_failed_kernel_shows_up_in_the_run_that_launched_it(simulated_tensorrt: Any, simulated_cuda: Any, graphs: Any) -> None:
    session = opened(simulated_tensorrt, graphs.float())
    simulated_cuda.fail["cudaStreamSynchronize"] = 700
    with pytest.raises(RuntimeFailure, match=r"illegal memory access was encountered.*this process cannot use CUDA any more"):
        session.run({"image": images(1)})
    simulated_cuda.fail.clear()
    session.close()


def test_an_engine_that_tensorrt_cannot_read_is_built_again_once(simulated_tensorrt: Any, graphs: Any) -> None:
    opened(simulated_tensorrt, graphs.float()).close()
    simulated_tensorrt.refuse = 1
    session = opened(simulated_tensorrt, graphs.float())
    assert session.facts()["engine"]["built_here"]
    session.close()
    simulated_tensorrt.refuse = 2
    with pytest.raises(RuntimeFailure, match="could not be opened as an engine: Serialization assertion failed"):
        opened(simulated_tensorrt, graphs.float())


def test_an_engine_file_is_opened_where_it_was_built(simulated_tensorrt: Any, graphs: Any, tmp_path: Path) -> None:
    opened(simulated_tensorrt, graphs.float()).close()
    (engine,) = (tmp_path / "engines").glob("*.engine")
    session = tensorrt.open_session([str(engine)], {})
    assert session.facts()["engine"]["built_here"] is False
    session.close()
    simulated_tensorrt.__version__ = "10.7.0"
    with pytest.raises(RuntimeFailure, match=r"was built by tensorrt 10.3.0 .* this machine has tensorrt 10.7.0"):
        tensorrt.open_session([str(engine)], {})


def test_a_type_that_numpy_does_not_have_is_refused_at_the_border(simulated_tensorrt: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["image"], ["logits"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1]) for name in ("image", "logits")]
    path = tmp_path / "double.onnx"
    save(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    simulated_tensorrt.graph = path
    engine = simulated_tensorrt.Runtime(None).deserialize_cuda_engine(b"")
    with pytest.raises(RuntimeFailure, match="`image` is DOUBLE at the graph's border"):
        tensorrt.TensorRTSession(simulated_tensorrt, None, (None, None, engine), {})  # type: ignore[arg-type]


def test_available_says_no_cuda_device_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(names: Any = None) -> Any:
        raise NotAvailable("no CUDA device: this machine has no NVIDIA driver (libcuda.so.1)")

    monkeypatch.setattr(cuda, "load_library", none)
    found = tensorrt.is_available()
    assert not found.available
    assert found.reason == "no CUDA device: this machine has no NVIDIA driver (libcuda.so.1)"
    with pytest.raises(NotAvailable, match=r"^no CUDA device"):
        tensorrt.open_session(["model.onnx"], {})


def test_available_on_a_device_with_a_supported_tensorrt(simulated_tensorrt: Any) -> None:
    assert tensorrt.is_available().available
    assert tensorrt.is_available().version == tensorrt.version() == "10.3.0"
    assert tensorrt.import_runtime() is simulated_tensorrt
    simulated_tensorrt.__version__ = "8.5.2"
    found = tensorrt.is_available()
    assert (found.available, found.version) == (False, "8.5.2")
    assert found.reason.startswith("tensorrt 8.5.2 is too old")


def test_a_device_without_tensorrt_says_what_to_install(simulated_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "load_library", lambda names=None: simulated_cuda)
    monkeypatch.setattr(tensorrt, "version_of", lambda module, distributions: "")
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    found = tensorrt.is_available()
    assert not found.available
    assert "pip install tensorrt" in found.reason
    assert tensorrt.version() == ""


def test_an_unknown_option_is_named_before_anything_is_opened() -> None:
    with pytest.raises(RuntimeFailure, match=r"tensorrt: unknown session option `workspace`; did you mean `workspace_mb`"):
        tensorrt.open_session(["model.onnx"], {"workspace": 3})


def test_the_adapter_is_known_and_imports_no_tensorrt_by_itself() -> None:
    assert ADAPTERS["tensorrt"] == "tensorrt"
    assert isinstance(tensorrt, ModuleType)
