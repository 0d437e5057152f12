"""What the teacher cost reaches the user: on the page, in the terminal, for machines."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import made_results as made
import pytest
import small_recipes
from rich.console import Console

from kdedge.cli.table import print_result
from kdedge.report.kept import kept_in, kept_json
from kdedge.report.layout import Bullets, Table
from kdedge.report.page import page_of, render
from kdedge.report.result import RunResult
from kdedge.report.teacher_cost import lines, teacher_cost
from kdedge.trained import CacheChoice, CachedView, TrainedLesson

ON = CacheChoice(True, "it pays", teacher_ms=2.0, read_ms=0.005, view_bytes=1_000_000, epochs=30)
OFF = CacheChoice(False, "a loss compares whole feature maps")


def lesson(folder: Path, label: str, choice: CacheChoice | None, views: int | None) -> TrainedLesson:
    """A training run; each view took 1.5 s and 1.5 MB."""
    kept = []
    for view in range(views or 0) if choice is not None and choice.use else ():
        place = folder / f"{label}{view}"
        place.mkdir(parents=True)
        (place / "cost.json").write_text(json.dumps({"seconds": 1.5, "bytes": 1_500_000}))
        kept.append(CachedView(view, 100, place / "manifest.json", ()))
    return TrainedLesson(label, made.model("student", 10), 30, views, choice, tuple(kept))


@pytest.fixture
def result(tmp_path: Path) -> RunResult:
    lessons = (lesson(tmp_path, "stage 1", OFF, 4), lesson(tmp_path, "stage 2", ON, 3))
    return made.whole_result(tmp_path).having(training=lessons)


def test_size_hit_rate_and_cost_by_hand(result: RunResult) -> None:
    off, on = kept_in(result.training)
    assert (off.use, off.bytes, off.hit_rate, off.seconds) == (False, 0, 0.0, None)
    # 3 of 30 epochs are asked about, 27 are read; three views of 1.5 s and 1.5 MB.
    assert (on.views, on.bytes, on.seconds) == (3, 4_500_000, 4.5)
    assert on.hit_rate == pytest.approx(0.9)


def test_the_page_has_a_row_for_what_was_kept_and_a_reason_for_what_was_not(result: RunResult) -> None:
    section = teacher_cost(result)
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert len({len(row) for row in table.rows} | {len(table.head)}) == 1
    row = dict(zip(table.head, (cell.text for cell in table.rows[0]), strict=True))
    assert row == {
        "training": "stage 2",
        "views": "3",
        "on disk": "4.50 MB",
        "time to ask": "4.5 s",
        "read instead of asked": "90.0%",
        "teacher, an example": "2 ms",
        "reading, an example": "0.005 ms",
        "why": "it pays",
    }
    said = [line for block in section.blocks if isinstance(block, Bullets) for line in block.lines]
    assert said == ["stage 1: the teacher is asked anew in every step: a loss compares whole feature maps"]
    assert "What the teacher cost" in render(page_of(result, made.TASK))


def test_the_terminal_says_it_after_the_student(result: RunResult) -> None:
    text = StringIO()
    print_result(result, Console(file=text, width=200, highlight=False))
    said = text.getvalue().splitlines()
    first = next(number for number, line in enumerate(said) if line.startswith("teacher in stage 1: "))
    assert any(line.startswith("student: ") for line in said[:first])
    assert said[first] == "teacher in stage 1: asked anew in every step: a loss compares whole feature maps"
    assert said[first + 1] == (
        "teacher in stage 2: answers about 3 views kept, 4.50 MB, asked in 4.5 s; 90% of its answers were read instead of asked"
    )


def test_machines_get_every_figure(result: RunResult) -> None:
    off, on = result.as_json()["teacher_cache"]
    assert on == {
        "lesson": "stage 2",
        "use": True,
        "reason": "it pays",
        "views": 3,
        "bytes": 4_500_000,
        "seconds": 4.5,
        "hit_rate": pytest.approx(0.9),
        "teacher_ms": 2.0,
        "read_ms": 0.005,
    }
    assert off.keys() == on.keys()
    assert (off["use"], off["reason"]) == (False, OFF.reason)


def test_without_a_teacher_nothing_is_said(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path, teacher=False).having(training=(lesson(tmp_path, "", None, 3),))
    assert teacher_cost(result) is None
    assert lines(result) == []
    assert "teacher_cache" not in result.as_json()


def test_a_view_that_was_removed_meanwhile_still_has_its_size(tmp_path: Path) -> None:
    trained = lesson(tmp_path, "", ON, 2)
    for view in trained.cache:
        view.manifest.with_name("cost.json").unlink()
    (found,) = kept_json([trained])
    assert (found["bytes"], found["seconds"]) == (2_000_000, None)


def test_a_run_without_views_says_on_the_page_alone_why_nothing_is_kept(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path).having(training=(lesson(tmp_path, "", OFF, None),))
    assert lines(result) == []
    assert teacher_cost(result) is not None


# ---- whole runs ------------------------------------------------------------------------------------------------------------


def always(content: small_recipes.Plain, **cache: object) -> None:
    content["data"]["augment"] = ["crop1", "flip"]
    content["distill"] |= {"epochs": 4, "views": 2, "cache": {"use": "always", **cache}}


def test_a_run_that_keeps_answers_reports_them_and_finds_them_again(tmp_path: Path) -> None:
    recipe = small_recipes.write(tmp_path, always)
    first = small_recipes.run(recipe, "--json")
    assert first.code in (0, 1, 3), first.err
    assert {"cache.fill view 1/2": False, "cache.fill view 2/2": False}.items() <= small_recipes.stages(first).items()
    (kept,) = json.loads(first.out.splitlines()[-1])["teacher_cache"]
    assert (kept["use"], kept["views"], kept["hit_rate"]) == (True, 2, 0.5)
    # 48 examples of three halves and the header of a file, twice.
    assert 2 * 48 * 6 <= kept["bytes"] <= 2 * (48 * 6 + 200)
    assert kept["seconds"] > 0
    assert "50% of its answers were read instead of asked" in " ".join(first.out.split())
    report = tmp_path / "workspace" / "runs" / "small" / "report.html"
    assert "What the teacher cost" in report.read_text()
    second = small_recipes.run(recipe, "--json")
    assert all(small_recipes.stages(second).values())
    assert json.loads(second.out.splitlines()[-1])["teacher_cache"] == [kept]


def test_another_loss_on_the_same_answers_asks_the_teacher_nothing(tmp_path: Path) -> None:
    small_recipes.run(small_recipes.write(tmp_path, always), command="distill")

    def hotter(content: small_recipes.Plain) -> None:
        always(content)
        content["distill"]["losses"] = [{"ce": 0.5}, {"kd": 1.0, "temperature": 4}]

    ended = small_recipes.run(small_recipes.write(tmp_path, hotter), command="distill")
    made_now = small_recipes.stages(ended)
    assert made_now["cache.fill view 1/2"]
    assert made_now["cache.fill view 2/2"]
    assert not made_now["trainer.distill"]


def test_a_limit_removes_the_answers_of_earlier_runs_and_those_too_large_are_refused(tmp_path: Path) -> None:
    small_recipes.run(small_recipes.write(tmp_path, always), command="distill")
    workspace = tmp_path / "workspace"
    before = set(workspace.glob("stages/cache.fill-*"))
    size = max(sum(path.stat().st_size for path in folder.iterdir()) for folder in before)

    def other_seed(content: small_recipes.Plain) -> None:
        always(content, limit_gb=2.5 * size / 1e9)
        content["seed"] = 9

    ended = small_recipes.run(small_recipes.write(tmp_path, other_seed), command="distill")
    assert ended.code == 0, ended.err
    assert "removed" in ended.err
    after = set(workspace.glob("stages/cache.fill-*"))
    assert len(after) == 2
    assert not after & before
    refused = small_recipes.run(small_recipes.write(tmp_path, lambda content: always(content, limit_gb=1e-7)), command="distill")
    small_recipes.refused(refused, "distill.cache.limit_gb", "the teacher's answers take", "(2 views)")
