"""The stage that takes a model as it is: with the weights that are given, or as an ONNX file."""

from __future__ import annotations

from pathlib import Path

from kdedge.artifact import ModelFiles, PreparedData
from kdedge.errors import ModelError
from kdedge.models.spec import ModelSpec

TOOLS = ("torch", "onnx", "onnx-ir")


def take(spec: ModelSpec, data: PreparedData, *, folder: Path) -> ModelFiles:
    """Stage: load a model that nothing trains, see that it tells the data's classes apart, and write its files into `folder`.

    Raises:
        ModelError: it has no weights, they do not fit, or the ONNX file does not take what the data's encoder gives.
        TrainingError: its class count is not the data's; names both.
    """
    # Each half imports its own library: an ONNX file is taken where there is no torch.
    if spec.onnx is not None:
        from kdedge.models.onnx_file import adopt

        return adopt(spec, data.encoder, folder=folder)
    own = spec.factory is not None and spec.factory.value.startswith("kdedge.")
    if own and spec.weights is None:
        raise ModelError(f"model `{spec.name}` has no weights and nothing trains it: give `weights: FILE`")
    from kdedge.models.load import build, check_classes, to_files

    model = build(spec)
    check_classes(model, spec)
    return to_files(spec, model, folder)
