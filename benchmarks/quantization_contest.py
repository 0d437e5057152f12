"""One model of `quantization.py`: every quantizer makes its files, every runtime runs them. What is finished is kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from quantization_kdedge import DIALECTS
from quantization_measure import (
    AS_WRITTEN,
    OPTIONS,
    RULE,
    Scores,
    classifier_scores,
    embedding_scores,
    paired_launches,
    program_of,
    run_all,
    weights_of,
)
from quantization_models import Array, Subject, prepare
from result_page import processor, saturates

from kdedge.source import closure_of, version_of

HERE = Path(__file__).resolve().parent
STATIC = ("onnxruntime-minmax", "onnxruntime-entropy", "onnxruntime-percentile")
REDUCED = tuple(f"{peer}-reduced" for peer in STATIC)
NNCF = tuple(f"nncf{preset}{bias}" for bias in ("", "-accurate-bias") for preset in ("", "-mixed"))
OVERFLOW_FIX = tuple(f"{peer}-overflow-fix" for peer in NNCF)
DYNAMIC = ("onnxruntime-dynamic", "onnxruntime-dynamic-per-channel")
DYNAMIC_NARROW = tuple(f"{DYNAMIC[1]}-{how}" for how in ("reduced", "unsigned"))
OURS, DISTILLED = "kdedge", "kdedge distilled"
MEMORY_GB = 12.0
"""Address space of a quantizer: beyond it, it has failed."""


@dataclass(frozen=True)
class Settings:
    """How many examples, pairs of launches, steps of distillation and images that judge it (None: all that there are, and as `quantization_kdedge.py`
    has it)."""

    calibration: int | None = None
    test: int | None = None
    pairs: int = 16
    steps: int | None = None
    held: int | None = None


@dataclass(frozen=True)
class Contest:
    """How one model is judged. `peers`: by runtime, those whose files it runs. `measure`: kl of logits, or 1 - cosine of embeddings."""

    measure: str
    peers: Mapping[str, tuple[str, ...]]
    distilled: bool = False


def image_peers(saturating: bool) -> dict[str, tuple[str, ...]]:
    """Whose files run where. Where kernels saturate, both runtimes get weights of 7 bits too, from the peers and from kdedge's dialects for such
    CPUs; how faithful files for CPUs with VNNI are is then read from what they say, not from how they run here."""
    if not saturating:
        return {"onnxruntime": STATIC, "openvino": (*NNCF, *STATIC)}
    return {"onnxruntime": (*STATIC, *REDUCED), AS_WRITTEN: STATIC, "openvino": (*NNCF, *OVERFLOW_FIX, *STATIC, *REDUCED)}


def text_peers(saturating: bool) -> dict[str, tuple[str, ...]]:
    """The same for a transformer; where kernels saturate, with what ONNX Runtime's documentation names against it."""
    return {"onnxruntime": (*DYNAMIC, *DYNAMIC_NARROW) if saturating else DYNAMIC}


_IMAGES = image_peers(saturates())
CONTESTS = {
    "resnet20": Contest("kl", _IMAGES, distilled=True),
    "resnet56": Contest("kl", _IMAGES, distilled=True),
    "efficientnet-lite0": Contest("kl", _IMAGES),
    "all-MiniLM-L6-v2": Contest("cosine", text_peers(saturates())),
}


@dataclass
class Found:
    """Figures of one model. `made`: what each quantizer said of itself (seconds, peak_memory_mb, or failed); `scores` and `executed`: by runtime and
    quantizer ("float" too); `launches`: by runtime and arm, the peer and the pairs of medians in ms."""

    measure: str
    examples: int = 0
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    executed: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)
    launches: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)


def contest(name: str, folder: Path, cache: Path, peers_python: Path, settings: Settings, distill: bool) -> Found:
    """Let all quantizers at one model, and measure what they made. Without `distill`, that arm is there if an earlier run made it."""
    subject = prepare(name, folder, cache, settings.calibration, settings.test)
    rules, kept = CONTESTS[name], Kept(folder / "parts")
    found = Found(rules.measure)
    files: dict[str, dict[str, Path]] = {}
    for peer in dict.fromkeys(who for peers in rules.peers.values() for who in peers):
        out, found.made[peer] = _theirs(peer, peers_python, subject, kept)
        files[peer] = {runtime: out for runtime, peers in rules.peers.items() if peer in peers}
    for arm in (OURS, DISTILLED) if rules.distilled else (OURS,):
        paths, made = _ours(arm, subject, kept, tuple(rules.peers), arm == OURS or distill, settings)
        if made is not None:
            files[arm], found.made[arm] = paths, made
    for runtime in rules.peers:
        _judge(found, runtime, {who: paths[runtime] for who, paths in files.items() if runtime in paths}, subject, kept, settings.pairs)
    return found


def _theirs(peer: str, python: Path, subject: Subject, kept: Kept) -> tuple[Path, dict[str, Any]]:
    out = subject.folder / f"{peer}.{'xml' if peer in (*NNCF, *OVERFLOW_FIX) else 'onnx'}"
    program = HERE / "quantization_peers.py"
    command = [str(python), str(program), peer, str(subject.fixed), str(subject.calibration), str(out), "--memory", str(MEMORY_GB)]
    installed = sorted(path.name for path in python.parents[1].glob("lib/*/site-packages/*.dist-info"))
    key: list[Path | str] = ["peer", peer, program, processor(), *installed, subject.fixed, subject.calibration]
    return out, kept.json(key, [out, *weights_of(out)], lambda: _child(command, subject.folder))


def _ours(
    arm: str, subject: Subject, kept: Kept, runtimes: tuple[str, ...], make: bool, settings: Settings
) -> tuple[dict[str, Path], dict[str, Any] | None]:
    options = [word for runtime in runtimes for word in ("--runtime", runtime)]
    if arm == DISTILLED:
        fewer = {"--steps": settings.steps, "--held": settings.held}
        options += ["--distill", *(word for name, count in fewer.items() if count is not None for word in (name, str(count)))]
    code = closure_of("quantization_kdedge")
    tools = [f"{tool} {version_of(tool)}" for tool in code.tools]
    dialects = [DIALECTS[runtime].name for runtime in runtimes]
    key: list[Path | str] = ["kdedge", *options, *dialects, processor(), code.digest, *tools, subject.float, subject.calibration]
    out = subject.folder / kept.place(key, "").name  # a training that was stopped is not taken up by other code
    paths = {runtime: out / ("openvino.xml" if runtime == "openvino" else f"{runtime}.onnx") for runtime in runtimes}
    if not make and not kept.place(key, ".json").is_file():
        return paths, None
    command = [sys.executable, str(HERE / "quantization_kdedge.py"), subject.name, str(subject.folder), str(out), *options]
    files = [file for path in paths.values() for file in (path, *weights_of(path))]
    made = kept.json(key, files, lambda: _child(command, subject.folder))
    if "failed" in made:
        raise SystemExit(f"kdedge cannot quantize {subject.name}: {made['failed']}")
    return paths, made


def _child(command: list[str], folder: Path) -> dict[str, Any]:
    """What a quantizer's process says of itself in its last line, or why it failed. It runs in `folder`: some leave files where they are started."""
    print(f"  {' '.join(Path(part).name for part in command[1:4])}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    lines = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()
    if ended.returncode != 0:
        return {"failed": lines[-1][:300] if lines else f"exit code {ended.returncode}"}
    return dict(json.loads(lines[-1]))


# ---- measuring -------------------------------------------------------------------------------------------------------------


def _judge(found: Found, runtime: str, files: Mapping[str, Path], subject: Subject, kept: Kept, pairs: int) -> None:
    judge = classifier_scores if found.measure == "kl" else embedding_scores
    reference, _ = _outputs("onnxruntime", subject.fixed, subject, kept)
    found.examples = len(reference)
    scores, executed = found.scores.setdefault(runtime, {}), found.executed.setdefault(runtime, {})
    for who, path in {"float": subject.fixed, **files}.items():
        if "failed" in found.made.get(who, {}):
            continue
        try:
            output, executed[who] = _outputs(runtime, path, subject, kept)
        except RuntimeError as error:
            found.made[f"{who} on {runtime}"] = {"failed": str(error)[:300]}
            continue
        scores[who] = judge(reference, output)
    peers = [who for who in scores if who not in ("float", OURS, DISTILLED)]
    if not peers:
        return
    found.best[runtime] = best = min(peers, key=lambda who: float(scores[who].distance.mean()))
    launches, theirs = found.launches.setdefault(runtime, {}), files[best]
    for who in (OURS, DISTILLED, "float") if pairs > 0 and runtime != AS_WRITTEN else ():
        if who in scores:  # it ran
            ours = subject.fixed if who == "float" else files[who]
            key: list[Path | str] = ["launches", *_said(runtime), ours, *weights_of(ours), theirs, *weights_of(theirs), subject.test]
            launches[who] = kept.pairs(key, min(pairs, 4) if who == "float" else pairs, ours, theirs, runtime, subject.test)


def _outputs(runtime: str, path: Path, subject: Subject, kept: Kept) -> tuple[Array, dict[str, int]]:
    stored = kept.place(["outputs", *_said(runtime), path, *weights_of(path), subject.test], ".npy")
    facts = stored.with_suffix(".json")
    if not facts.is_file():
        print(f"  {path.parent.name}/{path.name} on {runtime}", flush=True)
        ran = run_all(path, runtime, subject.test)
        np.save(stored, ran.output)
        _write(facts, ran.executed)
    return np.load(stored, allow_pickle=False), json.loads(facts.read_text())


def _said(runtime: str) -> tuple[str, ...]:
    """What figures depend on beside the files: the kernels of another processor, and another way to run or time them, give other figures."""
    program = program_of(runtime)
    code = [closure_of(f"kdedge.runtimes.{name}").digest for name in ("worker", program)]  # the worker finds its adapters by name
    return runtime, version_of(program), processor(), repr(OPTIONS[runtime]), repr(RULE), *code


# ---- finished parts --------------------------------------------------------------------------------------------------------


class Kept:
    """Finished parts by the content of the files, and the words, that they were made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, key: list[Path | str], suffix: str) -> Path:
        """Where a part with this key lies, or will lie."""
        said = [_sha256(part) if isinstance(part, Path) else part for part in key]
        return self.folder / f"{key[0]}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}{suffix}"

    def json(self, key: list[Path | str], outputs: list[Path], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures that stand in JSON; made again where they, or the files that belong to them, are missing or are of another run. A failure is not
        kept: what was wrong may have been the moment."""
        path = self.place(key, ".json")
        if path.is_file():
            value: dict[str, Any] = json.loads(path.read_text())
            if value.get("sha256") == [_sha256(output) for output in outputs if output.is_file()]:
                return value
        value = make()
        if "failed" not in value:
            _write(path, {**value, "sha256": [_sha256(output) for output in outputs]})
        return value

    def pairs(self, key: list[Path | str], count: int, ours: Path, theirs: Path, runtime: str, inputs: Path) -> list[tuple[float, float]]:
        """Pairs of launches, as many as asked; those that are there count."""
        path = self.place(key, ".json")
        there: list[Any] = json.loads(path.read_text()) if path.is_file() else []
        while len(there) < count:
            print(f"  launches of {ours.name} and {theirs.name} on {runtime}: {len(there)} of {count} pairs", flush=True)
            there += paired_launches(ours, theirs, runtime, inputs, min(4, count - len(there)))
            _write(path, there)
        return [(pair[0], pair[1]) for pair in there[:count]]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)
