"""Files that were asked for are written, seen to be possible before, and lines for a terminal say the verdict first."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest
from regression_world import EQUAL, SLOW, cell, checked, four_states, report

from kdedge.errors import MissingExtra, WorkspaceError
from kdedge.regression.markdown import markdown
from kdedge.regression.outputs import check_outputs, lines_of, write_outputs
from kdedge.regression.page import page_of
from kdedge.regression.wording import headline_of


def test_a_summary_is_put_behind_what_stands_in_the_file_and_junit_replaces_it(tmp_path: Path) -> None:
    outputs = {"junit": tmp_path / "deep" / "junit.xml", "markdown": tmp_path / "summary.md", "html": None}
    (tmp_path / "summary.md").write_text("# before\n")
    for _ in range(2):
        write_outputs(report(cell(checked(SLOW))), outputs)
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("# before\n\n## kdedge check: regressed\n")
    assert summary.count("## kdedge check") == 2
    assert (tmp_path / "deep" / "junit.xml").read_text().count("<testsuites") == 1


def test_a_name_that_is_no_text_costs_no_report(tmp_path: Path) -> None:
    found = report(cell(checked(SLOW, name="model\udcff")), names=("a\udcff", "b\udcff"))
    outputs = {name: tmp_path / name for name in ("junit", "markdown", "html")}
    write_outputs(found, outputs)
    assert all("model" in (tmp_path / name).read_text(encoding="utf-8") for name in outputs)


def test_what_cannot_be_written_is_said_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "junit.xml"):
        with pytest.raises(WorkspaceError, match="cannot be written"):
            check_outputs({"junit": path})
        with pytest.raises(WorkspaceError, match="cannot be written"):
            write_outputs(report(cell(checked(SLOW))), {"junit": path})
    check_outputs({"junit": tmp_path / "new" / "junit.xml", "html": None})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_full_costs_none_of_the_other_files(tmp_path: Path) -> None:
    full, elsewhere = Path("/dev/full"), tmp_path / "folder"
    elsewhere.mkdir()
    with pytest.raises(WorkspaceError, match=rf"^{full} cannot be written: No space left on device; {elsewhere} cannot be written: Is a directory$"):
        write_outputs(report(cell(checked(SLOW))), {"junit": full, "markdown": tmp_path / "summary.md", "html": elsewhere})
    assert "## kdedge check: regressed" in (tmp_path / "summary.md").read_text()


def test_seeing_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_text("# before\n")
    check_outputs({"junit": tmp_path / "junit.xml", "markdown": tmp_path / "summary.md"})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.md"]
    assert (tmp_path / "summary.md").read_text() == "# before\n"
    (tmp_path / "latest.xml").symlink_to(tmp_path / "today.xml")
    os.mkfifo(tmp_path / "pipe")
    check_outputs({"junit": tmp_path / "latest.xml", "markdown": tmp_path / "pipe"})  # who opens a pipe to write waits for a reader
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.xml", "pipe", "summary.md"]
    assert (tmp_path / "latest.xml").is_symlink()
    with pytest.raises(WorkspaceError, match=r"^/proc/junit\.xml cannot be written: "):  # where not even root may write
        check_outputs({"junit": Path("/proc/junit.xml")})


def test_a_page_without_its_tools_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "jinja2" else found(name, *rest))
    check_outputs({"junit": tmp_path / "junit.xml", "html": None})
    with pytest.raises(MissingExtra, match=r"jinja2.*kdedge\[report\]"):
        check_outputs({"html": tmp_path / "check.html"})


def test_lines_say_each_verdict_and_then_that_of_all() -> None:
    lines = list(lines_of(four_states()))
    assert lines[0].startswith("equivalent (cpu/fp32 on board): median is not slower by 3 %")
    assert lines[-1] == "regressed: 1 equivalent, 1 regressed, 1 inconclusive, 1 invalid"
    assert lines[-2] == "not compared: gpu/fp32 stands in models/before.onnx only"
    (alone,) = [line for line in lines_of(report(cell(checked(EQUAL)))) if not line.startswith(" ")]
    assert alone.startswith("equivalent on board: ")


def test_a_terminal_says_why_a_second_measurement_changed_the_verdict_and_that_times_are_made_up() -> None:
    twice = cell(checked(SLOW), again=checked(EQUAL), state="inconclusive", notes=("flagged, and measured again: equivalent",))
    first, *others = lines_of(report(replace(twice, kind="simulated")))
    assert first.startswith("inconclusive on board: flagged, and measured again: equivalent; median is not slower by 3 %")
    assert others.count("  the device is simulated: its times are made up") == 1
    assert not any("simulated" in line for line in lines_of(report(twice)))


def test_what_makes_a_check_with_a_lost_artifact_inconclusive_stands_first() -> None:
    """The cell that is left is equivalent: its reason alone would explain another verdict than the one above it."""
    found = report(cell(checked(EQUAL), key="cpu/fp32"), lost=("cpu/int8", "gpu/fp16"))
    assert found.state == "inconclusive"
    said = "the candidate has no cpu/int8, gpu/fp16, which the baseline has; median is not slower by 3 %"
    assert headline_of(found).startswith(said)
    assert said in markdown(found)
    assert page_of(found).headline.startswith(said)
    assert list(lines_of(found))[-1] == "inconclusive: 1 equivalent, 2 lost"
    several = report(cell(checked(EQUAL), key="cpu/fp32"), cell(checked(SLOW), key="cpu/fp16"), lost=("cpu/int8",))
    assert headline_of(several) == "2 cells: 1 equivalent, 1 regressed, 1 lost"


def test_what_nothing_finds_is_no_number() -> None:
    text = "\n".join(lines_of(report(cell(checked(EQUAL, problem="hot")))))
    assert "would have been found" not in text
    assert "would have been found" in "\n".join(lines_of(report(cell(checked(EQUAL)))))
