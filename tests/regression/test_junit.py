"""The JUnit file of a check: what each state becomes, figures that a machine reads, and nothing that XML cannot hold."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regression_world import EQUAL, SLOW, cell, checked, four_states, report

from kdedge.regression.junit import junit_xml

# Structure after https://github.com/testmoapp/junitxml: element -> (attributes that it must have, elements that it may hold).
SCHEMA = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time", "timestamp"}, {"properties", "testcase", "system-out"}),
    "testcase": ({"classname", "name", "time"}, {"properties", "failure", "error", "skipped", "system-out"}),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}


def follows_the_schema(element: ElementTree.Element) -> None:
    attributes, children = SCHEMA[element.tag]
    assert set(element.keys()) == attributes, element.tag
    assert {child.tag for child in element} <= children, element.tag
    for child in element:
        follows_the_schema(child)


def test_every_state_becomes_what_ci_knows() -> None:
    root = ElementTree.fromstring(junit_xml(four_states()))
    follows_the_schema(root)
    outcomes = {case.get("name"): [child.tag for child in case if child.tag in ("failure", "error", "skipped")] for case in root.iter("testcase")}
    assert outcomes == {"cpu/fp32": [], "cpu/int8": ["failure"], "gpu/fp16": ["skipped"], "gpu/int8": ["error"]}
    for suite in (root, root[0]):
        assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")] == ["4", "1", "1", "1", "6.000"]
    failure = next(root.iter("failure"))
    assert failure.get("type") == "regressed"
    assert str(failure.get("message")).startswith("median is slower by more than 3 %: 10.")
    assert "not compared: gpu/fp32" in str(root[0].findtext("system-out"))


def test_the_figures_of_a_cell_are_those_of_its_verdict() -> None:
    found = checked(SLOW)
    root = ElementTree.fromstring(junit_xml(report(cell(found))))
    case = next(root.iter("testcase"))
    values = {each.get("name"): str(each.get("value")) for each in case.iter("property")}
    test = found.verdict.tests[0]
    assert values["state"] == "regressed"
    assert values["pairs"] == "10"
    assert float(values["latency_median.effect_percent"]) == pytest.approx(test.effect.value, rel=1e-5)
    assert float(values["latency_median.low_percent"]) == pytest.approx(test.effect.low, rel=1e-5)
    assert float(values["latency_median.p_regressed"]) == pytest.approx(2**-10, rel=1e-5)  # all of ten pairs are slower
    assert float(values["margin"]) == 0.03
    assert 0.03 < float(values["detectable_after"]) < 0.04


def test_a_cell_that_was_measured_again_says_why_it_is_what_it_is() -> None:
    twice = cell(checked(SLOW), again=checked(EQUAL), state="inconclusive", notes=("flagged, and measured again: equivalent",))
    case = next(ElementTree.fromstring(junit_xml(report(twice))).iter("testcase"))
    assert case.get("time") == "3.000"
    skipped = case.find("skipped")
    assert skipped is not None
    assert str(skipped.get("message")).startswith("flagged, and measured again: equivalent; median is not slower")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_name_is_readable_xml(name: str, device: str) -> None:
    root = ElementTree.fromstring(junit_xml(report(cell(checked(SLOW, name=name), device=device), names=(name, name))))
    follows_the_schema(root)


def test_markup_in_names_stays_text_and_what_xml_forbids_is_left_out() -> None:
    hostile = "</testcase>\x00\x1b[31m<b>&\ud800\ufffe\"'"
    case = next(ElementTree.fromstring(junit_xml(report(cell(checked(SLOW, name=hostile))))).iter("testcase"))
    assert case.get("name") == "</testcase>[31m<b>&\"'"


def test_a_slow_down_that_nothing_finds_has_no_figure() -> None:
    root = ElementTree.fromstring(junit_xml(report(cell(checked(EQUAL, problem="hot")))))
    assert "detectable_after" not in {each.get("name") for each in root.iter("property")}
