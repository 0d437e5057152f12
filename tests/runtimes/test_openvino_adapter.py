"""OpenVINO's own account of the precision that it ran in, and what the adapter promises around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_models import write_images, write_net, write_quantized

from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.openvino import OpenVinoSession, open_session
from kdedge.runtimes.session import ExecutedLayer

pytest.importorskip("openvino")


def opened(path: Path, **options: object) -> OpenVinoSession:
    return open_session([str(path)], {"threads": 1, **options})


def ran(path: Path, tmp_path: Path, **options: object) -> list[ExecutedLayer]:
    session = opened(path, **options)
    session.run({"image": write_images(tmp_path / "x.npy", 2)})
    return session.executed()


def dtypes_of(operator: str, layers: list[ExecutedLayer]) -> list[str]:
    return [layer.dtype for layer in layers if layer.operator == operator]


def cpu_has(feature: str) -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and feature in path.read_text()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net") / "net.onnx")


def test_the_f32_hint_is_what_runs(net: Path, tmp_path: Path) -> None:
    layers = ran(net, tmp_path, inference_precision="f32")
    assert dtypes_of("Convolution", layers) == ["fp32", "fp32"]
    assert {layer.dtype for layer in layers} <= {"fp32", "other"}


@pytest.mark.skipif(not cpu_has("avx512_bf16"), reason="this CPU has no bf16 arithmetic")
@pytest.mark.parametrize("options", [{}, {"inference_precision": "bf16"}])
def test_without_a_hint_a_float_net_runs_in_bf16_and_is_reported_so(net: Path, tmp_path: Path, options: dict[str, str]) -> None:
    assert dtypes_of("Convolution", ran(net, tmp_path, **options)) == ["bf16", "bf16"]
    session = opened(net, **options)
    assert session.facts()["effective"]["inference_precision_hint"] == "bf16"


def test_what_the_device_made_of_the_options_is_told(net: Path) -> None:
    facts = opened(net, inference_precision="f32", threads=1).facts()
    assert facts["options"]["inference_precision"] == "f32"
    assert facts["effective"] | {"inference_precision_hint": "f32", "inference_num_threads": 1, "execution_devices": ["CPU"]} == facts["effective"]


def test_a_quantized_net_runs_its_convolutions_as_integers(net: Path, tmp_path: Path) -> None:
    layers = ran(write_quantized(tmp_path / "q.onnx", net), tmp_path, inference_precision="f32")
    assert dtypes_of("Convolution", layers) == ["int8", "int8"]
    assert set(dtypes_of("FakeQuantize", layers)) <= {"other"}


def test_constants_inputs_and_what_is_computed_once_from_weights_are_no_layers(net: Path, tmp_path: Path) -> None:
    layers = ran(net, tmp_path, inference_precision="f32")
    assert not {"Const", "Input", "Output"} & {layer.operator for layer in layers}
    assert len(layers) <= 9  # two convolutions, add, pool, flatten, linear and at most three reorders of activations


def test_outputs_equal_those_of_onnxruntime_and_belong_to_the_caller(net: Path, tmp_path: Path) -> None:
    from kdedge.runtimes.onnxruntime import open_session as open_onnxruntime

    images = write_images(tmp_path / "x.npy", 3)
    session = opened(net, inference_precision="f32")
    assert (session.input_names, session.output_names) == (["image"], ["logits"])
    first = session.run({"image": images})["logits"]
    assert np.allclose(first, open_onnxruntime([str(net)], {}).run({"image": images})["logits"], atol=1e-5)
    kept = first.copy()
    session.run({"image": images * 2})
    assert np.array_equal(first, kept)


def test_a_read_only_input_is_taken_and_left_alone(net: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "x.npy", 2)
    session = opened(net, inference_precision="f32")
    expected = session.run({"image": images})["logits"]
    mapped = np.asarray(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert np.array_equal(session.run({"image": mapped})["logits"], expected)
    assert np.array_equal(mapped, images)


def test_an_input_of_another_dtype_is_an_error_and_no_silent_cast(net: Path) -> None:
    with pytest.raises(RuntimeFailure, match="input `image` is float64, the graph takes float32"):
        opened(net).run({"image": np.zeros((1, 3, 8, 8))})


def test_an_ir_with_its_weights_beside_it_is_read(net: Path, tmp_path: Path) -> None:
    from kdedge.runtimes.openvino import import_runtime

    runtime = import_runtime()
    runtime.save_model(runtime.Core().read_model(str(net)), str(tmp_path / "net.xml"), compress_to_fp16=False)
    session = open_session([str(tmp_path / "net.xml"), str(tmp_path / "net.bin")], {"inference_precision": "f32"})
    images = write_images(tmp_path / "x.npy", 2)
    assert np.allclose(session.run({"image": images})["logits"], opened(net, inference_precision="f32").run({"image": images})["logits"], atol=1e-6)


def test_what_is_not_there_is_named(net: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.xml").write_text("<net/>")
    with pytest.raises(RuntimeFailure, match=r"openvino cannot open broken\.xml"):
        opened(tmp_path / "broken.xml")
    with pytest.raises(NotAvailable, match=r"there is no device TPU here \(there is: CPU"):
        opened(net, device="TPU")
    with pytest.raises(RuntimeFailure, match="`inference_precision` is 'int4'; allowed: f32, f16, bf16"):
        opened(net, inference_precision="int4")


def test_openvino_is_imported_without_its_telemetry() -> None:
    program = (
        "import sys; from kdedge.runtimes.openvino import import_runtime; import_runtime(); import openvino.tools.ovc as ovc; "
        "print(type(ovc.telemetry).__module__, [name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert result.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "[]"]


def test_packed_weights_are_multiplied_as_floats_where_dynamic_quantization_is_off(tmp_path: Path) -> None:
    from onnx_text import graph

    from kdedge.exporters.model_file import save_model
    from kdedge.exporters.weight_only import quantize_weights

    random = np.random.default_rng(0)
    weight = random.standard_normal((256, 256)).astype(np.float32)
    model = quantize_weights(graph("(float[b, l, 256] x) => (float[b, l, 256] y) { y = MatMul(x, w) }", w=weight)).model
    save_model(model, tmp_path / "packed.onnx")
    packed = next(value.const_value.numpy() for name, value in model.graph.initializers.items() if name == "w/int8" and value.const_value is not None)
    scales = next(
        value.const_value.numpy() for name, value in model.graph.initializers.items() if name == "w/scale" and value.const_value is not None
    )
    feed = {"x": random.standard_normal((1, 32, 256)).astype(np.float32)}
    session = opened(tmp_path / "packed.onnx", inference_precision="f32", dynamic_quantization=False)
    np.testing.assert_allclose(session.run(feed)["y"], feed["x"] @ (packed * scales), rtol=1e-4, atol=1e-3)
    assert dtypes_of("FullyConnected", session.executed()) == ["fp32"]


@pytest.mark.parametrize("failing", ["compiling", "running"])
def test_layers_are_read_back_where_the_device_cannot_time_them(net: Path, tmp_path: Path, failing: str) -> None:
    class Untimed:
        def create_infer_request(self) -> Untimed:
            return self

        def infer(self, *_: object, **__: object) -> None:
            raise RuntimeError("Performance counters were not enabled")  # as OpenVINO's own errors are

    def timed() -> Untimed:
        if failing == "compiling":
            raise RuntimeFailure("openvino cannot open net.onnx")
        return Untimed()

    session = opened(net, inference_precision="f32")
    session.run({"image": write_images(tmp_path / "x.npy", 2)})
    session._timed = timed
    layers = session.executed()
    assert dtypes_of("Convolution", layers) == ["fp32", "fp32"]
    assert {layer.milliseconds for layer in layers} == {None}
