"""What a user names as a side of a check or a comparison, and the inputs that may be given for it."""

from __future__ import annotations

from pathlib import Path

from kdedge.errors import KdedgeError
from kdedge.latency.check import Arm
from kdedge.regression.arms import DRAWN, RUNTIMES, WHOLE, Given, arms_of, holds_bundles
from kdedge.regression.baselines import names, read_baseline


def sides_of(named: str, store: Path, given: Given, folder: Path) -> dict[str, Arm]:
    """The arms of what a user named: a path, a kept baseline, or a run of the workspace that `store` lies in. `folder`: where inputs are written.

    Raises:
        KdedgeError: there is none of these, or it is damaged.
    """
    path = Path(named)
    # A folder that only happens to have the name of a baseline does not hide it.
    if path.is_file() or (path.exists() and (holds_bundles(path) or named not in names(store))):
        return arms_of(path, given, folder)
    if named in names(store):
        return {WHOLE: read_baseline(named, store).arm}
    runs = store.parent / "runs"
    if path.name == named and holds_bundles(runs / named):
        return arms_of(runs / named, given, folder)
    kept = ", ".join(names(store)) or "none"
    advice = "" if path.name != named or path.suffix in RUNTIMES else f"; set a baseline by `kdedge baseline set {named} ARTIFACT`"
    raise KdedgeError(
        f"{named}: there is no such file, bundle or folder of a run, no baseline of this name ({kept}), and no run with bundles of it in {runs}"
        + advice
    )


def single_arm(named: str, store: Path, given: Given, folder: Path) -> Arm:
    """`sides_of` for what must be one artifact.

    Raises:
        KdedgeError: it is none, or several.
    """
    arms = sides_of(named, store, given, folder)
    if len(arms) > 1:
        root = Path(named) if holds_bundles(Path(named)) else store.parent / "runs" / named
        raise KdedgeError(f"{named} holds {len(arms)} artifacts ({', '.join(arms)}): name the bundle of one, below {root / 'bundles'}")
    return next(iter(arms.values()))


def refuse_inputs(named: str, given: Given) -> None:
    """Inputs are for model files that come alone: what brings its own would never see them.

    Raises:
        KdedgeError: inputs are given for something else.
    """
    if given.inputs is not None and not Path(named).is_file():
        raise KdedgeError(f"--inputs {given.inputs}: {named} brings its own inputs, on which both sides are timed")


def refuse_sizes(given: Given, *named: str) -> None:
    """Sizes are for inputs that are drawn: where none are, nobody would look at them.

    Raises:
        KdedgeError: sizes are given, and all inputs are brought or given.
    """
    if not given.sizes:
        return
    option = f"--size {', '.join(given.sizes)}"
    if given.inputs is not None:
        raise KdedgeError(f"{option}: the inputs are those of --inputs {given.inputs}, and none are drawn: leave out one of both")
    if not any(Path(one).is_file() and Path(one).suffix == DRAWN for one in named):
        what = "is no such file" if len(named) == 1 else "are no such files"
        raise KdedgeError(f"{option}: inputs of this size are drawn for {DRAWN} files that come alone; {' and '.join(named)} {what}: leave it out")
