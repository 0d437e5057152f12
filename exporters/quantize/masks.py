"""Ranges of attention masks, where they are quantized. A mask adds -10,000 or so to the scores that must not count: a range that reached so far would
have steps of 40 and leave nothing of the scores themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdedge.exporters.quantize.ranges import ActivationRange
from kdedge.exporters.quantize.roles import moved_inputs

# e^-8 is less than a tenth of a step of [0, 1] in 8 bits: a score that far below all others has no share.
FAR_BELOW = 8.0


def cut_masks(graph: Any, shared: frozenset[str], rows: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """The ranges, less what a mask needs of them: where a Softmax reads the sum of scores in [a, b] and of a mask that reaches further down than the
    scores are wide, the mask ends at a - b - 8 and the sum at a - 8, so that a masked score is still 8 below the smallest one.

    What is added is a mask where it is never above 0: other scores may be far below zero as well, and count. One that several Softmax share ends
    where the widest scores need it. `shared`: names of the nodes that only move values; the mask may have come through some.
    """
    ends: dict[str, float] = {}
    for node in graph:
        producer = node.inputs[0].producer() if node.op_type == "Softmax" else None
        if producer is None or producer.op_type != "Add" or any(value.name not in rows for value in (*producer.inputs, producer.outputs[0])):
            continue
        scores, mask = sorted(producer.inputs, key=lambda value: rows[value.name].affine[0], reverse=True)
        low, high = rows[scores.name].affine
        end = low - high - FAR_BELOW
        if rows[mask.name].high > 0.0:
            continue
        if rows[mask.name].affine[0] < end:
            ends[producer.outputs[0].name] = low - FAR_BELOW
        while mask is not None and mask.name in rows:
            ends[mask.name] = min(ends.get(mask.name, end), end)
            before = mask.producer()
            mask = moved_inputs(before)[0] if before is not None and before.name in shared and before.op_type != "Concat" else None
    return {name: _cut(row, ends[name]) if name in ends else row for name, row in rows.items()}


def _cut(row: ActivationRange, low: float) -> ActivationRange:
    return replace(row, affine=(max(row.affine[0], low), row.affine[1]), symmetric=min(row.symmetric, max(-low, row.affine[1])))
