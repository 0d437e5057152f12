"""The benchmark of quantizers reports what its files really are: nothing of another run, nothing that was dropped, nothing that does not run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of `benchmarks/` by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_figures_of_a_file_that_another_run_wrote_over_are_made_again(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    kept, out = bench("quantization_contest").Kept(tmp_path / "parts"), tmp_path / "out.onnx"

    def quantize(content: str) -> Callable[[], dict[str, Any]]:
        def make() -> dict[str, Any]:
            out.write_text(content)
            return {"seconds": len(content)}

        return make

    assert kept.json(["first"], [out], quantize("a"))["seconds"] == 1
    assert kept.json(["first"], [out], quantize("never called"))["seconds"] == 1
    assert kept.json(["second"], [out], quantize("bb"))["seconds"] == 2
    assert kept.json(["first"], [out], quantize("a"))["seconds"] == 1
    assert out.read_text() == "a"


def test_a_quantizer_that_failed_is_tried_again_at_the_next_start(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    kept = bench("quantization_contest").Kept(tmp_path / "parts")
    assert kept.json(["part"], [], lambda: {"failed": "killed while the machine was short of memory"}) == {
        "failed": "killed while the machine was short of memory"
    }
    assert kept.json(["part"], [], lambda: {"seconds": 1})["seconds"] == 1


def test_pairs_of_launches_on_other_inputs_do_not_count(bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contest, measure = bench("quantization_contest"), bench("quantization_measure")
    subject = bench("quantization_models").Subject("net", tmp_path)
    files, timed = {who: tmp_path / f"{who}.onnx" for who in ("kdedge", "peer")}, []
    for path in (subject.fixed, subject.test, *files.values()):
        path.write_text(path.name)

    def paired_launches(ours: Path, theirs: Path, runtime: str, inputs: Path, pairs: int) -> list[tuple[float, float]]:
        timed.append(ours)
        return [(1.0, 2.0)] * pairs

    monkeypatch.setattr(contest, "run_all", lambda *_: measure.Ran(np.eye(8, 4, dtype=np.float32), {"fp32": 1}))
    monkeypatch.setattr(contest, "paired_launches", paired_launches)
    for _ in range(2):
        contest._judge(contest.Found("kl"), "onnxruntime", files, subject, contest.Kept(tmp_path / "parts"), 2)
    assert timed == [files["kdedge"], subject.fixed]
    subject.test.write_text("others")
    contest._judge(contest.Found("kl"), "onnxruntime", files, subject, contest.Kept(tmp_path / "parts"), 2)
    assert timed == [files["kdedge"], subject.fixed] * 2


def test_a_file_of_ours_that_does_not_run_is_listed_as_failed_and_not_timed(
    bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest, measure = bench("quantization_contest"), bench("quantization_measure")
    subject = bench("quantization_models").Subject("net", tmp_path)
    ours, peer = tmp_path / "ours.onnx", tmp_path / "peer.onnx"
    for path in (subject.fixed, subject.test, ours, peer):
        path.write_text(path.name)
    timed = []

    def run_all(path: Path, runtime: str, inputs: Path) -> Any:
        if path == ours:
            raise RuntimeError("ours.onnx on onnxruntime failed: no kernel")
        return measure.Ran(np.eye(8, 4, dtype=np.float32), {"int8": 1})

    def paired_launches(ours: Path, theirs: Path, runtime: str, inputs: Path, pairs: int) -> list[tuple[float, float]]:
        timed.append(ours)
        return [(1.0, 2.0)] * pairs

    monkeypatch.setattr(contest, "run_all", run_all)
    monkeypatch.setattr(contest, "paired_launches", paired_launches)
    found = contest.Found("kl")
    contest._judge(found, "onnxruntime", {"kdedge": ours, "peer": peer}, subject, contest.Kept(tmp_path / "parts"), 2)
    assert found.made == {"kdedge on onnxruntime": {"failed": "ours.onnx on onnxruntime failed: no kernel"}}
    assert found.best == {"onnxruntime": "peer"}
    assert timed == [subject.fixed]


@pytest.mark.parametrize("kept", [True, False])
def test_a_distillation_that_was_dropped_is_not_in_the_file(
    bench: Callable[[str], ModuleType], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = bench("quantization_kdedge")
    np.savez(tmp_path / "cifar10.npz", x_train=np.zeros((4, 32, 32, 3), np.uint8))
    monkeypatch.setattr(program, "data_root", lambda: tmp_path)
    step = SimpleNamespace(kept=kept)
    monkeypatch.setattr("kdedge.exporters.quantize.aware.learn", lambda *_, **__: SimpleNamespace(table="learned", tensors="learned", step=step))
    subject = bench("quantization_models").Subject("net", tmp_path)
    held = {"image": np.zeros((2, 3, 32, 32), np.float32)}
    found = program._distilled(subject, "calibrated", "recovered", program.DIALECTS["onnxruntime"], held, 5, tmp_path / "training")
    assert found == (("learned", "learned", step) if kept else ("calibrated", "recovered", step))


def test_a_table_replaces_what_stands_between_its_markers_and_nothing_else(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    page, write_between = tmp_path / "page.md", bench("result_page").write_between
    page.write_text("above\n<!-- t: begin -->\nold\n<!-- t: end -->\nbelow\n")
    write_between(page, "t", ["| new |"])
    assert page.read_text() == "above\n<!-- t: begin -->\n| new |\n<!-- t: end -->\nbelow\n"
    page.write_text("above\n<!-- t: end -->\n")
    with pytest.raises(SystemExit, match="has lost its markers"):
        write_between(page, "t", ["| new |"])
    assert page.read_text() == "above\n<!-- t: end -->\n"


def test_a_cpu_without_vnni_is_told_by_its_flags(bench: Callable[[str], ModuleType]) -> None:
    saturates = bench("result_page").saturates
    assert saturates("fpu sse4_1 avx avx2 fma")
    assert not saturates("fpu avx2 avx512f avx512_vnni")
    assert not saturates("fpu avx2 avx_vnni")
    assert not saturates("")  # no x86, or one that tells nothing


def test_where_kernels_saturate_everybody_gets_weights_of_7_bits_and_files_are_judged_as_written(bench: Callable[[str], ModuleType]) -> None:
    contest, measure, peers = bench("quantization_contest"), bench("quantization_measure"), bench("quantization_peers")
    with_vnni, without = contest.image_peers(False), contest.image_peers(True)
    assert measure.AS_WRITTEN not in with_vnni
    assert without[measure.AS_WRITTEN] == with_vnni["onnxruntime"]  # the same files, by what they say
    assert set(without["onnxruntime"]) - set(with_vnni["onnxruntime"]) == {f"{peer}-reduced" for peer in contest.STATIC}
    fixes = {f"{peer}-overflow-fix" for peer in contest.NNCF}
    assert set(without["openvino"]) - set(with_vnni["openvino"]) == {*fixes, *(f"{peer}-reduced" for peer in contest.STATIC)}
    assert set(without["openvino"]) >= set(with_vnni["openvino"])
    texts = contest.text_peers(False), contest.text_peers(True)
    names = {f"onnxruntime-dynamic-per-channel-{how}" for how in ("reduced", "unsigned")}
    assert set(texts[1]["onnxruntime"]) - set(texts[0]["onnxruntime"]) == names
    assert {peer for named in (*without.values(), *texts[1].values()) for peer in named} == set(peers.PEERS)
    dialects = bench("quantization_kdedge").DIALECTS
    assert dialects[measure.AS_WRITTEN].name == "onnxruntime-x86"
    assert dialects["onnxruntime"].name == ("onnxruntime-x86-avx2" if bench("result_page").saturates() else "onnxruntime-x86")
    assert (measure.program_of(measure.AS_WRITTEN), measure.OPTIONS[measure.AS_WRITTEN]["optimization"]) == ("onnxruntime", "disabled")


def test_what_a_file_says_has_no_latency(bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contest, measure = bench("quantization_contest"), bench("quantization_measure")
    subject = bench("quantization_models").Subject("net", tmp_path)
    files = {who: tmp_path / f"{who}.onnx" for who in ("kdedge", "peer")}
    for path in (subject.fixed, subject.test, *files.values()):
        path.write_text(path.name)
    monkeypatch.setattr(contest, "run_all", lambda *_: measure.Ran(np.eye(8, 4, dtype=np.float32), {"fp32": 1}))
    monkeypatch.setattr(contest, "paired_launches", lambda *_: pytest.fail("timed"))
    found = contest.Found("kl")
    contest._judge(found, measure.AS_WRITTEN, files, subject, contest.Kept(tmp_path / "parts"), 2)
    assert set(found.scores[measure.AS_WRITTEN]) == {"float", "kdedge", "peer"}
    assert found.launches == {measure.AS_WRITTEN: {}}
