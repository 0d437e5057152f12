"""A bundle for a phone: the file in ORT format that was measured, and what a runtime for it must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdedge.bundle.verify import verify
from kdedge.exporters.ort_mobile import write_ort


def test_it_holds_the_required_operators_and_its_own_file_is_what_answers(work: Any, tmp_path: Path) -> None:
    files = write_ort(work.graph(), work.folder / "model.ort")
    artifact = work.artifact(files=files, target="phone-xnnpack", dialect="phone-xnnpack", format="ort")
    bundle = work.bundle(tmp_path / "out", artifact=artifact)
    held = {path.name: path.read_bytes() for path in (bundle.path / "artifact").iterdir()}
    assert held == {path.name: path.read_bytes() for path in files}
    assert held["required_operators.config"].decode().splitlines() == [
        'ai.onnx;13;Flatten,Gemm{"inputs": {"0": ["float"]}}'
    ]  # the product and the sum became one Gemm: another graph than the ONNX file's
    assert verify(bundle.path).status == "ok"
