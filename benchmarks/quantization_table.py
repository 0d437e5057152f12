"""How `quantization.py` shows what it found: a table for people, and figures with their intervals as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantization_contest import DISTILLED, OURS, Found
from quantization_kdedge import DIALECTS
from quantization_measure import AS_WRITTEN, latency_ratio, ratio, regressed

from kdedge.estimate import Estimate
from kdedge.intervals import mean_estimate, median_estimate

HEAD = (
    "| model, runtime | quantizer | KL, or 1 - cosine, to float | agreement | ms | against the best peer | layers in int8 | seconds | MB |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def rows(found: Mapping[str, Found]) -> list[str]:
    """Markdown: one row a model, runtime and quantizer."""
    lines = [*HEAD]
    for name, result in found.items():
        for runtime in result.scores:
            lines += [_row(name, runtime, who, result) for who in _listed(result, runtime)]
        lines += [f"| {name} | {who} | failed: {_short(made['failed'])} | | | | | | |" for who, made in result.made.items() if "failed" in made]
    return lines


def _listed(result: Found, runtime: str) -> Iterator[str]:
    """Ours first, then the peers from the best to the worst, then the float graph."""
    scores = result.scores[runtime]
    yield from (who for who in (OURS, DISTILLED) if who in scores)
    yield from sorted((who for who in scores if who not in (OURS, DISTILLED, "float")), key=lambda who: float(scores[who].distance.mean()))
    yield from (who for who in ("float",) if who in scores)


def _row(name: str, runtime: str, who: str, result: Found) -> str:
    scores, best = result.scores[runtime][who], result.best.get(runtime)
    figure = _plain(mean_estimate(result.measure, scores.distance, " "))
    agreement = "" if scores.same_class is None else f"{100 * float(scores.same_class.mean()):.2f} %"
    pairs = result.launches.get(runtime, {})
    taken = [ours for ours, _ in pairs.get(who, [])] or ([theirs for _, theirs in pairs.get(OURS, [])] if who == best else [])
    milliseconds = f"{median_estimate('ms', taken, 'ms').value:.3f}" if taken else ""
    made, executed = result.made.get(who, {}), result.executed[runtime].get(who, {})
    integers = f"{executed.get('int8', 0)} of {executed.get('int8', 0) + executed.get('fp32', 0)}"
    spent = f"{made['seconds']:.0f}" if "seconds" in made else ""
    memory = f"{made['peak_memory_mb']:.0f}" if made.get("peak_memory_mb") else ""
    label = f"**{who}**{_dropped(made, runtime, who)}" if who in (OURS, DISTILLED) else f"{who} (best peer)" if who == best else who
    versus = _versus(result, runtime, who) if who in (OURS, DISTILLED) else ""
    return f"| {name}, {runtime} | {label} | {figure} | {agreement} | {milliseconds} | {versus} | {integers} | {spent} | {memory} |"


def _dropped(made: Mapping[str, Any], runtime: str, who: str) -> str:
    """Where a training did not help, its file is that of the arm without it."""
    steps = made.get("steps", {}).get(runtime, ()) if who == DISTILLED else ()
    return "".join(" (dropped)" for step in steps if step["name"] == "aware" and not step["kept"])


def _versus(result: Found, runtime: str, who: str) -> str:
    """Distance and latency of an arm by the best peer's."""
    if runtime not in result.best:
        return ""
    parts = [f"{_plain(_ratio(result, runtime, who))} x the distance"]
    pairs = result.launches.get(runtime, {}).get(who)
    if pairs:
        taken = latency_ratio(pairs)
        parts.append(f"{_plain(taken)} x the time{', slower' if regressed(taken) else ''}")
    return ", ".join(parts)


def _ratio(result: Found, runtime: str, who: str) -> Estimate:
    scores = result.scores[runtime]
    return ratio(scores[who], scores[result.best[runtime]])


def _plain(estimate: Estimate) -> str:
    """Three significant digits, and the interval where there is one."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _short(text: str) -> str:
    return text.replace("|", "/")[:110]


# ---- JSON ------------------------------------------------------------------------------------------------------------------


def as_json(result: Found) -> dict[str, Any]:
    """Figures of one model, each by runtime; ratios are ours by the best peer's."""
    runtimes = [runtime for runtime in result.scores if runtime in result.best]

    def ratios(who: str) -> dict[str, Any]:
        return {runtime: _ratio(result, runtime, who).as_json() for runtime in runtimes if who in result.scores[runtime]}

    def latencies(who: str) -> dict[str, Any]:
        return {runtime: latency_ratio(pairs[who]).as_json() for runtime, pairs in result.launches.items() if pairs.get(who)}

    ours = result.made.get(OURS, {})
    passed, collected = ours.get("float_pass_seconds"), ours.get("collection_seconds")
    key = "kl" if result.measure == "kl" else "distance"
    return {
        "test_examples": result.examples,
        "best_peer": result.best,
        f"{key}_ratio_to_best_peer": ratios(OURS),
        f"{key}_ratio_with_distillation": ratios(DISTILLED) or None,
        "latency_ratio_to_best_peer": latencies(OURS),
        "latency_ratio_with_distillation": latencies(DISTILLED) or None,
        "regressed": {runtime: regressed(latency_ratio(pairs[OURS])) for runtime, pairs in result.launches.items() if pairs.get(OURS)},
        "peak_memory_mb": ours.get("peak_memory_mb"),
        "collection_to_float_pass": collected / passed if collected and passed else None,
        "peers_peak_memory_mb": {who: made.get("peak_memory_mb") for who, made in result.made.items() if who not in (OURS, DISTILLED)},
        "failed": {who: made["failed"] for who, made in result.made.items() if "failed" in made},
        "figures": {
            runtime: {who: scores.figures(result.measure) for who, scores in arms.items() if who != "float"}
            for runtime, arms in result.scores.items()
        },
    }


MEANING = (
    "Brackets are 95 % intervals: bootstrap over examples (ratios: over the same resampled ones), order statistics over pairs of launches. Seconds: "
    "making the files of one runtime (kdedge: of both). MB: the largest resident size of the process (kdedge: until its ranges are collected). "
    "`slower`: the whole interval lies beyond 1.02. `dropped`: the training was judged not to help, and the file is the one without it."
)


def of_dialects(result: Found) -> str:
    """What stands where kernels saturate, and why; "" elsewhere."""
    if AS_WRITTEN not in result.scores:
        return ""
    return (
        f"; kdedge's files for onnxruntime are in the dialect {DIALECTS['onnxruntime'].name}, those for {AS_WRITTEN} in {DIALECTS[AS_WRITTEN].name}. "
        f"{AS_WRITTEN} is no runtime: ONNX Runtime without optimizations computes what a file says, each node by itself, as CPUs with VNNI would; "
        "it has no latency. What onnxruntime gives is what this CPU makes of the files"
    )
