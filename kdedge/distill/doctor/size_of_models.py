"""Is the student really the smaller one?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from kdedge.distill.doctor import Finding


@dataclass(frozen=True)
class ModelSize:
    """`parameters` (0: unknown), `macs` (multiply-accumulates an example; 0: unknown) and `milliseconds` for an example on this machine."""

    parameters: int
    macs: int
    milliseconds: float


def size_of_models(student: ModelSize, teacher: ModelSize, *, same_kind: bool = False) -> Finding:
    """Compare a student with its teacher. `same_kind`: the recipe means them to be of one size (self-distillation)."""
    figures = {"student": asdict(student), "teacher": asdict(teacher)}
    said = f"the student has {_described(student)}; the teacher {_described(teacher)}"
    more = bool(student.parameters and teacher.parameters and student.parameters > teacher.parameters)
    costs = [(student.macs, teacher.macs) if student.macs and teacher.macs else (student.milliseconds, teacher.milliseconds)]
    slower = any(own > others for own, others in costs)
    if more and slower:
        return Finding(
            "warning", "size", f"the student is larger than its teacher: {said}", "exchange them, or ship the teacher: it is the cheaper one", figures
        )
    if more or slower:
        what = "has more parameters" if more else "computes more" if student.macs and teacher.macs else "takes longer"
        return Finding("note", "size", f"the student {what} than its teacher: {said}", "see that this is what the device needs", figures)
    if student.parameters == teacher.parameters and student.macs == teacher.macs and not same_kind:
        return Finding(
            "note", "size", f"student and teacher are of one size: {said}", "self-distillation gains little; name a smaller student", figures
        )
    return Finding("ok", "size", said, figures=figures)


def _described(size: ModelSize) -> str:
    parts = [f"{size.parameters:,} parameters"] if size.parameters else []
    parts += [f"{size.macs / 1e6:,.3g} million MACs"] if size.macs else []
    return ", ".join([*parts, f"{size.milliseconds:.2g} ms an example here"])
