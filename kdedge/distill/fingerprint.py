"""What a teacher's answers are about, a digest a part: with another digest they are answers to another question."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.distill.spec import Shown
from kdedge.record import digest_of, sha256_of
from kdedge.source import closure_of


def fingerprint(teacher: TeacherFiles | None, wanted: tuple[str, ...], data: PreparedData, shown: Shown, view: int) -> dict[str, str]:
    """Digests of the teacher (weights, arguments, code, preprocessing and what each member counts), the data, the augmentation, the view and
    the questions. Without a teacher the part `teacher` is of none."""
    split = data.splits["train"]
    parts: dict[str, Any] = {
        "teacher": teacher,
        "data": (split.fingerprint, split.size, data.classes, data.task),
        "augmentation": shown,
        "view": view,
        "questions": wanted,
    }
    return {name: digest_of(part, sha256, lambda module: closure_of(module).digest)[:32] for name, part in parts.items()}


def sha256(path: Path) -> str:
    """Of a file's bytes, or of a folder's files with their names; read piece by piece, whatever their size.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        listed = "".join(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n" for file in sorted(path.rglob("*")) if file.is_file())
        return hashlib.sha256(listed.encode()).hexdigest()
    return sha256_of(path)
