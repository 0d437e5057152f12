"""What the recipe says of keeping a teacher's answers, and whether they fit into the room that it gives. Light: nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdedge.artifact import Encoder, TextEncoder
from kdedge.errors import RecipeError
from kdedge.recipe import CacheSection
from kdedge.trained import CacheChoice


def decided(views: int | None, cache: CacheSection, epochs: int) -> CacheChoice | None:
    """What the recipe alone decides for a run of `epochs` epochs; None where it takes a measurement."""
    if cache.use == "never":
        return CacheChoice(False, "cache.use is `never`")
    if views is None:
        return CacheChoice(False, "without `views: N` every epoch shows examples that the teacher has not seen")
    if once := asked_once(views, cache.use, epochs):
        return CacheChoice(False, once)
    return None


def asked_once(views: int, use: str, epochs: int) -> str:
    """Why nothing is to be gained where `epochs` epochs ask the teacher about `views` views, unless the recipe keeps always; "" where there is."""
    each = f"each of the {views} views" if views > 1 else "the only view"
    return f"{each} is asked about in one epoch at most" if use == "auto" and views >= epochs else ""


def why_not_kept(wanted: Sequence[str], encoders: Sequence[Encoder]) -> str:
    """Why these answers (outputs by name, `FORM:LAYER`) of teachers with these encoders cannot be kept for each example, or ""."""
    if maps := [what.partition(":")[2] for what in wanted if what.startswith("feature:")]:
        return f"a loss compares whole feature maps ({', '.join(maps)}), which are too large to keep"
    layers = [what.partition(":")[2] for what in wanted if ":" in what]
    if layers and any(isinstance(encoder, TextEncoder) for encoder in encoders):
        return f"what its layers give for a text ({', '.join(layers)}) depends on how long the other texts of the batch are"
    return ""


def refused(reason: str, cache: CacheSection) -> CacheChoice:
    """The choice not to keep what cannot be kept for this `reason`.

    Raises:
        RecipeError: the recipe says to keep it always.
    """
    if cache.use == "always":
        raise RecipeError(f"distill.cache.use: `always`, and the teacher's answers cannot be kept: {reason}; set it to `auto` or `never`")
    return CacheChoice(False, reason)


def within_limit(choice: CacheChoice, views: int, cache: CacheSection) -> CacheChoice:
    """The choice, or not to keep anything where `views` views are larger than `cache.limit_gb`: that is known before the teacher is asked.

    Raises:
        RecipeError: they are, and the recipe says to keep them always.
    """
    needed = views * choice.view_bytes / 1e9
    if not choice.use or needed <= cache.limit_gb:
        return choice
    size = f"the teacher's answers take {needed:.3g} GB ({views} views), and cache.limit_gb is {cache.limit_gb:g}"
    if cache.use == "always":
        raise RecipeError(f"distill.cache.limit_gb: {size}: raise it, lower `views`, set cache.top_k, or set cache.use to `auto`")
    return replace(choice, use=False, reason=size)
