"""What distillation is worth in 15 epochs: ResNet-56 teaches ResNet-8 on CIFAR-10, seven ways, three seeds each. To reach: 2.5 points gained.

Run: python benchmarks/kd_cifar10.py [--workspace DIR] [--tuned tuned.yaml] [--only ARM ...] [--seeds 3] [--epochs 15] [--limit N]

About 20 runs, hours on two cores. It can be stopped at any time: a run that was broken off goes on from its last checkpoint, and the figures of
each finished run are a line of benchmarks/kd_cifar10_runs.jsonl (of DIR/runs.jsonl where the setting is not the page's), which later starts read
back, on whatever machine (remove a line to run it again). All arms see the same five augmented views, about which the teacher is asked once; only
the losses differ. The test images are looked at when a run has ended, for its last and its best epoch; nothing is chosen by them, and `kdedge tune`
never opens them. When all runs are there the table is written into docs/kd_cifar10.md. The step is computed as the machine does it fastest, in
bfloat16 where the CPU has it; each line says how.

The arm `tuned` takes its losses from the recipe that --tuned names (else DIR/tuned.yaml, else benchmarks/kd_cifar10_tuned.yaml, which keeps what the
page's search found). `kdedge tune DIR/recipe.yaml` finds such losses: that recipe is written at every start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from result_page import processor, write_between

from kdedge import progress
from kdedge.artifact import ImportPath, PreparedData
from kdedge.checks import check_recipe
from kdedge.costs import cost_of
from kdedge.data import samples_of, sources_of
from kdedge.distill.candidates import written
from kdedge.distill.contestants import Contestants
from kdedge.errors import KdedgeError
from kdedge.fidelity.comparison import compare
from kdedge.recipe import Recipe
from kdedge.recipe_file import load_recipe
from kdedge.source import version_of
from kdedge.tasks import TASKS
from kdedge.trained import ArmScores, Comparison, SeedScores
from kdedge.training import obtain_teacher, train_student
from kdedge.workspace import StageEvent, Workspace

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "kd_cifar10.md"
RUNS = ROOT / "benchmarks" / "kd_cifar10_runs.jsonl"
TUNED_LOSSES = ROOT / "benchmarks" / "kd_cifar10_tuned.yaml"
SEEDS, EPOCHS, TEST_IMAGES_OF_A_SMOKE_RUN = 3, 15, 1000
ALONE, STANDARDIZED, TUNED = "no-teacher", "kd-standardized", "tuned"
STAGES = ("layer1", "layer2", "layer3")
Losses = tuple[dict[str, Any], ...]

# DKD's beta is the authors' for ResNet-56 -> 20, its warm-up theirs (20 of 240 epochs) cut to this run; the other settings are published defaults.
ARMS: dict[str, Losses] = {
    ALONE: ({"ce": 1.0},),
    "kd": ({"ce": 0.1}, {"kd": 0.9, "temperature": 4.0}),
    STANDARDIZED: ({"ce": 0.1}, {"kd": 9.0, "temperature": 2.0, "standardize": True}),
    "dkd": ({"ce": 1.0}, {"dkd": {"0": 0.0, "0.0833": 1.0}, "temperature": 4.0, "alpha": 1.0, "beta": 2.0}),
    "dist": ({"ce": 1.0}, {"dist": 2.0, "temperature": 4.0, "beta": 1.0, "gamma": 1.0}),
    "at": ({"ce": 1.0}, {"at": 1000.0, "layers": list(STAGES)}),
}
# The fastest step of this student by processor time. With AVX-512 BF16: half of float32's; channels last is slower there, and what `compile` saves
# hardly pays for the compiling. Without: bfloat16 takes ten times as long as float32, from which channels last and `compile` take a third.
WITH_BF16: dict[str, Any] = {"precision": "bf16", "channels_last": False}
WITHOUT_BF16: dict[str, Any] = {"precision": "fp32", "channels_last": True, "compile": True}


@dataclass(frozen=True)
class Finished:
    """One run's figures: the accuracy after each epoch (None where it was not kept; the last always is), how long training took, and what the
    teacher's answers took, which runs share (s)."""

    arm: str
    seed: int
    setting: str
    examples: int
    scores: tuple[float | None, ...]
    seconds: float | None
    teacher_seconds: float | None
    machine: str

    @property
    def known(self) -> tuple[float, ...]:
        """The accuracies that were kept, the last epoch's last."""
        return tuple(score for score in self.scores if score is not None)

    @property
    def whole(self) -> bool:
        """Whether its best epoch is known."""
        return len(self.known) == len(self.scores)


class Told(progress.Silent):
    """Progress on standard error, a line a minute."""

    def __init__(self) -> None:
        self.said = 0.0

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        if time.monotonic() - self.said >= 60:
            self.said = time.monotonic()
            print(f"  {what}: {done}/{total} {note}", file=sys.stderr)

    def message(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workspace", type=Path, default=ROOT / "data" / "benchmarks" / "kd_cifar10")
    parser.add_argument("--tuned", type=Path, help="a recipe whose losses the arm `tuned` takes")
    parser.add_argument("--only", action="append", choices=[*ARMS, TUNED], help="run these arms alone; all are shown")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--limit", type=int, help="training images, for a smoke run (which takes 1,000 test images)")
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.epochs, arguments.limit or 1) < 1:
        parser.error("--seeds, --epochs and --limit are at least 1")
    try:
        benchmark(arguments)
    except KdedgeError as error:
        raise SystemExit(f"kd_cifar10: {error}") from error


def benchmark(arguments: argparse.Namespace) -> None:
    """Run what is missing, arm by arm, then show what is there."""
    arguments.workspace.mkdir(parents=True, exist_ok=True)
    arms = {**ARMS, TUNED: _tuned(arguments.tuned, arguments.workspace / "tuned.yaml")}
    recipes = {arm: recipe_of(losses, arguments.epochs, arguments.limit) for arm, losses in arms.items()}
    (arguments.workspace / "recipe.yaml").write_text(json.dumps(plain_recipe(ARMS[STANDARDIZED], arguments.epochs, arguments.limit), indent=1))
    whole = (arguments.seeds, arguments.epochs, arguments.limit) == (SEEDS, EPOCHS, None)
    log = RUNS if whole else arguments.workspace / "runs.jsonl"
    runs = _read(log)
    workspace = Workspace(arguments.workspace / "workspace", _event)
    with progress.listening(Told()):
        for arm in arguments.only or arms:
            for seed in range(arguments.seeds):
                if _find(runs, arm, seed, _setting(recipes[arm])) is None:
                    print(f"{arm}, seed {seed}", file=sys.stderr)
                    runs.append(one_run(arm, seed, recipes[arm], workspace))
                    _append(log, runs[-1])
    show(arms, recipes, runs, arguments)


# ---- one run ---------------------------------------------------------------------------------------------------------------


def plain_recipe(losses: Losses, epochs: int, limit: int | None) -> dict[str, Any]:
    """The recipe of an arm, as plain values. The rate rises over a fifth of the run and falls to 0, as in a one-cycle schedule."""
    data = data_folder()
    source = f"npz:{data / 'cifar10.npz'}"
    limits = {"limit_train": limit, "limit_test": TEST_IMAGES_OF_A_SMOKE_RUN} if limit else {}
    teacher = {"model": "kdedge:resnet56-cifar", "weights": str(data / "teachers/cifar10_resnet56/model.safetensors"), "normalize": "imagenet"}
    training = {"epochs": epochs, "batch_size": 128, "schedule": "cosine", "warmup_epochs": epochs / 5, "views": 5, "cache": {"use": "always"}}
    return {
        "name": "kd-cifar10",
        "task": "image-classification",
        "data": {"train": source, "test": source, "augment": ["crop4", "flip"], **limits},
        "teacher": teacher,
        "student": {"model": "kdedge:resnet8-cifar"},
        "distill": {**training, **_fast(), "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4}, "losses": list(losses)},
    }


def _fast() -> dict[str, Any]:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    return WITH_BF16 if "avx512_bf16" in flags else WITHOUT_BF16


def recipe_of(losses: Losses, epochs: int, limit: int | None) -> Recipe:
    """The recipe of an arm; `compare` makes the trainer keep the weights of every epoch."""
    found = Recipe.model_validate({**plain_recipe(losses, epochs, limit), "compare": {"seeds": max(2, SEEDS), "baseline": False}})
    check_recipe(found)
    return found


def data_folder() -> Path:
    """Where CIFAR-10 and the teacher lie: KDEDGE_DATA, data/ or ../shared/data."""
    places = [*map(Path, filter(None, [os.environ.get("KDEDGE_DATA")])), ROOT / "data", ROOT.parent / "shared" / "data"]
    for place in places:
        if (place / "cifar10.npz").is_file() and (place / "teachers/cifar10_resnet56/model.safetensors").is_file():
            return place.resolve()
    raise SystemExit(f"no cifar10.npz with teachers/cifar10_resnet56/model.safetensors in {', '.join(map(str, places))}: see docs/data.md")


def one_run(arm: str, seed: int, recipe: Recipe, workspace: Workspace) -> Finished:
    """Train one student from one seed, then look at the test images for each of its epochs."""
    assert recipe.distill is not None
    task = ImportPath(TASKS[recipe.task])
    reads = (*sources_of(recipe.data), *samples_of(recipe.data))
    data: PreparedData = workspace.stage("kdedge.tasks.prepare:prepare", task, recipe.data, recipe.seed, reads=reads)
    # Only the views' seed is the recipe's: the training seed differs from run to run, and the runs share what the teacher said.
    teacher = obtain_teacher(recipe, data.part("train"), workspace)
    course = train_student(recipe, recipe.distill.model_copy(update={"seed": seed}), data, teacher, workspace, f"{arm}, seed {seed}")
    arms = (Contestants(arm, (seed,), (course,), 1).arm,)
    found: Comparison = workspace.stage("kdedge.fidelity.comparison:evaluate", arms, data.part("test"), label=f"{arm}, seed {seed}")
    cost = cost_of(workspace, arm, [course])
    workspace.save()
    (scored,) = found.arms[0].seeds
    machine = f"{processor()}, {os.cpu_count()} cores, torch {version_of('torch')}, {recipe.distill.precision}"
    return Finished(arm, seed, _setting(recipe), found.examples, scored.epochs, cost.seconds[0], cost.teacher_seconds, machine)


def _setting(recipe: Recipe) -> str:
    """A digest of what the recipe says but where its files lie and how the step is computed: figures of other settings are not mixed."""
    assert recipe.distill is not None
    taught = recipe.distill.model_dump(mode="json", exclude=set(WITHOUT_BF16))
    said = [recipe.data.model_dump(mode="json", exclude={"train", "test"}), recipe.student.model, taught]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _tuned(named: Path | None, usual: Path) -> Losses:
    """The losses of a recipe that `kdedge tune` wrote, or those that the page's search found."""
    path = named or (usual if usual.is_file() else None)
    if path is None:
        return tuple(yaml.safe_load(TUNED_LOSSES.read_text(encoding="utf-8"))["losses"])
    found = load_recipe(path)
    if found.distill is None:
        raise SystemExit(f"{path}: has no `distill` section to take losses from")
    return found.distill.losses


def _event(event: StageEvent) -> None:
    if not event.cached:
        print(f"  {event.name}: {event.seconds:.1f} s", file=sys.stderr)


# ---- the log ---------------------------------------------------------------------------------------------------------------


def _read(log: Path) -> list[Finished]:
    """The finished runs. A line that a kill cut off is no run."""
    found = []
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            entry = json.loads(line)
            found.append(Finished(**{**entry, "scores": tuple(entry["scores"])}))
        except (ValueError, TypeError, LookupError):
            print(f"{log}: a line is no finished run and is left out: {line[:60]}", file=sys.stderr)
    return found


def _append(log: Path, run: Finished) -> None:
    torn = log.is_file() and log.stat().st_size > 0 and not log.read_bytes().endswith(b"\n")
    with log.open("a") as handle:
        handle.write(("\n" if torn else "") + json.dumps(vars(run)) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def _find(runs: Sequence[Finished], arm: str, seed: int, setting: str) -> Finished | None:
    return next((run for run in runs if (run.arm, run.seed, run.setting) == (arm, seed, setting)), None)


# ---- what is shown ---------------------------------------------------------------------------------------------------------


def show(arms: Mapping[str, Losses], recipes: Mapping[str, Recipe], runs: Sequence[Finished], arguments: argparse.Namespace) -> None:
    """Print the table and one line of JSON; write the page when all runs of the whole benchmark are there."""
    there = {
        arm: {seed: run for seed in range(arguments.seeds) if (run := _find(runs, arm, seed, _setting(recipe))) is not None}
        for arm, recipe in recipes.items()
    }
    done, total = sum(map(len, there.values())), (len(ARMS) + 1) * arguments.seeds
    whole = (arguments.seeds, arguments.epochs, arguments.limit) == (SEEDS, EPOCHS, None)
    lines = table(arms, there)
    about = _about(there, arguments)
    print("\n".join([*lines, "", about]))
    if done < total:
        print(f"\n{done} of {total} runs are there; docs/kd_cifar10.md is written when all are.")
    elif not whole:
        print(f"\nAll {total} runs of this setting are there; docs/kd_cifar10.md holds {SEEDS} seeds of {EPOCHS} epochs on all images only.")
    else:
        write_between(PAGE, "kd_cifar10", [*lines, "", about])
    figures = {arm: _as_json(arm, there) for arm in there if there[arm]}
    setting = {"seeds": arguments.seeds, "epochs": arguments.epochs, "limit": arguments.limit}
    print(json.dumps({"benchmark": "kd_cifar10", "runs": done, "of": total, **setting, "arms": figures}))


def table(arms: Mapping[str, Losses], there: Mapping[str, Mapping[int, Finished]]) -> list[str]:
    """Markdown: one row an arm."""
    lines = ["| losses | runs | last epoch | best epoch | gain over no teacher | minutes a run |", "| --- | --- | --- | --- | --- | --- |"]
    for arm, losses in arms.items():
        runs = there[arm]
        if not runs:
            lines.append(f"| {arm}: `{written(losses)}` | 0 | - | - | - | - |")
            continue
        minutes = [run.seconds / 60 for run in runs.values() if run.seconds is not None]
        spent = f"{statistics.mean(minutes):.1f}" if minutes else "-"
        last = _spread([run.known[-1] for run in runs.values()])
        curves = [run.known for run in runs.values() if run.whole]
        best = _spread([max(curve) for curve in curves]) + (f" ({len(curves)} runs)" if len(curves) < len(runs) else "") if curves else "not kept"
        lines.append(f"| {arm}: `{written(losses)}` | {len(runs)} | {last} | {best} | {_gain_text(arm, there)} | {spent} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    deviation = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation} %"


def _gain_text(arm: str, there: Mapping[str, Mapping[int, Finished]]) -> str:
    found = _against_alone(arm, there)
    if found is None or found.gain is None:
        return "-"
    return f"{found.gain.in_points}{'' if found.decided else ', undecided'}"


def _against_alone(arm: str, there: Mapping[str, Mapping[int, Finished]]) -> Comparison | None:
    """An arm against the one without a teacher, by the seeds that both have."""
    seeds = sorted(set(there[arm]) & set(there[ALONE]))
    if arm == ALONE or not seeds:
        return None
    pair = [(name, tuple(SeedScores(seed, there[name][seed].known) for seed in seeds)) for name in (arm, ALONE)]
    return compare("accuracy", "fraction", there[arm][seeds[0]].examples, pair)


def _as_json(arm: str, there: Mapping[str, Mapping[int, Finished]]) -> dict[str, Any]:
    runs = there[arm]
    alone = compare("accuracy", "fraction", 0, [(arm, tuple(SeedScores(seed, run.known) for seed, run in sorted(runs.items())))])
    scored: ArmScores = alone.arms[0]
    whole = all(run.whole for run in runs.values())
    gain = _against_alone(arm, there)
    return {
        "last": scored.last.as_json(),
        "best": scored.best.as_json() if whole else None,
        "sd": scored.deviation,
        "best_epochs": [seed.best_epoch for seed in scored.seeds] if whole else None,
        "gain": gain.gain.as_json() if gain is not None and gain.gain is not None else None,
        "decided": gain.decided if gain is not None else None,
        "seconds": [None if run.seconds is None else round(run.seconds, 1) for _, run in sorted(runs.items())],
        "teacher_seconds": next((run.teacher_seconds for run in runs.values()), None),
    }


def _about(there: Mapping[str, Mapping[int, Finished]], arguments: argparse.Namespace) -> str:
    runs = [run for found in there.values() for run in found.values()]
    if not runs:
        return "No run is there yet."
    asked = sorted({round(run.teacher_seconds / 60, 1) for run in runs if run.teacher_seconds is not None})
    cost = f" Asking the teacher about the views took {' and '.join(map(str, asked))} minutes, once for each set of questions." if asked else ""
    lost = sum(not run.whole for run in runs)
    kept = f" Of {lost} runs, made on a machine that is gone, only the last epoch was written down." if lost else ""
    images = f"{arguments.limit:,} training images" if arguments.limit else "50,000 training images"
    machines = "; ".join(sorted({run.machine for run in runs}))
    return (
        f"{arguments.epochs} epochs on {images}, {runs[0].examples:,} test images, up to {arguments.seeds} seeds. Accuracy: mean +- sd "
        "over seeds. The best epoch is chosen on the test images, so it promises too much. Gain: last epochs, paired by seed, with Student's t "
        f"interval (95 %). Minutes: training alone, on {machines}.{cost}{kept}"
    )


if __name__ == "__main__":
    main()
