"""From a float graph to what ships: each format, each precision, the same bytes again, nothing inside that tells where it was made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_text import graph
from small_graphs import residual
from torch import nn

from kdedge.artifact import (
    Artifact,
    CalibratedRanges,
    ChannelSizes,
    Dimension,
    FloatGraph,
    ImageEncoder,
    ImportPath,
    Lineage,
    ModelFiles,
    TensorSpec,
    TextEncoder,
)
from kdedge.errors import DialectError, ExportError
from kdedge.exporters.build import build
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.equivalence import run
from kdedge.exporters.float_graph import write_float_graph
from kdedge.exporters.metadata import read_properties
from kdedge.exporters.model_file import content_hash, load_model, save_model
from kdedge.exporters.openvino import write_ir
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.encoding import Encoding
from kdedge.exporters.quantize.ranges import write_table
from kdedge.exporters.smoothing import channel_sizes
from kdedge.exporters.torch_module import export_module
from kdedge.fidelity.audit import audit
from kdedge.models.load import Model, to_files
from kdedge.models.spec import ModelSpec
from kdedge.recipe import ExportSection, QuantizeSection
from kdedge.runtimes import onnxruntime as onnxruntime_runtime
from kdedge.runtimes import openvino as openvino_runtime
from kdedge.runtimes import torch as torch_runtime
from kdedge.targets import TARGETS

BATCH = Dimension("batch", 1, 8, 64)
IMAGE = (TensorSpec("image", "float32", (BATCH, 3, 8, 8)),)
LINEAGE = Lineage("recipe-hash", "teacher-hash", "student-hash", "graph-hash", "data-hash", "ranges-hash", {"torch": "2.13.0", "onnx": "1.23.2"})


class Net(nn.Module):
    """Wide enough that TensorRT's dialect quantizes its second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Linear(32, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(torch.relu(self.stem(image))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def net() -> Net:
    return Net()


@dataclasses.dataclass(frozen=True)
class Student:
    """A torch student, its float graph, and its ranges."""

    files: ModelFiles
    module: Model
    graph: FloatGraph
    ranges: CalibratedRanges


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    spec = ModelSpec(
        name="tests:net", factory=ImportPath(f"{__name__}:net"), arguments={}, weights=None, onnx=None, normalize=((0.4, 0.5, 0.6), (0.2, 0.2, 0.3)),
        encoder=ImageEncoder(size=(8, 8)), inputs=IMAGE, outputs=("logits",), classes=tuple("abcde"),
    )  # fmt: skip
    module = Model(net(), spec).eval()
    files = to_files(spec, module, folder)
    float_graph = export_module(module, IMAGE, ("logits",), folder / "model.onnx", name="net", encoder=spec.encoder, classes=spec.classes)
    table = observe(float_graph.path, [{"image": images(32)}], QuantizeSection())
    write_table(table, folder / "ranges.json")
    return Student(files, module, float_graph, CalibratedRanges(folder / "ranges.json", "minmax", 32, float_graph.sha256))


@pytest.fixture
def made(student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Artifact]:
    """`made("openvino", "fp16")` builds the student; a second call gets a folder of its own."""
    monkeypatch.setattr("kdedge.models.load.load", lambda files: student.module)
    count = iter(range(20))

    def make(target: str, precision: str, batch: Any = None, **options: Any) -> Artifact:
        folder = tmp_path / f"build{next(count)}"
        folder.mkdir()
        dialect = ImportPath(DIALECTS[TARGETS[target].dialect]) if TARGETS[target].dialect in DIALECTS else None
        export = ExportSection(target=target, precision=(precision,), batch=batch, options=options)  # type: ignore[arg-type]
        ranges = student.ranges if precision == "int8" else None
        return build(TARGETS[target], precision, dialect, student.graph, student.files, ranges, export, LINEAGE, folder=folder)

    return make


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(count).random((count, 3, 8, 8), dtype=np.float32)


def reference(student: Student, batch: int) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return np.asarray(student.module(torch.from_numpy(images(batch)))["logits"])


def logits(artifact: Artifact, batch: int) -> np.ndarray[Any, Any]:
    """The artifact's answer, from the runtime that it is for (TensorRT's ONNX from ONNX Runtime)."""
    main = [str(path) for path in artifact.main.files]
    if artifact.runtime == "openvino":
        return openvino_runtime.open_session(main, artifact.options).run({"image": images(batch)})["logits"]
    if artifact.format == "ort":
        return onnxruntime_runtime.open_session(main, artifact.options).run({"image": images(batch)})["logits"]
    if artifact.runtime == "torch":
        return torch_runtime.open_session(main, artifact.options).run({"image": images(batch)})["logits"]
    return run(artifact.main.files[0].read_bytes(), [{"image": images(batch)}])[0]["logits"]


CELLS = [
    ("onnxruntime-x86", "fp32", 1e-5), ("onnxruntime-x86", "fp16", 5e-3), ("onnxruntime-x86", "int8", 0.1), ("onnxruntime-x86", "int8-dynamic", 0.1),
    ("onnxruntime-x86", "int8-weights", 0.02), ("openvino", "int8-weights", 0.02), ("tensorrt", "int8-weights", 0.02),
    ("phone-xnnpack", "fp32", 1e-5), ("phone-xnnpack", "int8", 0.1), ("phone-xnnpack", "int8-dynamic", 0.1),
    ("openvino", "fp32", 1e-5), ("openvino", "fp16", 5e-2), ("openvino", "int8", 0.1),
    ("tensorrt", "fp32", 1e-5), ("tensorrt", "fp16", 5e-3), ("tensorrt", "int8", 0.1), ("torch", "fp32", 1e-6),
]  # fmt: skip


@pytest.mark.parametrize(("target", "precision", "tolerance"), CELLS, ids=[f"{target}-{precision}" for target, precision, _ in CELLS])
def test_every_cell_answers_like_the_student_and_has_the_same_bytes_again(
    student: Student, made: Callable[..., Artifact], target: str, precision: str, tolerance: float
) -> None:
    artifact = made(target, precision)
    batch = 1 if target != "torch" else 5
    wanted = reference(student, batch)
    assert np.abs(logits(artifact, batch) - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())

    again = made(target, precision)
    assert again.sha256 == artifact.sha256
    first = artifact.main.inputs[0].shape[0]
    assert first == (BATCH if target == "torch" else dataclasses.replace(BATCH, typical=1) if precision == "int8-dynamic" else 1)
    assert artifact.main.outputs == (TensorSpec("logits", "float32", (first, 5)),)
    assert artifact.size_bytes == sum(path.stat().st_size for path in artifact.main.files)
    assert artifact.sha256 == hashlib.sha256(b"".join(path.read_bytes() for path in artifact.main.files)).hexdigest()
    assert (artifact.target, artifact.precision, artifact.classes, artifact.lineage) == (target, precision, tuple("abcde"), LINEAGE)
    folder = artifact.main.files[0].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in artifact.main.files)
    for path in artifact.main.files:
        for trace in (str(folder), str(Path.cwd()), str(Path(__file__).parent), ".py", 'stack_trace":'):
            # A domain that each file in ORT format names.
            assert trace.encode() not in path.read_bytes().replace(b"org.pytorch.aten", b""), (path.name, trace)


def test_lineage_travels_inside_every_format(made: Callable[..., Artifact]) -> None:
    wanted = {
        "target": "onnxruntime-x86", "precision": "fp32", "recipe": "recipe-hash", "teacher": "teacher-hash", "student": "student-hash",
        "float_graph_sha256": "graph-hash", "data_fingerprint": "data-hash", "ranges_sha256": "ranges-hash",
        "tools": '{"onnx": "1.23.2", "torch": "2.13.0"}',
    }  # fmt: skip
    artifact = made("onnxruntime-x86", "fp32")
    assert read_properties(load_model(artifact.main.files[0])) == wanted
    assert '<teacher value="teacher-hash" />' in made("openvino", "fp32").main.files[0].read_text()
    extra = {"lineage.json": ""}
    torch.export.load(made("torch", "fp32").main.files[0], extra_files=extra)
    assert json.loads(extra["lineage.json"])["teacher"] == "teacher-hash"


def test_names_start_below_the_wrapper_that_only_kdedge_knows(student: Student) -> None:
    proto = onnx.load(student.graph.path)
    names = [node.name for node in proto.graph.node]
    assert names == ["normalize/Sub", "normalize/Div", "stem/Conv", "Relu", "conv/Conv", "Relu_1", "GlobalAveragePool", "Flatten", "fc/Gemm"]
    assert {"normalize.mean", "normalize.std", "stem.weight", "fc.bias"} <= {held.name for held in proto.graph.initializer}


def test_half_and_integers_are_smaller(made: Callable[..., Artifact]) -> None:
    weights = {precision: made("openvino", precision).main.files[1].stat().st_size for precision in ("fp32", "fp16", "int8")}
    assert weights["fp16"] < 0.55 * weights["fp32"]
    assert weights["int8"] < 0.35 * weights["fp32"]


def test_an_openvino_ir_holds_integer_weights_and_no_arithmetic_on_known_shapes(made: Callable[..., Artifact], student: Student) -> None:
    text, weights = (path for path in made("openvino", "int8").main.files)
    kinds = re.findall(r'type="(\w+)"', text.read_text())
    assert kinds.count("Convolution") == 2
    assert not {"ShapeOf", "Broadcast"} & set(kinds)
    stored = sum(tensor.numel() for name, tensor in student.module.state_dict().items() if name.endswith("weight"))
    assert re.findall(r'element_type="i8" shape="([^"]+)"', text.read_text())[:2] == ["16, 3, 3, 3", "32, 16, 3, 3"]
    assert weights.stat().st_size < 1.5 * stored


def test_an_ir_has_the_same_bytes_also_where_openvino_turns_weights_around(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    save_model(graph("(float[b, 4, 8] x) => (float[b, 4, 5] logits) { logits = MatMul(x, w) }", w=weight), tmp_path / "model.onnx")
    first, second = (write_ir(tmp_path / "model.onnx", tmp_path / f"{number}.xml", half=False, properties={})[0].read_bytes() for number in range(2))
    assert first == second
    assert b'name="logits"' in first


def test_onnx_runtime_runs_every_convolution_of_its_int8_artifact_on_integers(made: Callable[..., Artifact], tmp_path: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(made("onnxruntime-x86", "int8").main.files[0]), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == 2
    assert operators.count("QLinearGlobalAveragePool") == 1
    assert "Conv" not in operators


def test_tensorrt_int8_is_half_outside_of_q_and_dq_at_an_opset_and_ir_that_old_parsers_read(made: Callable[..., Artifact]) -> None:
    artifact = made("tensorrt", "int8")
    proto = onnx.load(artifact.main.files[0])
    assert (proto.opset_import[0].version, proto.ir_version) == (20, 9)
    model = load_model(artifact.main.files[0])
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    assert {value.dtype.name for node in convolutions for value in node.inputs} == {"FLOAT16"}
    assert [[value.producer().op_type for value in node.inputs[:2]] for node in convolutions] == [["DequantizeLinear"] * 2] * 2
    # The bias stays float, and what lies before the first Q (the normalisation) float32.
    assert all(node.inputs[2].producer() is None for node in convolutions)
    assert {value.dtype.name for node in model.graph if node.op_type in ("Sub", "Div") for value in node.outputs} == {"FLOAT"}


def test_tensorrt_artifacts_say_what_nvidias_parser_said(made: Callable[..., Artifact]) -> None:
    pytest.importorskip("tensorrt_rtx")
    for precision in ("fp16", "int8"):
        assert "parsed and built by tensorrt-rtx" in made("tensorrt", precision).checks["rtx-checked"]


def test_the_recipe_chooses_the_batch_and_the_options(made: Callable[..., Artifact], student: Student) -> None:
    artifact = made("onnxruntime-x86", "fp32", batch=4, threads=2, anything="the adapter will refuse it")
    assert artifact.main.inputs[0].shape[0] == 4
    assert artifact.options == {"threads": 2, "spinning": False, "anything": "the adapter will refuse it"}
    np.testing.assert_allclose(logits(artifact, 4), reference(student, 4), atol=1e-5)
    free = made("onnxruntime-x86", "fp32", batch="dynamic")
    assert free.main.inputs[0].shape[0] == BATCH
    np.testing.assert_allclose(logits(free, 7), reference(student, 7), atol=1e-5)
    assert made("openvino", "int8").options == {"threads": 1, "inference_precision": "f32"}
    assert made("openvino", "fp16").options == {"threads": 1}


def test_tensorrt_gets_profiles_where_shapes_stay_dynamic(made: Callable[..., Artifact]) -> None:
    assert "profiles" not in made("tensorrt", "fp32").options
    assert made("tensorrt", "fp32", batch="dynamic").options["profiles"] == {"image": [[1, 3, 8, 8], [8, 3, 8, 8], [64, 3, 8, 8]]}


def test_an_artifact_outside_of_its_dialects_grammar_is_never_made(made: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdedge.exporters.quantize.lower.encode_activation", lambda rows, dialect: Encoding(np.float32(0.5), 3))
    with pytest.raises(DialectError, match="the zero point is 3, this dialect wants 0"):
        made("tensorrt", "int8")


def test_a_fixed_shape_that_gives_other_outputs_is_refused(made: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    from kdedge.exporters import shapes

    honest = shapes.fix_shapes

    def wrong(model: ir.Model, sizes: dict[str, int]) -> ir.Model:
        fixed = honest(model, sizes)
        bias = fixed.graph.initializers["fc.bias"]
        bias.const_value = ir.tensor(np.full(5, 9, np.float32), name="fc.bias")
        return fixed

    monkeypatch.setattr(shapes, "fix_shapes", wrong)
    with pytest.raises(ExportError, match=r"fixing batch 1 changed the outputs by .* of their scale; use `batch: dynamic`"):
        made("onnxruntime-x86", "fp32")


def test_a_batch_outside_of_the_exported_range_is_refused(made: Callable[..., Artifact]) -> None:
    with pytest.raises(ExportError, match=r"batch 65 is outside of what the student was exported for \(1 to 64\)"):
        made("onnxruntime-x86", "fp32", batch=65)


def test_what_cannot_be_made_is_refused_with_what_can(made: Callable[..., Artifact], student: Student, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"target `torch` has no precision `int8` \(it has: fp32\)"):
        made("torch", "int8")
    target, export = TARGETS["onnxruntime-x86"], ExportSection(target="onnxruntime-x86", precision=("int8",))
    dialect = ImportPath(DIALECTS["onnxruntime-x86"])
    with pytest.raises(ExportError, match="int8 needs a dialect and a table of ranges"):
        build(target, "int8", dialect, student.graph, student.files, None, export, LINEAGE, folder=tmp_path)
    other = dataclasses.replace(student.ranges, model_sha256="another")
    with pytest.raises(ExportError, match="calibrated on another graph"):
        build(target, "int8", dialect, student.graph, student.files, other, export, LINEAGE, folder=tmp_path)
    unknown = dataclasses.replace(target, format="tflite")
    with pytest.raises(ExportError, match=r"no exporter for the format `tflite` \(there is: onnx, ort, openvino, pt2\)"):
        build(unknown, "fp32", dialect, student.graph, student.files, None, export, LINEAGE, folder=tmp_path)
    given = dataclasses.replace(student.files, factory=None, weights=None, onnx=student.graph.path)
    with pytest.raises(ExportError, match="target `torch` runs torch programs, and the student `tests:net` is an ONNX file"):
        build(
            TARGETS["torch"], "fp32", None, student.graph, given, None, ExportSection(target="torch", precision=("fp32",)), LINEAGE, folder=tmp_path
        )


def test_a_target_that_cannot_read_the_opset_refuses_the_graph(student: Student, tmp_path: Path) -> None:
    model = graph("(float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }", opset=21)
    inputs = (TensorSpec("x", "float32", (BATCH, 4)),)
    written = write_float_graph(
        model, tmp_path / "model.onnx", inputs=inputs, encoder=student.graph.encoder, classes=(), parameters=0, largest_difference=0.0
    )
    (tmp_path / "out").mkdir()
    export = ExportSection(target="tensorrt", precision=("fp32",))
    with pytest.raises(ExportError, match=r"reads opset 13 to 20 and IR version up to 9, the student's graph has opset 21 and IR version 10"):
        build(TARGETS["tensorrt"], "fp32", ImportPath(DIALECTS["tensorrt"]), written, student.files, None, export, LINEAGE, folder=tmp_path / "out")


OLD = """(float[batch, 16, 8, 8] image) => (float[batch, 16] logits) {
    c = Conv<pads = [1, 1, 1, 1]>(image, w) r = Relu(c) c2 = Conv<pads = [1, 1, 1, 1]>(r, w2) p = GlobalAveragePool(c2) logits = Flatten(p)
}"""


def test_half_scales_raise_an_old_opset_only_as_far_as_they_need(student: Student, tmp_path: Path) -> None:
    weights = {name: np.random.default_rng(len(name)).standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 for name in ("w", "w2")}
    inputs = (TensorSpec("image", "float32", (BATCH, 16, 8, 8)),)
    written = write_float_graph(
        graph(OLD, opset=17, **weights), tmp_path / "old.onnx", inputs=inputs, encoder=student.graph.encoder, classes=(), parameters=0,
        largest_difference=0.0,
    )  # fmt: skip
    calibration = np.random.default_rng(0).random((16, 16, 8, 8), dtype=np.float32)
    write_table(observe(written.path, [{"image": calibration}], QuantizeSection()), tmp_path / "ranges.json")
    ranges = CalibratedRanges(tmp_path / "ranges.json", "minmax", 16, written.sha256)
    (tmp_path / "out").mkdir()
    export = ExportSection(target="tensorrt", precision=("int8",))
    dialect = ImportPath(DIALECTS["tensorrt"])
    artifact = build(TARGETS["tensorrt"], "int8", dialect, written, student.files, ranges, export, LINEAGE, folder=tmp_path / "out")
    proto = onnx.load(artifact.main.files[0])
    assert (proto.opset_import[0].version, proto.ir_version) == (19, 9)
    feed = {"image": calibration[:1]}
    (wanted,), (found,) = run(written.path.read_bytes(), [feed]), run(artifact.main.files[0].read_bytes(), [feed])
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=0.05 * np.abs(wanted["logits"]).max())


TEXT = """(int64[batch, length] input_ids, int64[batch, length] attention_mask) => (float[batch, 3] logits) {
    e = Gather<axis = 0>(table, input_ids) m = Cast<to = 1>(attention_mask) u = Unsqueeze(m, last) w = Mul(e, u) s = ReduceSum<keepdims = 0>(w, words)
    n = ReduceSum<keepdims = 1>(m, words) a = Div(s, n) logits = Gemm<transB = 1>(a, fc, bias)
}"""


@pytest.mark.parametrize(
    ("target", "precision"), [("onnxruntime-x86", "int8-dynamic"), ("onnxruntime-x86", "fp16"), ("tensorrt", "fp16"), ("openvino", "fp32")]
)
def test_a_text_student_keeps_its_dynamic_length_and_int8_dynamic_its_batch_too(
    tmp_path: Path, student: Student, target: str, precision: str
) -> None:
    random = np.random.default_rng(1)
    model = graph(
        TEXT, table=random.standard_normal((50, 32)).astype(np.float32), fc=random.standard_normal((3, 32)).astype(np.float32),
        bias=np.zeros(3, np.float32), last=np.array([2]), words=np.array([1]),
    )  # fmt: skip
    length = Dimension("length", 1, 8, 32)
    inputs = tuple(TensorSpec(name, "int64", (BATCH, length)) for name in ("input_ids", "attention_mask"))
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    encoder = TextEncoder(tokenizer, 32, 0)
    written = write_float_graph(model, tmp_path / "model.onnx", inputs=inputs, encoder=encoder, classes=(), parameters=0, largest_difference=0.0)
    (tmp_path / "out").mkdir()
    export = ExportSection(target=target, precision=(precision,))  # type: ignore[arg-type]
    dialect = ImportPath(DIALECTS[TARGETS[target].dialect])
    artifact = build(TARGETS[target], precision, dialect, written, student.files, None, export, LINEAGE, folder=tmp_path / "out")
    free = precision == "int8-dynamic"
    batch = Dimension("batch", 1, 1, 64) if free else 1
    assert artifact.main.inputs == tuple(TensorSpec(spec.name, "int64", (batch, length)) for spec in inputs)
    assert artifact.main.outputs == (TensorSpec("logits", "float32", (batch, 3)),)
    assert artifact.batch == (1, not free)
    assert artifact.assets == (tokenizer,)
    for rows, size in ((1, 1), (3 if free else 1, 5), (1, 32)):
        feed = {"input_ids": random.integers(0, 50, (rows, size)), "attention_mask": np.ones((rows, size), np.int64)}
        (wanted,) = run(written.path.read_bytes(), [feed])
        files = [str(path) for path in artifact.main.files]
        found = (
            openvino_runtime.open_session(files, artifact.options).run(feed) if target == "openvino" else run(Path(files[0]).read_bytes(), [feed])[0]
        )
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=0.05 * np.abs(wanted["logits"]).max())


def test_openvino_tells_nobody_and_leaves_nothing_at_home(tmp_path: Path, student: Student) -> None:
    program = f"""
import sys
calls = []
sys.addaudithook(lambda event, arguments: calls.append(event) if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") else None)
from pathlib import Path
from kdedge.exporters.openvino import write_ir
write_ir(Path({str(student.graph.path)!r}), Path({str(tmp_path / "model.xml")!r}), half=False, properties={{}})
assert calls == [], calls
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program], env={"HOME": str(home), "PATH": ""}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []


def test_an_ir_is_compressed_where_float16_was_asked_for_and_nowhere_else(made: Callable[..., Artifact], student: Student) -> None:
    scalars = sum(tensor.numel() for tensor in student.module.state_dict().values())
    for precision in ("fp32", "int8", "int8-weights", "fp16"):
        text, weights = (path for path in made("openvino", precision).main.files)
        assert ('element_type="f16"' in text.read_text()) is (precision == "fp16"), precision
        if precision == "fp32":
            assert weights.stat().st_size >= 4 * scalars


ONNX_FILES = [
    (name, wanted)
    for name, row in sorted(TARGETS.items())
    if row.format in ("onnx", "ort")
    for wanted in ("int8", "fp32")
    if wanted in row.precisions
]


@pytest.mark.parametrize(("target", "precision"), ONNX_FILES)
def test_each_targets_file_has_an_opset_and_an_ir_version_within_its_dialect(made: Callable[..., Artifact], target: str, precision: str) -> None:
    dialect = ImportPath(DIALECTS[TARGETS[target].dialect]).load()
    artifact = made(target, precision)
    if artifact.format == "ort":
        lines = [line.split(";") for line in artifact.main.files[1].read_text().splitlines()]
        assert max(int(opset) for domain, opset, _ in lines if domain == "ai.onnx") <= dialect.maximum_opset
        return
    proto = onnx.load(artifact.main.files[0])
    opset = next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
    assert dialect.minimum_opset <= opset <= dialect.maximum_opset
    assert proto.ir_version <= dialect.maximum_ir


def test_float16_is_not_made_in_ort_format_and_the_reason_is_said(student: Student, tmp_path: Path) -> None:
    target = dataclasses.replace(TARGETS["phone-xnnpack"], precisions=("fp16",))
    export = ExportSection(target="phone-xnnpack", precision=("fp16",))
    with pytest.raises(ExportError, match="would bind float16 weights to float32 arithmetic on the phone"):
        build(target, "fp16", None, student.graph, student.files, None, export, LINEAGE, folder=tmp_path)


def test_what_ships_for_a_phone_is_the_file_that_answers_and_its_integers_are_read_back(made: Callable[..., Artifact], student: Student) -> None:
    artifact = made("phone-xnnpack", "int8")
    assert [path.name for path in artifact.main.files] == ["model.ort", "required_operators.config"]
    session = onnxruntime_runtime.open_session([str(path) for path in artifact.main.files], artifact.options)
    session.run({"image": images(1)})
    ran = {layer.operator: layer.dtype for layer in session.executed()}
    assert ran["QLinearConv"] == "int8"
    assert "QLinearConv" in artifact.main.files[1].read_text()
    assert "Conv" not in ran
    assert session.native.get_modelmeta().custom_metadata_map["kdedge.teacher"] == "teacher-hash"


def test_int8_dynamic_takes_the_sizes_of_channels_and_refuses_those_of_another_graph(student: Student, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    gamma = np.where(np.arange(32) < 2, 50, 1).astype(np.float32)
    text = "(float[batch, 32] x) => (float[batch, 3] logits) { n = LayerNormalization<axis = -1>(x, gamma) logits = MatMul(n, w) }"
    written = write_float_graph(
        graph(text, gamma=gamma, w=random.standard_normal((32, 3)).astype(np.float32)), tmp_path / "model.onnx",
        inputs=(TensorSpec("x", "float32", (BATCH, 32)),), encoder=student.graph.encoder, classes=(), parameters=0, largest_difference=0.0,
    )  # fmt: skip
    feeds = [{"x": random.standard_normal((8, 32)).astype(np.float32)} for _ in range(3)]
    sizes = channel_sizes(load_model(written.path), feeds)
    np.savez(
        tmp_path / "channels.npz", **{f"{name}/{what}": getattr(held, what) for name, held in sizes.items() for what in ("low", "high", "square")}
    )
    target, export = TARGETS["onnxruntime-x86"], ExportSection(target="onnxruntime-x86", precision=("int8-dynamic",))
    errors = {}
    for name, channels in (("plain", None), ("alike", ChannelSizes(tmp_path / "channels.npz", written.sha256, 24))):
        (tmp_path / name).mkdir()
        artifact = build(target, "int8-dynamic", None, written, student.files, None, export, LINEAGE, folder=tmp_path / name, channels=channels)
        found, wanted = run(artifact.main.files[0].read_bytes(), feeds), run(written.path.read_bytes(), feeds)
        errors[name] = float(np.mean([np.square(a["logits"] - b["logits"]).mean() for a, b in zip(found, wanted, strict=True)]))
    assert errors["alike"] < 0.3 * errors["plain"]
    assert any("were made alike" in note for note in artifact.notes)
    with pytest.raises(ExportError, match="the sizes of channels were measured on another graph"):
        build(
            target, "int8-dynamic", None, written, student.files, None, export, LINEAGE, folder=tmp_path / "alike",
            channels=ChannelSizes(tmp_path / "channels.npz", "another", 24),
        )  # fmt: skip


def test_a_hash_is_over_the_bytes_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    assert content_hash([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(b"abc").hexdigest()
    assert content_hash([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(b"cab").hexdigest()


@pytest.mark.parametrize(
    ("target", "precision"), [("onnxruntime-x86", "fp32"), ("onnxruntime-x86", "fp16"), ("openvino", "fp32"), ("openvino", "fp16")]
)
def test_float_files_are_made_of_any_opset_that_the_runtime_itself_reads(student: Student, tmp_path: Path, target: str, precision: str) -> None:
    weights = {name: np.random.default_rng(len(name)).standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 for name in ("w", "w2")}
    inputs = (TensorSpec("image", "float32", (BATCH, 16, 8, 8)),)
    written = write_float_graph(
        graph(OLD, opset=22, **weights), tmp_path / "new.onnx", inputs=inputs, encoder=student.graph.encoder, classes=(), parameters=0,
        largest_difference=0.0,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    export = ExportSection(target=target, precision=(precision,))  # type: ignore[arg-type]
    artifact = build(TARGETS[target], precision, ImportPath(DIALECTS[target]), written, student.files, None, export, LINEAGE, folder=tmp_path / "out")
    feed = {"image": np.random.default_rng(0).random((1, 16, 8, 8), dtype=np.float32)}
    files = [str(path) for path in artifact.main.files]
    found = openvino_runtime.open_session(files, artifact.options).run(feed) if target == "openvino" else run(Path(files[0]).read_bytes(), [feed])[0]
    (wanted,) = run(written.path.read_bytes(), [feed])
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=0.05 * np.abs(wanted["logits"]).max())


def test_int8_dynamic_keeps_float_what_the_recipe_says(student: Student, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    text = "(float[batch, 4] x) => (float[batch, 3] logits) { a = MatMul(x, first) r = Relu(a) logits = MatMul(r, second) }"
    model = graph(text, first=random.standard_normal((4, 8)).astype(np.float32), second=random.standard_normal((8, 3)).astype(np.float32))
    written = write_float_graph(
        model, tmp_path / "model.onnx", inputs=(TensorSpec("x", "float32", (BATCH, 4)),), encoder=student.graph.encoder, classes=(), parameters=0,
        largest_difference=0.0,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    target, export = TARGETS["onnxruntime-x86"], ExportSection(target="onnxruntime-x86", precision=("int8-dynamic",))
    artifact = build(target, "int8-dynamic", None, written, student.files, None, export, LINEAGE, folder=tmp_path / "out", keep_float=("logits",))
    assert "`logits` (MatMul) stays float: kept float by `keep_float`" in artifact.notes
    assert [node.name for node in load_model(artifact.main.files[0]).graph if node.op_type == "MatMul"] == ["logits"]


@pytest.mark.parametrize("target", ["onnxruntime-x86", "openvino", "tensorrt"])
@pytest.mark.parametrize("kept", [("a_add",), ("a_add", "b_add"), ("a_relu",), ("b*",)], ids=" ".join)
def test_whatever_the_recipe_keeps_float_no_dialect_asks_for_its_places(student: Student, tmp_path: Path, target: str, kept: tuple[str, ...]) -> None:
    inputs = (TensorSpec("image", "float32", (Dimension("N", 1, 8, 64), 3, 16, 16)),)
    written = write_float_graph(
        load_model(residual(tmp_path / "given.onnx")), tmp_path / "model.onnx", inputs=inputs, encoder=student.graph.encoder, classes=(),
        parameters=0, largest_difference=0.0,
    )  # fmt: skip
    calibration = np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32)
    write_table(observe(written.path, [{"image": calibration}], QuantizeSection(keep_float=kept)), tmp_path / "ranges.json")
    ranges = CalibratedRanges(tmp_path / "ranges.json", "mse", 8, written.sha256)
    (tmp_path / "out").mkdir()
    export = ExportSection(target=target, precision=("int8",))
    artifact = build(TARGETS[target], "int8", ImportPath(DIALECTS[target]), written, student.files, ranges, export, LINEAGE, folder=tmp_path / "out")
    feed = {"image": calibration[:1]}
    files = [str(path) for path in artifact.main.files]
    found = openvino_runtime.open_session(files, artifact.options).run(feed) if target == "openvino" else run(Path(files[0]).read_bytes(), [feed])[0]
    (wanted,) = run(written.path.read_bytes(), [feed])
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=0.05 * np.abs(wanted["logits"]).max())


RUN_HERE = [
    *(("onnxruntime-x86", precision) for precision in ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights")),
    *(("phone-xnnpack", precision) for precision in ("fp32", "int8", "int8-dynamic")),
    *(("openvino", precision) for precision in ("fp32", "fp16", "int8", "int8-weights")),
    ("torch", "fp32"),
]


@pytest.mark.parametrize(("target", "precision"), RUN_HERE)
def test_every_node_that_an_artifact_asks_for_is_found_in_what_its_runtime_ran(made: Callable[..., Artifact], target: str, precision: str) -> None:
    artifact = made(target, precision)
    assert {node.macs is not None for node in artifact.asked} == {True}
    module = {"onnxruntime": onnxruntime_runtime, "openvino": openvino_runtime, "torch": torch_runtime}[artifact.runtime]
    session = module.open_session([str(path) for path in artifact.main.files], artifact.options)
    session.run({"image": images(artifact.batch[0])})
    found = audit(artifact.asked, [dataclasses.asdict(layer) for layer in session.executed()], artifact.runtime, artifact.options, ["x86_64"])
    assert len(found.rows) == 3
    assert "unknown" not in found.macs, found
    if precision in ("fp32", "int8"):
        assert found.findings == ()
        assert found.integer_share == (1.0 if precision == "int8" else 0.0)
