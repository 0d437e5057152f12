"""Which cached engine is used, which is built again and why, which is refused. Built by the real TensorRT-RTX."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdedge.runtimes import tensorrt_build, tensorrt_engines
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.tensorrt_build import BuildSettings
from kdedge.runtimes.tensorrt_engines import Platform, obtain, read_engine

rtx = pytest.importorskip("tensorrt_rtx")

ORIN = Platform("tensorrt", "10.7.0", "8.7")
SETTINGS = BuildSettings()


@pytest.fixture
def paths(graphs: Any) -> list[str]:
    return [str(graphs.float())]


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_second_process_reads_what_the_first_built(paths: list[str], tmp_path: Path) -> None:
    first = obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path / "cache"))
    second = obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path / "cache"))
    assert first.built
    assert first.reason == "no engine of this graph and these settings was built here before"
    assert first.seconds > 0
    assert (second.built, second.reason, second.plan) == (False, "", first.plan)


@pytest.mark.parametrize(
    "other", [Platform("tensorrt", "10.3.0", "8.7"), Platform("tensorrt", "10.7.0", "7.2"), Platform("tensorrt_rtx", "10.7.0", "8.7")]
)
def test_another_tensorrt_or_device_builds_again_and_says_whose_engine_was_there(paths: list[str], tmp_path: Path, other: Platform) -> None:
    obtain(rtx, other, paths, SETTINGS, str(tmp_path))
    again = obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path))
    assert again.built
    assert again.reason == (
        f"engine was built by {other.module} {other.version} for compute capability {other.compute_capability},"
        " this machine has tensorrt 10.7.0 for compute capability 8.7"
    )


def test_a_changed_graph_or_setting_builds_again(paths: list[str], graphs: Any, tmp_path: Path) -> None:
    obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path))
    assert obtain(rtx, ORIN, paths, BuildSettings(tf32=True), str(tmp_path)).built
    assert obtain(rtx, ORIN, [str(graphs.quantized())], SETTINGS, str(tmp_path)).built
    side = Path(paths[0]).with_suffix(".data")
    side.write_bytes(b"weights")
    assert obtain(rtx, ORIN, [*paths, str(side)], SETTINGS, str(tmp_path)).built
    side.write_bytes(b"Weights")
    assert obtain(rtx, ORIN, [*paths, str(side)], SETTINGS, str(tmp_path)).built
    assert not obtain(rtx, ORIN, [*paths, str(side)], SETTINGS, str(tmp_path)).built


def test_a_damaged_cache_is_noticed_and_built_again(paths: list[str], tmp_path: Path) -> None:
    obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path))
    engine, record = only(tmp_path, "*.engine"), only(tmp_path, "*.json")
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    assert obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).reason == "the cached engine was damaged: its SHA-256 differs from its record"
    record.write_text("{")
    assert obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).reason == "the cached engine has no readable record"
    record.write_text(json.dumps({**json.loads(record.read_text()), "source_sha256": "0"}))
    assert obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).reason == "the cached engine was built from another graph or with other settings"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": "10.3.0"}))
    assert "engine was built by tensorrt 10.3.0" in obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).reason
    assert not obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).built
    tensorrt_engines.forget(paths, ORIN, SETTINGS, str(tmp_path))
    assert obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).built


def test_an_engine_that_is_handed_over_is_taken_only_where_it_was_built(paths: list[str], tmp_path: Path) -> None:
    plan = obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path)).plan
    engine = only(tmp_path, "*.engine")
    assert read_engine(str(engine), ORIN) == plan
    assert obtain(rtx, ORIN, [str(engine)], SETTINGS, str(tmp_path)).plan == plan
    with pytest.raises(
        RuntimeFailure, match=r"was built by tensorrt 10.7.0 for compute capability 8.7, this machine has tensorrt 11.4.1 .* give the ONNX"
    ):
        read_engine(str(engine), Platform("tensorrt", "11.4.1", "8.7"))
    engine.write_bytes(plan[:-1])
    with pytest.raises(RuntimeFailure, match="not the file that its record describes"):
        read_engine(str(engine), ORIN)
    engine.with_suffix(".json").unlink()
    with pytest.raises(RuntimeFailure, match="has no record of what it was built by"):
        read_engine(str(engine), ORIN)


def test_what_the_builder_measured_is_kept_for_the_next_build(paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes | None] = []

    def build(trt: Any, path: str, settings: BuildSettings, timing_cache: bytes | None = None) -> tensorrt_build.Built:
        heard.append(timing_cache)
        return tensorrt_build.Built(b"plan", ("a warning",), b"measured", 0.5)

    monkeypatch.setattr(tensorrt_build, "build", build)
    made = obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path))
    assert (made.plan, made.warnings, made.seconds) == (b"plan", ("a warning",), 0.5)
    obtain(rtx, ORIN, paths, BuildSettings(tf32=True), str(tmp_path))
    obtain(rtx, Platform("tensorrt", "10.3.0", "8.7"), paths, SETTINGS, str(tmp_path))
    assert heard == [None, b"measured", None], "timings of another version are of no use"


def test_the_cache_folder_is_the_option_the_variable_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDEDGE_ENGINE_CACHE", str(tmp_path))
    assert tensorrt_engines.default_folder() == str(tmp_path)
    monkeypatch.delenv("KDEDGE_ENGINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tensorrt_engines.default_folder() == str(tmp_path / "kdedge" / "engines")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tensorrt_engines.default_folder() == str(tmp_path / ".cache" / "kdedge" / "engines")


def test_a_folder_that_cannot_be_written_is_named(paths: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeFailure, match=r"cannot be kept in .*file/cache: .*; set the option engine_cache"):
        obtain(rtx, ORIN, paths, SETTINGS, str(tmp_path / "file" / "cache"))


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        tensorrt_engines._write(str(tmp_path / "x.engine"), b"plan")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"absent.onnx cannot be read: No such file"):
        obtain(rtx, ORIN, [str(tmp_path / "absent.onnx")], SETTINGS, str(tmp_path))
