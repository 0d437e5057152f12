"""Run results made by hand, for tests of what is shown: 40 examples, 3 classes, outputs that can be counted on paper.

The teacher errs on none, the float student on examples 0 and 1, an int8 artifact on 0, 1 and 2 as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.artifact import Artifact, GraphFile, ImageEncoder, ImportPath, Lineage, ModelFiles, TeacherFiles, TensorSpec
from kdedge.bundle.pack import Bundle
from kdedge.estimate import Estimate
from kdedge.gate import decide, parse_policy
from kdedge.measured import Cell, DeviceIdentity, Fidelity, Latency, References
from kdedge.report.result import RunResult
from kdedge.tasks import TASKS

TASK = ImportPath(TASKS["image-classification"])
SIZE, CLASSES = 40, 3
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>`{{ 7 * 7 }}`"
CHECK = "parsed and built by tensorrt-rtx 1.7 for SM86, no precision changed"
NO_DEVICE = "no CUDA device: this machine has no NVIDIA driver (libcuda.so.1)"


def share(name: str, right: int, doubt: float = 0.04) -> Estimate:
    value = right / SIZE
    return Estimate(name, value, max(value - doubt, 0.0), min(value + doubt, 1.0), SIZE, "fraction")


def outputs(folder: Path, name: str, wrong: Sequence[int]) -> dict[str, Path]:
    """Logits that are right but for the examples in `wrong`."""
    logits = np.zeros((SIZE, CLASSES), np.float32)
    logits[np.arange(SIZE), labels()] = 4.0
    logits[list(wrong)] = np.roll(logits[list(wrong)], 1, axis=1)
    path = folder / f"{name}.npy"
    np.save(path, logits)
    return {"logits": path}


def labels() -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(SIZE, dtype=np.int64) % CLASSES


def references(folder: Path, teacher: bool = True) -> References:
    np.save(folder / "labels.npy", labels())
    scores = {"student": share("accuracy", 38)}
    if teacher:
        scores |= {"teacher": share("accuracy", 40), "agreement_teacher": share("agreement_teacher", 38)}
    taught = outputs(folder, "teacher", ()) if teacher else None
    return References(folder / "labels.npy", outputs(folder, "student", (0, 1)), taught, scores, ("test[1]", "test[0]") if teacher else ())


def model(name: str, parameters: int) -> ModelFiles:
    return ModelFiles(name, None, {}, None, None, (), ("logits",), ImageEncoder((8, 8)), ("a", "b", "c"), parameters=parameters)


def artifact(folder: Path, target: str, precision: Any, **changes: Any) -> Artifact:
    path = folder / f"{target}-{precision}.onnx"
    path.write_bytes(b"graph")
    graph = GraphFile("main", (path,), (TensorSpec("image", "float32", (1, 3, 8, 8)),), (TensorSpec("logits", "float32", (1, 3)),))
    lineage = Lineage("made", "big@0123", "small@4567", "f" * 64, "d" * 64, "9" * 64 if precision == "int8" else "", {"torch": "2.13.0"})
    made = Artifact(
        target=target,
        precision=precision,
        format="onnx",
        runtime=target.partition("-")[0],
        dialect=target,
        graphs=(graph,),
        sha256=f"{target}-{precision}".encode().hex().ljust(64, "0")[:64],
        size_bytes=120_000 if precision == "int8" else 420_000,
        options={"threads": 1, "spinning": False},
        encoder=ImageEncoder((8, 8)),
        classes=("a", "b", "c"),
        lineage=lineage,
    )
    return dataclasses.replace(made, **changes)


def measured(
    folder: Path, made: Artifact, *, wrong: Sequence[int], ms: float, device: str = "local", proxy: bool = False, teacher: bool = True
) -> Cell:
    """A cell that ran: `wrong` are the examples that it gets wrong, `ms` its median latency."""
    right = SIZE - len(wrong)
    same = SIZE - len(set(wrong) ^ {0, 1})
    figures = {
        "metric": share("accuracy", right),
        "agreement_student": share("agreement_student", same),
        "kl_student": Estimate("kl_student", 3e-14, 2e-14, 4e-14, SIZE, "nats"),
        "sqnr_db": Estimate("sqnr_db", 37.28, 37.01, 37.54, SIZE, "dB"),
    }
    if teacher:
        figures |= {"agreement_teacher": share("agreement_teacher", right), "kl_teacher": Estimate("kl_teacher", 0.035, 0.024, 0.058, SIZE, "nats")}
    name = f"{made.target}-{made.precision}-{device}"
    fidelity = Fidelity("ok", "", figures, 0.204, {"int8": 6, "fp32": 2}, None, "1.32.0", outputs(folder, name, wrong))
    latency = Latency(
        "ok",
        "",
        {
            "latency_median": Estimate("latency_median", ms, ms * 0.98, ms * 1.03, 6, "ms"),
            "latency_p90": Estimate("latency_p90", ms * 1.2, ms * 1.1, ms * 1.3, 6, "ms"),
        },
        load_ms=Estimate("load_ms", 18.0, 10.0, 40.0, 6, "ms"),
        first_inference_ms=Estimate("first_inference_ms", 0.6, 0.5, 3.1, 6, "ms"),
        peak_memory_mb=63.7,
        launches=6,
        notes=("1 of 6 launches: the hypervisor gave CPU time to others",),
    )
    return Cell(made, device, "ok", "", fidelity, latency, proxy)


def unmeasured(made: Artifact, status: Any, reason: str, device: str = "local") -> Cell:
    return Cell(made, device, status, reason, Fidelity(status, reason), Latency(status, reason), proxy=status == "not-run")


def device(name: str = "local", machine: str = "x86_64") -> DeviceIdentity:
    return DeviceIdentity(name, "host", (machine,), {"cpu": "AMD EPYC", "cores": "2"})


def bundle(folder: Path, made: Artifact, recipe: str = "made", source: str = "this artifact on local") -> Bundle:
    path = folder / "packed" / f"{recipe}-{made.target}-{made.precision}"
    (path / "artifact").mkdir(parents=True, exist_ok=True)
    (path / "artifact" / "model.onnx").write_bytes(b"graph")
    (path / "manifest.json").write_text("{}")
    return Bundle(path.name, made.target, made.precision, path, "ab" * 32, ("artifact/model.onnx", "manifest.json"), 7, source)


def whole_result(folder: Path, *, gate: dict[str, str] | None = None, teacher: bool = True) -> RunResult:
    """Two targets that ran, one of which fails in fp32, a TensorRT pair that did not; judged, and bundled as the pipeline would."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        ("onnxruntime-x86", "fp32"): artifact(folder, "onnxruntime-x86", "fp32"),
        ("onnxruntime-x86", "int8"): artifact(folder, "onnxruntime-x86", "int8", notes=("`linear/Gemm` (Gemm) stays float: too small",)),
        ("openvino", "fp32"): artifact(folder, "openvino", "fp32"),
        ("tensorrt", "int8"): artifact(folder, "tensorrt", "int8", checks={"rtx-checked": CHECK}),
    }
    cells = (
        measured(folder, made["onnxruntime-x86", "fp32"], wrong=(0, 1), ms=0.115, teacher=teacher),
        measured(folder, made["onnxruntime-x86", "int8"], wrong=(0, 1, 2), ms=0.076, teacher=teacher),
        unmeasured(made["openvino", "fp32"], "failed", "the worker died: signal 11 (SIGSEGV)"),
        unmeasured(made["tensorrt", "int8"], "not-run", NO_DEVICE),
    )
    rules = gate if gate is not None else {"accuracy": ">= 0.80", "latency_median": "<= 5 ms", "size": "<= 200 KB"}
    verdict = decide(parse_policy(rules), cells)
    shipped = (*verdict.shipped, *verdict.unproven)
    return RunResult(
        recipe="made",
        task_metric="accuracy",
        student=model("kdedge:cnn", 104_042),
        teacher=TeacherFiles((model("big:one", 1_000_000), model("big:two", 108_978)), (0.5, 0.5)) if teacher else None,
        references=references(folder, teacher),
        artifacts=tuple(made.values()),
        cells=cells,
        devices=(device(),),
        verdict=verdict,
        bundles=tuple(bundle(folder, cell.artifact) for cell in shipped),
    )


def watched_result(folder: Path) -> RunResult:
    """The same on a board of the catalog that tells of itself: a launch of the first cell was dropped, the second has energy, one was sustained."""
    result = whole_result(folder)
    first, second, *others = result.cells
    seen = {"CPU clock": "1.2 to 2.4 GHz", "hottest zone": "45 to 61 °C", "throttled": "in 1 of 6 launches"}
    hot = "the CPU throttled because of heat (up to 3 events)"
    energy = {
        "energy_gross": Estimate("energy_gross", 0.42, 0.40, 0.45, 6, "mJ"),
        "energy_net": Estimate("energy_net", 0.31, 0.29, 0.33, 6, "mJ"),
        "power_idle": Estimate("power_idle", 1480, 1470, 1490, 6, "mW"),
    }
    dropped = dataclasses.replace(
        first.latency, observed=seen, invalid=(hot, *[""] * 5), notes=(f"dropped 1 of 6 launches: {hot}", *first.latency.notes)
    )
    supplied = dataclasses.replace(
        second.latency,
        observed={**seen, "throttled": "never"},
        energy=energy,
        energy_reason="measured at VDD_IN, read every 50.2 ms, at least 199 times a launch; net of the idle machine",
    )
    steady = {"first_minute_ms": 0.1, "steady_ms": 0.15, "steady_ratio": 1.5, "seconds": 600.0, "throttled_after_seconds": 130.0}
    long = Latency("ok", "", launches=1, sustained=steady, observed={"hottest zone": "30 to 88 °C"})
    (folder / "long").mkdir()
    third = dataclasses.replace(measured(folder, artifact(folder / "long", "onnxruntime-x86", "mixed"), wrong=(0, 1), ms=0.1), latency=long)
    cells = (dataclasses.replace(first, latency=dropped), dataclasses.replace(second, latency=supplied), third, *others)
    board = dataclasses.replace(device(), fingerprint={"model": "NVIDIA Jetson Orin Nano", "os": "Ubuntu 22.04", "cores": "6"})
    return result.having(cells=cells, devices=(board,), catalog={"local": "jetson-orin-nano-8gb"}, verdict=None)


def poisoned(value: Any) -> Any:
    """The value with every text in it made hostile; keys and what the code reads as a name of its own stay."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, tuple):
        return tuple(poisoned(item) for item in value)
    if isinstance(value, dict):
        return {f"{key}{HOSTILE}": poisoned(item) for key, item in value.items()}
    return value


def hostile_result(folder: Path) -> RunResult:
    """A run whose every name, note and reason was chosen by an enemy."""
    result = whole_result(folder)
    changes = dict.fromkeys(("runtime", "dialect", "format", "classes", "checks", "notes", "options", "sha256"), poisoned)

    def poison_artifact(one: Any) -> Any:
        fields = {field.name: poisoned(getattr(one.lineage, field.name)) for field in dataclasses.fields(Lineage)}
        return dataclasses.replace(one, **{name: change(getattr(one, name)) for name, change in changes.items()}, lineage=Lineage(**fields))

    def poison_cell(cell: Cell) -> Cell:
        fidelity = dataclasses.replace(
            cell.fidelity, executed=poisoned(cell.fidelity.executed), reason=poisoned(cell.fidelity.reason), runtime_version=HOSTILE
        )
        told = {"notes": poisoned(cell.latency.notes), "observed": poisoned({"governor": "any"}), "energy_reason": HOSTILE}
        latency = dataclasses.replace(cell.latency, device_figures={HOSTILE: share("compute", 20)}, **told)
        reason = cell.reason and poisoned(cell.reason)
        return dataclasses.replace(
            cell, artifact=poison_artifact(cell.artifact), device=cell.device + HOSTILE, reason=reason, fidelity=fidelity, latency=latency
        )

    cells = tuple(poison_cell(cell) for cell in result.cells)
    devices = tuple(dataclasses.replace(one, name=poisoned(one.name), fingerprint=poisoned(one.fingerprint)) for one in result.devices)
    bundles = tuple(
        dataclasses.replace(one, name=poisoned(one.name), golden=poisoned(one.golden), digest=poisoned(one.digest)) for one in result.bundles
    )
    return result.having(
        recipe=HOSTILE,
        task_metric=poisoned("accuracy"),
        student=dataclasses.replace(result.student, name=HOSTILE, classes=(HOSTILE,) * 3),
        references=dataclasses.replace(result.references, worst=(HOSTILE,)),
        artifacts=tuple(poison_artifact(one) for one in result.artifacts),
        cells=cells,
        devices=devices,
        catalog={device.name: HOSTILE for device in devices},
        bundles=bundles,
        verdict=decide(parse_policy({"accuracy": ">= 0.8", "size": "<= 200 KB"}), cells),
    )
