"""The stage that takes a model as it is: with the weights that are given, or as an ONNX file."""

from __future__ import annotations

from pathlib import Path

from kdedge.artifact import ModelFiles, PreparedData
from kdedge.errors import ModelError
from kdedge.models.spec import ModelSpec

TOOLS = ("torch", "onnx", "onnx-ir")


def take(spec: ModelSpec, data: PreparedData, *, folder: Path) -> ModelFiles:
    """Stage: load a model that nothing trains, see that it tells its classes apart, and write its files into `folder`.

    Raises:
        ModelError: it has no weights, they do not fit, or the ONNX file does not take what the data's encoder gives.
        TrainingError: its class count is not the data's, or not that of the classes that it was said to have; names both.
    """
    who = "the data has" if spec.classes == data.classes else "its `classes` name"
    # Each half imports its own library: an ONNX file is taken where there is no torch.
    if spec.onnx is not None:
        from kdedge.models.onnx_file import adopt

        return adopt(spec, data.encoder, who, folder=folder)
    own = spec.factory is not None and spec.factory.value.startswith("kdedge.")
    if own and spec.weights is None:
        raise ModelError(f"model `{spec.name}` has no weights and nothing trains it: give `weights: FILE`")
    from kdedge.models.load import build, check_classes, to_files

    model = build(spec)
    check_classes(model, spec, who)
    return to_files(spec, model, folder)
