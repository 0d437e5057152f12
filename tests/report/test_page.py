"""The report says everything that was found out, says nothing that was not, and cannot be made to do anything else."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import made_results as made
import pytest

from kdedge.gate import decide, parse_policy
from kdedge.report.layout import Bullets, Cards, Page, Section, Table
from kdedge.report.page import page_of, render, write_report
from kdedge.report.result import RunResult


class Parsed(HTMLParser):
    """Which tags a page has, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def section(page: Page, anchor: str) -> Section:
    return next(section for section in page.sections if section.anchor == anchor)


def rows(page: Page, anchor: str) -> dict[str, dict[str, str]]:
    """Table of a section: first field -> heading -> text, badge and note of the field; "" where a field takes several columns."""
    table = next(block for block in section(page, anchor).blocks if isinstance(block, Table))
    found = {}
    for row in table.rows:
        fields, column = {}, 1
        for cell in row[1:]:
            heading = table.head[column] if cell.span == 1 else ""
            fields[heading] = " ".join(part for part in (cell.text, cell.badge, cell.note) if part)
            column += cell.span
        assert column == len(table.head)
        found[row[0].text] = fields
    return found


def bullets(page: Page, anchor: str) -> list[str]:
    return [line for block in section(page, anchor).blocks if isinstance(block, Bullets) for line in block.lines]


@pytest.fixture
def result(tmp_path: Path) -> RunResult:
    return made.whole_result(tmp_path)


# ---- what it says ----------------------------------------------------------------------------------------------------------


def test_every_part_of_a_run_has_its_place(result: RunResult) -> None:
    page = page_of(result, made.TASK)
    anchors = ["decision", "results", "trade-off", "attribution", "gate", "fidelity", "speed", "devices", "what-ran", "bundles", "notes"]
    assert [section.anchor for section in page.sections] == [*anchors, "worst-cases", "lineage", "environment"]
    assert page.outcome == "fail"
    assert [(tile.label, tile.value) for tile in page.tiles] == [
        ("teacher, accuracy", "100.0 %"),
        ("student, accuracy", "95.0 %"),
        ("same answer as the teacher", "95.0 %"),
        ("student, parameters", "104,042"),
    ]
    assert page.tiles[3].note == "10.7 times fewer than the teacher's 1,108,978"


def test_a_target_says_what_it_ships_or_why_it_ships_nothing(result: RunResult) -> None:
    (block, *_) = section(page_of(result, made.TASK), "decision").blocks
    assert isinstance(block, Cards)
    ships, failed, absent = block.cards
    assert (ships.title, ships.outcome, ships.headline) == ("onnxruntime-x86", "pass", "ships int8")
    assert [tile.label for tile in ships.tiles] == ["accuracy", "same as student", "same as teacher", "median latency", "size"]
    assert any("fp32 fails: size 420 KB breaks" in line for line in ships.lines)
    assert (failed.outcome, failed.headline) == ("fail", "ships nothing")
    assert any("signal 11" in line for line in failed.lines)
    assert (absent.outcome, absent.headline) == ("not-run", "not run")
    assert "rtx-checked: int8" in absent.lines
    assert "bundled unproven, to be checked on the device: int8" in absent.lines


def test_a_result_row_holds_the_figures_with_their_intervals_or_the_reason(result: RunResult) -> None:
    found = rows(page_of(result, made.TASK), "results")
    assert found["onnxruntime-x86 int8"] == {
        "accuracy": "92.5 % [88.5, 96.5]",
        "same answer as student": "97.5 % [93.5, 100.0]",
        "same answer as teacher": "92.5 % [88.5, 96.5]",
        "median latency": "0.0760 ms [0.0745, 0.0783]",
        "p90 latency": "0.0912 ms [0.0836, 0.0988]",
        "size": "120.0 KB",
        "peak memory": "64 MB",
        "verdict": "pass",
    }
    assert found["onnxruntime-x86 fp32"]["verdict"] == "fail"
    assert found["openvino fp32"] == {"": "the worker died: signal 11 (SIGSEGV)", "verdict": "fail"}
    assert found["tensorrt int8"] == {"": f"{made.NO_DEVICE}; rtx-checked: {made.CHECK}", "verdict": "not-run"}


def test_each_step_is_compared_with_the_one_before_it(result: RunResult) -> None:
    found = rows(page_of(result, made.TASK), "attribution")
    assert list(found) == ["teacher", "student", "onnxruntime-x86 fp32 on local", "onnxruntime-x86 int8 on local"]
    assert (found["student"]["against"], found["student"]["gained / lost"]) == ("teacher", "0 / 2")
    assert (found["onnxruntime-x86 int8 on local"]["against"], found["onnxruntime-x86 int8 on local"]["gained / lost"]) == (
        "onnxruntime-x86 fp32 on local",
        "0 / 1",
    )
    assert found["student"]["change"].startswith("-5 % [-")


def test_the_gate_shows_the_figure_that_decided_and_says_in_words_what_did_not_pass(result: RunResult) -> None:
    page = page_of(result, made.TASK)
    found = rows(page, "gate")
    assert found["onnxruntime-x86 fp32"]["size <= 200 KB"] == "420.0 KB fail"
    assert found["onnxruntime-x86 int8"]["latency_median <= 5 ms"] == "0.0760 ms pass [0.0745, 0.0783]"
    said = bullets(page, "gate")
    assert "onnxruntime-x86 fp32 on local: size 420 KB breaks `<= 200 KB`" in said
    assert "openvino fp32 on local: failed: the worker died: signal 11 (SIGSEGV)" in said


def test_a_figure_too_small_for_decimals_is_not_shown_as_zero(result: RunResult) -> None:
    assert rows(page_of(result, made.TASK), "fidelity")["onnxruntime-x86 int8"]["KL to student"] == "3.0e-14 nats [2.0e-14, 4.0e-14]"


def test_a_bundle_comes_with_its_digest_and_how_to_check_it(result: RunResult) -> None:
    text = render(page_of(result, made.TASK))
    found = rows(page_of(result, made.TASK), "bundles")
    assert found["made-onnxruntime-x86-int8"]["manifest digest"] == "ab" * 32
    assert found["made-tensorrt-int8"]["state"] == "unproven to be checked on the device"
    assert "kdedge verify bundles/made-onnxruntime-x86-int8" in text
    assert "python3 bundles/made-onnxruntime-x86-int8/self_check.py" in text


def test_lineage_and_environment_name_everything_by_content(result: RunResult) -> None:
    text = " ".join(Parsed(render(page_of(result, made.TASK))).text)
    for known in ("big@0123", "small@4567", "f" * 64, "d" * 64, "9" * 64, "2.13.0", "AMD EPYC", *(one.sha256 for one in result.artifacts)):
        assert known in text
    assert "`linear/Gemm`" not in text  # set as code
    assert "linear/Gemm" in text


# ---- what it does not say --------------------------------------------------------------------------------------------------


def test_without_a_teacher_nothing_is_said_of_one(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path, teacher=False)
    artifacts = tuple(dataclasses.replace(one, lineage=dataclasses.replace(one.lineage, teacher="")) for one in result.artifacts)
    page = page_of(result.having(artifacts=artifacts), made.TASK)
    heads = [heading for part in page.sections for block in part.blocks if isinstance(block, Table) for heading in block.head]
    assert [heading for heading in heads if "teacher" in heading] == []
    assert [tile.label for tile in page.tiles] == ["student, accuracy", "student, parameters"]
    assert "worst-cases" not in [part.anchor for part in page.sections]
    assert next(iter(rows(page, "attribution"))) == "student"


def test_a_proxy_has_no_latency_and_says_why(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path)
    board = made.artifact(tmp_path, "tensorrt", "int8")
    proxy = made.measured(tmp_path, board, wrong=(0, 1), ms=77.25, device="emulated", proxy=True)
    cells = (*result.cells[:2], proxy)
    page = page_of(result.having(cells=cells, verdict=decide(parse_policy({"latency_median": "<= 5 ms"}), cells)), made.TASK)
    row = rows(page, "results")["tensorrt int8"]
    assert (row["median latency"], row["p90 latency"], row["peak memory"]) == ("-", "-", "-")
    assert row["accuracy"].startswith("95.0 %")
    assert rows(page, "gate")["tensorrt int8"]["latency_median <= 5 ms"] == "- not-counted"
    assert "77.2" not in render(page)
    assert any("a proxy" in line for line in bullets(page, "speed"))


def test_what_the_devices_told_of_themselves_stands_beside_what_was_measured(tmp_path: Path) -> None:
    page = page_of(made.watched_result(tmp_path), made.TASK)
    board, launches = (block for block in section(page, "devices").blocks if isinstance(block, Table))
    assert [cell.text for cell in board.rows[0]] == ["local", "host", "x86_64", "jetson-orin-nano-8gb", "NVIDIA Jetson Orin Nano, Ubuntu 22.04"]
    shown = {row[0].text: dict(zip(launches.head, row, strict=True)) for row in launches.rows}
    dropped, supplied, long = (shown[f"onnxruntime-x86 {precision}"] for precision in ("fp32", "int8", "mixed"))
    assert (dropped["launches that count"].text, dropped["throttled"].text) == ("5 of 6", "in 1 of 6 launches")
    assert (supplied["energy, net"].text, supplied["energy, net"].note, dropped["energy, net"].text) == ("0.310 mJ", "[0.290, 0.330]", "-")
    assert (long["steady state"].text, long["steady state"].note) == ("0.15 ms", "1.5 x first minute")
    assert (long["CPU clock"].text, long["hottest zone"].text) == ("-", "30 to 88 °C")
    assert bullets(page, "devices") == ["measured at VDD_IN, read every 50.2 ms, at least 199 times a launch; net of the idle machine"]
    assert len(shown) == 3  # what did not run has no row


def test_a_device_that_tells_nothing_is_named_all_the_same(result: RunResult) -> None:
    board, launches = (block for block in section(page_of(result, made.TASK), "devices").blocks if isinstance(block, Table))
    assert [cell.text for cell in board.rows[0]] == ["local", "host", "x86_64", "-", "AMD EPYC"]
    assert launches.head == ("artifact", "launches that count")


def test_a_gate_without_rules_claims_no_confidence(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path)
    ran = result.cells[:2]
    kept = "Every target that ran has an artifact that keeps the gate with 95 % confidence."
    for rules, expected in (
        ({"size": "<= 1 GB"}, kept),
        ({}, "Every target that ran has an artifact that ran without a failure; the gate has no rules"),
    ):
        page = page_of(result.having(cells=ran, verdict=decide(parse_policy(rules), ran)), made.TASK)
        assert page.outcome == "pass"
        assert page.headline.startswith(expected)
    waiting = result.cells[3:]
    page = page_of(result.having(cells=waiting, verdict=decide(parse_policy({}), waiting)), made.TASK)
    assert page.headline == "Nothing ran on any device, so nothing is proven."


def test_a_run_without_cells_is_a_page_all_the_same(tmp_path: Path) -> None:
    result = made.whole_result(tmp_path).having(cells=(), artifacts=(), bundles=(), devices=(), verdict=decide(parse_policy({"size": "<= 1 MB"}), ()))
    page = page_of(result, made.TASK)
    assert page.headline == "Nothing ran on any device, so nothing is proven."
    assert [part.anchor for part in page.sections] == ["decision", "worst-cases"]
    assert "<h1>made" in render(page)


def test_a_run_that_was_not_gated_has_a_status_and_no_verdict(result: RunResult) -> None:
    page = page_of(result.having(verdict=None, bundles=()), made.TASK)
    assert page.outcome == ""
    assert [part.anchor for part in page.sections if part.anchor in ("decision", "gate", "bundles")] == []
    assert rows(page, "results")["tensorrt int8"]["status"] == "not-run"


def test_a_gate_without_rules_says_so(tmp_path: Path) -> None:
    page = page_of(made.whole_result(tmp_path, gate={}), made.TASK)
    assert any("the gate has no rules" in line for line in bullets(page, "decision"))
    assert "gate" not in [part.anchor for part in page.sections]


# ---- what it cannot be made to do ------------------------------------------------------------------------------------------


def test_names_and_notes_from_outside_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    plain = Parsed(render(page_of(made.whole_result(tmp_path / "plain"), made.TASK)))
    text = render(page_of(made.hostile_result(tmp_path / "hostile"), made.TASK))
    parsed = Parsed(text)
    assert {tag for tag, _ in parsed.tags} <= {tag for tag, _ in plain.tags}
    assert {name for _, attributes in parsed.tags for name in attributes} <= {name for _, attributes in plain.tags for name in attributes}
    assert not {"script", "img", "iframe", "object", "embed", "link", "form", "base"} & {tag for tag, _ in parsed.tags}
    assert "".join(parsed.text).count("<script>alert('x')</script>") > 40  # shown, as text
    assert "{{ 7 * 7 }}" in "".join(parsed.text)


def test_a_page_refers_to_nothing_outside_itself(result: RunResult) -> None:
    text = render(page_of(result, made.TASK))
    parsed = Parsed(text)
    links = [
        value
        for _, attributes in parsed.tags
        for name, value in attributes.items()
        if name in ("href", "src", "xlink:href", "srcset", "data", "action")
    ]
    assert links
    assert [link for link in links if not (link or "").startswith("#")] == []
    assert [fragment for fragment in text.split("url(")[1:] if not fragment.startswith("#")] == []
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")] == []
    policy = next(attributes["content"] for tag, attributes in parsed.tags if tag == "meta" and "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_link_has_its_end_and_no_id_is_given_twice(result: RunResult) -> None:
    parsed = Parsed(render(page_of(result, made.TASK)))
    ids = Counter(attributes["id"] for _, attributes in parsed.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    assert [value for _, attributes in parsed.tags for name, value in attributes.items() if name == "href" and (value or "")[1:] not in ids] == []


def test_the_same_result_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    code = f"import made_results as made; from kdedge.report.page import *; made_dir = Path({str(tmp_path)!r}); "
    code += "print(render(page_of(made.whole_result(made_dir), made.TASK)), end='')"
    here = render(page_of(made.whole_result(tmp_path), made.TASK))
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(made.__file__).parent)}
        there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True).stdout
        assert there == here
    assert str(tmp_path) not in here


def test_the_stage_writes_the_page_into_its_folder(result: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    path = write_report(result, made.TASK, folder=folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == render(page_of(result, made.TASK))
