"""The losses that a recipe can name. Each is one pure function of tensors in one file; a loss of your own is named `module:function`."""

from __future__ import annotations

LOSSES: dict[str, str] = {
    "ce": "kdedge.distill.losses.ce:ce_loss",
    "kd": "kdedge.distill.losses.kd:kd_loss",
}
