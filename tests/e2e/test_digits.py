"""The main job from end to end: real digits, a teacher, a student, six artifacts, gate, bundles, report; and what a change makes again.

Everything runs as a person runs it, in processes of their own, from a copy of the source, so that the source itself can be changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdedge.bundle.verify import verify

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.limit_train=256",
    "data.limit_test=96",
    "data.calibration=32",
    "teacher.arguments.width=8",
    "teacher.train.epochs=4",
    "student.arguments.width=8",
    "distill.epochs=3",
    "profile={launches: 1, warmup_seconds: 0.05, min_seconds: 0.1}",
    'gate={size: "<= 500 KB"}',  # one that holds after a few steps too
)
CELLS = [
    (target, precision)
    for target, pair in (("onnxruntime-x86", ("fp32", "int8")), ("openvino", ("fp16", "int8")), ("tensorrt", ("fp16", "int8")))
    for precision in pair
]
MEASURED = {f"{stage} {target} {precision} on local" for stage in ("validate.validate", "launches.profile") for target, precision in CELLS[:4]}
# What stands on the student: all but the data, the teacher, and the encoded test images.
AFTER_THE_STUDENT = {
    *("trainer.distill", "references.reference_outputs", "onnx.export", "calibrate.calibrate", "page.write_report"),
    *(f"build.build {target} {precision}" for target, precision in CELLS),
    *MEASURED,
    *(f"validate.validate tensorrt {precision} on local" for precision in ("fp16", "int8")),
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Ran:
    """A run that ended: exit code, its JSON object, and stage -> whether it was read from the cache."""

    code: int
    found: dict[str, Any]
    cached: dict[str, bool]

    @property
    def made(self) -> set[str]:
        """Stages that ran, without the packing, which follows from what shipped."""
        return {stage for stage, cached in self.cached.items() if not cached and not stage.startswith("pack.")}


@dataclass(frozen=True)
class Copy:
    """A copy of the source with a workspace in it."""

    folder: Path

    def run(self, *options: str, recipe: str = "examples/digits.yaml") -> Ran:
        """`kdedge run RECIPE --json` of the cut-down recipe, started in the copy."""
        command = [sys.executable, "-m", "kdedge", "run", recipe, "--json", *words(*SMALL), *options]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL)
        assert ended.returncode in (0, 1, 3), ended.stderr
        lines = [line for line in ended.stderr.splitlines() if line.endswith((" cached", " s"))]
        return Ran(ended.returncode, json.loads(ended.stdout.splitlines()[-1]), {line[:-10].strip(): line.endswith("cached") for line in lines})

    @property
    def environment(self) -> dict[str, str]:
        """One thread, and this copy of kdedge before any other."""
        return {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}


def words(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The source, links and all."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("kdedge", "exporters", "runtimes", "devices"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "examples").mkdir()
    shutil.copyfile(ROOT / "examples" / "digits.yaml", folder / "examples" / "digits.yaml")
    shutil.copyfile(ROOT / "README.md", folder / "README.md")
    return Copy(folder)


@pytest.fixture(scope="module")
def first(source: Copy) -> Ran:
    return source.run()


@pytest.fixture
def copy(source: Copy, first: Ran, tmp_path: Path) -> Copy:
    """The source and the finished run, to be changed by one test."""
    assert first.found
    return Copy(Path(shutil.copytree(source.folder, tmp_path / "copy", symlinks=True)))


# ---- one run ---------------------------------------------------------------------------------------------------------------


def test_one_command_takes_a_teacher_to_a_gated_and_bundled_student(first: Ran) -> None:
    assert (first.code, first.found["verdict"], first.found["exit_code"]) == (0, "pass", 0)
    assert not any(first.cached.values())
    assert [(cell["target"], cell["precision"]) for cell in first.found["artifacts"]] == CELLS
    for cell in first.found["artifacts"][:4]:
        assert cell["status"] == "ok", cell["reason"]
        assert cell["metric"]["n"] == 96
        assert cell["agreement_student"]["value"] > 0.9
        assert sum(cell["executed"].values()) > 0
        # One launch has a median and no interval, and says so.
        assert (cell["latency_median"]["n"], cell["latency_median"]["low"]) == (1, None)
    assert first.found["teacher"]["metric"]["low"] > 0.1  # better than chance with ten classes, after a few steps
    report = Path(first.found["report"]).read_text()
    assert "<h1>digits" in report
    assert json.loads((Path(first.found["report"]).parent / "result.json").read_text()) == first.found


def test_tensorrt_artifacts_are_built_ahead_of_time_and_say_why_they_did_not_run(first: Ran) -> None:
    for cell in first.found["artifacts"][4:]:
        if cell["status"] == "ok":
            pytest.skip("this machine has a CUDA device and ran them")
        assert (cell["status"], cell["metric"], cell["latency_median"]) == ("not-run", None, None)
        assert "no CUDA device" in cell["reason"]
        assert "rtx-checked" in cell["reason"]


def test_every_bundle_verifies(first: Ran) -> None:
    codes = {Path(bundle).name: verify(Path(bundle)).exit_code for bundle in first.found["bundles"]}
    assert len([name for name in codes if "tensorrt" not in name]) == 2
    for name, code in codes.items():
        assert code == (3 if "tensorrt" in name and first.found["artifacts"][4]["status"] == "not-run" else 0), name


# ---- the second run --------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_read_from_the_cache_and_says_the_same(source: Copy, first: Ran) -> None:
    second = source.run()
    assert list(second.cached) == list(first.cached)
    assert all(second.cached.values())
    assert (second.code, second.found) == (first.code, first.found)


def test_python_gets_what_the_command_line_prints(source: Copy, first: Ran) -> None:
    code = f"""
import json, kdedge
made = []
result = kdedge.run("examples/digits.yaml", overrides={SMALL!r}, on_stage=lambda event: made.append(event.name) if not event.cached else None)
print(json.dumps({{"found": result.as_json(), "made": made, "code": result.exit_code}}))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=source.folder, env=source.environment, check=True)
    assert json.loads(ended.stdout) == {"found": first.found, "made": [], "code": first.code}


# ---- what a change makes again -----------------------------------------------------------------------------------------------


def test_a_changed_temperature_trains_the_student_again_and_nothing_before_it(copy: Copy) -> None:
    assert copy.run(*words("distill.losses.1.temperature=2")).made == AFTER_THE_STUDENT


def test_a_changed_loss_file_trains_the_student_again_and_nothing_before_it(copy: Copy) -> None:
    loss = copy.folder / "kdedge" / "distill" / "losses" / "kd.py"
    formula = "return (divergence * temperature**2).mean()"
    assert formula in loss.read_text()
    loss.write_text(loss.read_text().replace(formula, "return (divergence * temperature).mean()"))
    assert copy.run().made == AFTER_THE_STUDENT


def test_a_student_that_comes_out_the_same_makes_nothing_after_it_again(copy: Copy) -> None:
    loss = copy.folder / "kdedge" / "distill" / "losses" / "kd.py"
    loss.write_text(loss.read_text() + "\n# A remark.\n")
    assert copy.run().made == {"trainer.distill"}


def test_a_changed_readme_changes_nothing(copy: Copy) -> None:
    (copy.folder / "README.md").write_text("Something else entirely.\n")
    (copy.folder / "examples" / "NOTES.md").write_text("A file that nobody names.\n")
    assert all(copy.run().cached.values())


def test_a_changed_report_page_is_drawn_again_and_nothing_else(copy: Copy) -> None:
    page = copy.folder / "kdedge" / "report" / "page.jinja"
    page.write_text(page.read_text().replace("kdedge report</div>", "kdedge report, second edition</div>"))
    ran = copy.run()
    assert ran.made == {"page.write_report"}
    assert "second edition" in Path(ran.found["report"]).read_text()


def test_a_loss_of_the_users_own_is_found_beside_the_recipe_and_a_change_of_it_noticed(copy: Copy) -> None:
    folder = copy.folder / "mine"
    folder.mkdir()
    shutil.copyfile(copy.folder / "examples" / "digits.yaml", folder / "mine.yaml")
    loss = folder / "losses_of_mine.py"
    loss.write_text(
        "def distance(student_logits, teacher_logits, weight=1.0):\n    return weight * (student_logits - teacher_logits).square().mean()\n"
    )
    own = words('distill.losses=[{ce: 0.1}, {"losses_of_mine:distance": 1.0, weight: 0.1}]')
    options = (*own, "--workspace", ".kdedge")
    first = copy.run(*options, recipe="mine/mine.yaml")
    made = {*AFTER_THE_STUDENT, "rehearsal.rehearse"}
    assert first.made == made  # the teacher is the one that is there
    assert copy.run(*options, recipe="mine/mine.yaml").made == set()
    loss.write_text(loss.read_text().replace("square()", "abs()"))
    assert copy.run(*options, recipe="mine/mine.yaml").made == made
