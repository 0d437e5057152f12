"""What the workspace already holds of the teacher's answers, and what of it this run can use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdedge.distill.doctor import Finding
from kdedge.distill.room import asked_once

About = Mapping[str, str]

# Views that are advised at most: enough augmentation for short runs (docs/distillation.md).
_USUAL_VIEWS = 5


@dataclass(frozen=True)
class CachePlan:
    """What a training run will ask for: `views` (None: every epoch has new ones), whether the recipe allows a cache (`use`), what answers about
    each of its views are about (`kdedge.distill.fingerprint`), in how many `epochs` a loss asks the teacher, and why what it says cannot be kept
    (`unkept`; empty where it can)."""

    views: int | None
    use: str
    expected: Mapping[int, About]
    epochs: int
    unkept: str = ""


def cache_state(plan: CachePlan, kept: Sequence[About], read: Sequence[int]) -> Finding:
    """`kept`: what each cached view in the workspace is about; `read`: the views that the next run would read and not ask for again."""
    if plan.use == "never":
        return Finding("ok", "cache", "distill.cache.use is `never`: the teacher is asked in every step")
    if plan.unkept:
        return Finding("ok", "cache", f"the teacher is asked in every step: {plan.unkept}")
    if plan.epochs < 2 and plan.use != "always":
        return Finding("ok", "cache", "the teacher is asked in one epoch at most, so there is nothing to keep")
    if plan.views is None:
        return Finding(
            "note",
            "cache",
            "without `views` every epoch shows new augmented examples, and the teacher is asked about each of them in every epoch",
            f"set distill.views: {min(_USUAL_VIEWS, plan.epochs // 2)} to pay for its answers once",
        )
    if once := asked_once(plan.views, plan.use, plan.epochs):
        return Finding("ok", "cache", f"nothing is kept: {once}")
    whole = len(plan.expected)
    figures = {"views": plan.views, "needed": whole, "fresh": sorted(read), "kept": len(kept)}
    stale = Counter(_difference(about, plan.expected) for about in kept)
    ours = stale.pop("", 0)
    figures["stale"] = dict(stale)
    said = [f"{len(read)} of {whole} views are kept and will be read"]
    if ours > len(read):
        said.append(f"{ours - len(read)} are about these questions but were made by other code, another version of torch, or with another top_k")
    said += [f"{count} kept are of no use here: another {difference}" for difference, count in sorted(stale.items())]
    if len(read) == whole and len(said) == 1:
        return Finding("ok", "cache", said[0], figures=figures)
    if not kept:
        return Finding("ok", "cache", f"{whole} views will be asked for, none is kept yet", figures=figures)
    unused = len(said) > 1
    advice = "nothing is read that does not fit; stale views are only evicted by distill.cache.limit_gb" if unused else ""
    return Finding("note" if unused else "ok", "cache", "; ".join(said), advice, figures)


def _difference(about: About, expected: Mapping[int, About]) -> str:
    """In which parts an answer differs from the nearest that is expected; "" where it is one of these."""
    differences: list[list[str]] = [[part for part, digest in other.items() if about.get(part) != digest] for other in expected.values()]
    fewest = min((len(parts) for parts in differences), default=0)
    return next((", ".join(parts) for parts in differences if len(parts) == fewest), "")
