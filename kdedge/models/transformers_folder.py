"""Classifiers of Hugging Face transformers: built from their configuration alone, so that nothing of their folder is needed later."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdedge.errors import MissingExtra, ModelError

TOOLS = ("transformers",)


def classifier(*, config: dict[str, Any]) -> nn.Module:
    """A sequence classifier, freshly initialised in float32. `config` is what its `config.json` holds.

    Raises:
        MissingExtra: transformers is not installed.
        ModelError: transformers knows no classifier of this kind.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "text", "a model of a Hugging Face folder") from error
    values = dict(config)
    kind = values.pop("model_type")
    try:
        settings = transformers.AutoConfig.for_model(kind, **values)
        # Written out, attention exports with a dynamic length; the fused kernels give graphs that depend on the version.
        model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(settings, attn_implementation="eager")
    except ValueError as error:
        raise ModelError(
            f"transformers {transformers.__version__} has no text classifier of the kind `{kind}`: {str(error).partition(chr(10))[0]}"
        ) from error
    model.register_load_state_dict_pre_hook(_adapt)  # type: ignore[no-untyped-call]
    return model.float()


def _adapt(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Names that older versions wrote: gamma and beta of normalisation, and position numbers that are no longer part of the state."""
    own = {prefix + name for name in module.state_dict()}
    for name in list(state):
        renamed = (
            name.removesuffix(".gamma") + ".weight"
            if name.endswith(".gamma")
            else name.removesuffix(".beta") + ".bias"
            if name.endswith(".beta")
            else name
        )
        if name not in own and renamed in own:
            state[renamed] = state.pop(name)
        elif name not in own and name.endswith(".position_ids"):
            del state[name]
