"""The teacher is paid for once: its answers about each (sample, view), written by one pass and read back by every run that asks the same.

An answer that was kept differs from one that is given anew by at most 2^-11 of its value (float16), 2^-24 for answers below 2^-14, and what
the sums of the teacher's kernels differ between batches of other sizes (1e-6 of the largest answer for the usual models).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdedge.artifact import Encoder, PreparedData, TeacherFiles
from kdedge.data import open_examples
from kdedge.data.encode import encode
from kdedge.data.examples import Examples
from kdedge.distill.allocation import freed_memory_kept
from kdedge.distill.answers import Answers, AnswerWriter
from kdedge.distill.batches import Batch, ahead, augmented
from kdedge.distill.ensemble import Teacher
from kdedge.distill.fingerprint import fingerprint, sha256
from kdedge.distill.room import why_not_kept
from kdedge.distill.seeding import reproducible
from kdedge.distill.spec import Shown
from kdedge.distill.step import Placed, place
from kdedge.errors import TrainingError
from kdedge.progress import advance
from kdedge.tasks.contract import Task
from kdedge.trained import CachedView

TOOLS = ("torch",)
# Examples a forward pass of the teacher. Always the same ones together, so that an answer does not depend on the run that needs it.
CHUNK = 256
_MANIFEST, COST = "manifest.json", "cost.json"


def fill(
    teacher: TeacherFiles, wanted: tuple[str, ...], data: PreparedData, shown: Shown, view: int, top_k: int | None, *, folder: Path
) -> CachedView:
    """Stage: ask the teacher about one view of the whole training split.

    Answers are kept as float16 (float32 where they do not fit), `top_k` of the logits if given, in shards that are read by memory mapping.
    Writes `manifest.json`, the shards, and what it cost.

    Raises:
        TrainingError: the teacher does not fit the data, answers what is no number, or is asked for what cannot be kept.
        ModelError: the teacher cannot be run.
    """
    guide = Teacher(teacher, data.task.load().logits, wanted)
    if reason := why_not_kept(wanted, guide.encoders):
        raise TrainingError(f"what {guide.name} says cannot be kept: {reason}; set cache.use to `auto` or `never`")
    guide.check(data)
    guide.move(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    started = time.monotonic()
    try:
        files = _ask(guide, wanted, data, shown, view, top_k, "float16", folder)
    except OverflowError:
        files = _ask(guide, wanted, data, shown, view, top_k, "float32", folder)
    manifest = {
        "about": fingerprint(teacher, wanted, data, shown, view),
        "classes": len(data.classes),
        "files": {name: [path.name, sha256(path)] for name, path in files.items()},
        "top_k": top_k,
    }
    text = json.dumps({**manifest, "seal": _seal(manifest)}, sort_keys=True, indent=1)
    (folder / _MANIFEST).write_text(text, encoding="utf-8")
    cost = {"seconds": time.monotonic() - started, "bytes": sum(path.stat().st_size for path in files.values())}
    (folder / COST).write_text(json.dumps(cost))
    return CachedView(view, data.splits["train"].size, folder / _MANIFEST, tuple(files.values()))


def _ask(
    guide: Teacher, wanted: tuple[str, ...], data: PreparedData, shown: Shown, view: int, top_k: int | None, dtype: str, folder: Path
) -> dict[str, Path]:
    examples = open_examples(data.splits["train"])
    batches = ahead(chunks(examples, data.task.load(), guide.encoders, shown, view))
    with reproducible(), freed_memory_kept(), AnswerWriter(folder, len(examples), dtype, top_k) as writer, closing(batches):
        for batch in batches:
            writer.add(answers_about(batch, guide, wanted))
            advance("ask the teacher", int(batch.samples[-1]) + 1, len(examples), f"about view {view + 1}")
    return writer.files


def answers_about(batch: Batch, guide: Teacher, wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """What the teacher says about a chunk, float32 in the memory of the CPU.

    Raises:
        TrainingError: an answer is no finite number (names the example).
    """
    inputs, _ = place(batch, tuple(dict.fromkeys(guide.encoders)), guide.device, channels_last=False)
    found = {name: value.cpu().numpy() for name, value in guide.answers(inputs, batch, wanted).items()}
    for name, rows in found.items():
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            example = int(batch.samples[np.argmin(finite)])
            raise TrainingError(f"{guide.name} answers what is no finite number (`{name}`) about training example {example} in view {batch.view + 1}")
    return found


def chunks(examples: Examples, task: Task, encoders: Sequence[Encoder], shown: Shown, view: int, count: int | None = None) -> Iterator[Batch]:
    """One view of all examples in order, as the teacher's encoders make it; of the first `count` examples alone if given."""
    total = len(examples) if count is None else min(count, len(examples))
    for start in range(0, total, CHUNK):
        samples = np.arange(start, min(start + CHUNK, total), dtype=np.int64)
        raw = augmented(examples, task, samples, view, shown)
        yield Batch(tuple(encode(encoder, raw) for encoder in dict.fromkeys(encoders)), np.zeros(len(samples), np.int64), samples, view)


class Remembered:
    """A teacher that answers from what it said before. It holds no model, so that nothing of a teacher is loaded.

    `data` is what it was asked about. Who learns from a part of that gives `places`: those of the part's examples in the whole, int64 [n].

    Raises:
        TrainingError: the answers are about another teacher, other data, another augmentation or other questions (names which), were changed
            after they were written, or are cut off.
    """

    encoders: tuple[Encoder, ...] = ()

    def __init__(
        self,
        views: Sequence[CachedView],
        teacher: TeacherFiles,
        wanted: tuple[str, ...],
        data: PreparedData,
        shown: Shown,
        places: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.name = "what was kept of teacher " + " + ".join(f"`{member.name}`" for member in teacher.members)
        self._device = torch.device("cpu")
        self._places = places
        self._views: dict[int, Answers] = {}
        # The teacher is the same for all views, and hashing it is what takes time.
        asked = fingerprint(teacher, wanted, data, shown, view=0)
        for each in views:
            manifest = _manifest(each)
            _compare(manifest["about"], {**asked, "view": fingerprint(None, wanted, data, shown, each.view)["view"]}, each.manifest)
            self._views[each.view] = Answers(_intact(manifest["files"], each.manifest), data.splits["train"].size, manifest["classes"])

    def move(self, device: torch.device, channels_last: bool) -> None:
        """Answer on `device` from now on."""
        self._device = device

    def check(self, data: PreparedData) -> None:
        """The teacher was checked when it answered."""

    def owns(self, addresses: set[int]) -> bool:
        """There is no model here."""
        return False

    def answers(self, inputs: Placed, batch: Batch, wanted: Sequence[str]) -> dict[str, Tensor]:
        """What the teacher said about the samples of `batch` in its view.

        Raises:
            TrainingError: it was not asked about that view.
        """
        known = self._views.get(batch.view)
        if known is None:
            covered = ", ".join(str(view + 1) for view in sorted(self._views))
            raise TrainingError(f"{self.name} covers the views {covered}, not view {batch.view + 1}: set `views` to their number")
        # A copy in torch's own memory: numpy's alignment varies from run to run, and with it the last bits of some kernels.
        places = batch.samples if self._places is None else self._places[batch.samples]
        return {name: torch.tensor(known.rows(name, places), device=self._device) for name in wanted}


def _manifest(view: CachedView) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(view.manifest.read_text(encoding="utf-8"))
        seal = manifest.pop("seal")
        if seal != _seal(manifest):
            raise ValueError("it was changed after it was written")
        return {name: manifest[name] for name in ("about", "classes", "files")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TrainingError(f"the teacher's cache {view.manifest} cannot be read ({error}): delete its folder, and it is made again") from error


def _intact(files: Mapping[str, tuple[str, str]], manifest: Path) -> dict[str, Path]:
    """The shards by what they answer. Each is read whole once, before an hour is spent on what it says."""
    found = {}
    for name, (file, digest) in files.items():
        path = manifest.with_name(file)
        try:
            known = sha256(path)
        except OSError as error:
            raise TrainingError(f"the teacher's cache {path} cannot be read ({error.strerror}): delete its folder, and it is made again") from error
        if known != digest:
            raise TrainingError(f"the teacher's cache {path} was cut off or changed after it was written: delete its folder, and it is made again")
        found[name] = path
    return found


def _compare(found: dict[str, str], expected: dict[str, str], path: Path) -> None:
    other = [name for name, digest in expected.items() if found.get(name) != digest]
    if other:
        raise TrainingError(
            f"the teacher's cache {path} is not about this run: it differs in {', '.join(other)}; delete its folder, and it is made again"
        )


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
