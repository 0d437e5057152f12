"""The losses that a recipe can name. Each is one pure function of tensors in one file; a loss of your own is named `module:function`."""

from __future__ import annotations

LOSSES: dict[str, str] = {
    "ce": "kdedge.distill.losses.ce:ce_loss",
    "kd": "kdedge.distill.losses.kd:kd_loss",
    "dkd": "kdedge.distill.losses.dkd:dkd_loss",
    "dist": "kdedge.distill.losses.dist:dist_loss",
    "nkd": "kdedge.distill.losses.nkd:nkd_loss",
    "ttm": "kdedge.distill.losses.ttm:ttm_loss",
    "wttm": "kdedge.distill.losses.wttm:wttm_loss",
    "hard": "kdedge.distill.losses.hard:hard_loss",
    "at": "kdedge.distill.losses.at:at_loss",
    "fitnet": "kdedge.distill.losses.fitnet:fitnet_loss",
    "sp": "kdedge.distill.losses.sp:sp_loss",
    "rkd": "kdedge.distill.losses.rkd:rkd_loss",
    "pkt": "kdedge.distill.losses.pkt:pkt_loss",
    "vid": "kdedge.distill.losses.vid:vid_loss",
    "crd": "kdedge.distill.losses.crd:crd_loss",
    "reviewkd": "kdedge.distill.losses.reviewkd:reviewkd_loss",
    "mutual": "kdedge.distill.losses.mutual:mutual_loss",
    "byot": "kdedge.distill.losses.byot:byot_loss",
}

# The parts of losses that are trained with the student and thrown away after it: adapters, memories.
LEARNED: dict[str, str] = {
    "fitnet": "kdedge.distill.learned.regressor:Regressor",
    "vid": "kdedge.distill.learned.variational:Variational",
    "crd": "kdedge.distill.learned.contrast:Contrast",
    "reviewkd": "kdedge.distill.learned.review:Review",
    "byot": "kdedge.distill.learned.exits:Exits",
}
