"""What it saves a training step that memory which it frees stays with the process, and what that costs in memory.

Run: python benchmarks/freed_memory.py

kdedge's trainer on 32x32 images at batch 128, one thread, with and without `kdedge.distill.allocation`: fresh processes that take turns. Compared
is the processor's time of a step (user and system), which says the same on a busy machine. Prints ratios; the last line is JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from distill_scaling import DoneError, model_of, random_images

from kdedge import progress
from kdedge.distill import loop
from kdedge.distill.allocation import freed_memory_kept
from kdedge.distill.terms import training_spec
from kdedge.distill.trainer import distill
from kdedge.recipe import OptimizerSection, TrainSection

MODELS = {"ResNet-8": ("resnet8", "fp32"), "ResNet-20": ("resnet20", "fp32"), "ResNet-8 in bfloat16": ("resnet8", "bf16")}
BATCH, IMAGES, FIRST, LAST, ROUNDS = 128, 12_800, 20, 80, 3


class Meter(progress.Silent):
    """Reads the processor's time (s), page faults and the largest memory so far (MB) from step FIRST to LAST."""

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if done == FIRST:
            self.begun = resource.getrusage(resource.RUSAGE_SELF)
        if done == LAST:
            begun, ended = self.begun, resource.getrusage(resource.RUSAGE_SELF)
            spent = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
            steps = LAST - FIRST
            self.found = [1000 * spent / steps, (ended.ru_minflt - begun.ru_minflt) / steps, ended.ru_maxrss / 1024]
            raise DoneError


def measure(model: str, precision: str, kept: bool) -> list[float]:
    """One run in this process: ms of processor time a step, page faults a step, MB at most."""
    torch.set_num_threads(1)
    if not kept:
        setattr(loop, freed_memory_kept.__name__, contextlib.nullcontext)
    with tempfile.TemporaryDirectory() as name, progress.listening(meter := Meter()):
        data, spec = random_images(IMAGES, Path(name)), model_of(f"resnet_cifar:{model}")
        section = TrainSection(epochs=1, batch_size=BATCH, optimizer=OptimizerSection(lr=0.01), checkpoint_seconds=1e9)
        section = section.model_copy(update={"precision": precision})
        (Path(name) / "run").mkdir()
        with contextlib.suppress(DoneError):
            distill(spec, training_spec(section, augment=("crop4", "flip")), None, data, 0, folder=Path(name) / "run")
    return meter.found


def fresh(model: str, precision: str, kept: bool) -> list[float]:
    """The same in a fresh process."""
    done = subprocess.run([sys.executable, __file__, model, precision, str(int(kept))], capture_output=True, text=True, check=True)
    return list(map(float, json.loads(done.stdout.splitlines()[-1])))


def main() -> None:
    """All models that this processor trains, in turns."""
    has_bf16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else False
    figures = {}
    for name, (model, precision) in MODELS.items():
        if precision == "bf16" and not has_bf16:
            print(f"{name}: not measured: this processor has no bfloat16 arithmetic")
            continue
        pairs = [(fresh(model, precision, True), fresh(model, precision, False)) for _ in range(ROUNDS)]
        ratios = sorted(kept[0] / without[0] for kept, without in pairs)
        of_kept, of_without = ([median(column) for column in zip(*side, strict=True)] for side in zip(*pairs, strict=True))
        figures[name] = {
            "time_ratio": median(ratios),
            "time_ratios": [ratios[0], ratios[-1]],
            "ms": [of_kept[0], of_without[0]],
            "faults_a_step": [of_kept[1], of_without[1]],
            "memory_ratio": of_kept[2] / of_without[2],
        }
        print(
            f"{name:<22} {median(ratios):.3f} x [{ratios[0]:.3f}, {ratios[-1]:.3f}] the time of a step ({of_without[0]:.1f} ms), "
            f"{of_kept[1]:.0f} page faults a step instead of {of_without[1]:.0f}, "
            f"{of_kept[2] / of_without[2]:.3f} x the memory ({of_without[2]:.0f} MB)"
        )
    print(json.dumps({"benchmark": "freed_memory", "rounds": ROUNDS, "models": figures}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], sys.argv[3] == "1")))
    else:
        main()
