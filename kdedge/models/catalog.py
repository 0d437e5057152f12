"""From what a recipe says about a model to a `ModelSpec`, checked before anything is trained. Light: nothing here imports torch."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdedge.artifact import Encoder, ImageEncoder, ImportPath, PreparedData, TextEncoder
from kdedge.errors import ModelError
from kdedge.installed import need
from kdedge.models import IMAGE_MODELS, MODELS, TEXT_MODELS
from kdedge.models.class_names import class_map
from kdedge.models.ranges import check_ranges
from kdedge.models.signature import Signature, check_arguments, listed, nearest, signature_of
from kdedge.models.spec import LOGITS, ModelSpec, inputs_of
from kdedge.models.tokens import vocabulary_size
from kdedge.models.transformers_config import check_classes, read_folder
from kdedge.recipe import ModelSection, NormalizeSection, TeacherSection
from kdedge.recipe_values import MODEL_FORMS

Numbers = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and std a channel of RGB images in [0, 1], as weights that are in circulation were trained with.
NORMALIZATIONS: dict[str, Numbers] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}

_TORCHVISION = ImportPath("kdedge.models.external:torchvision_model")
_TIMM = ImportPath("kdedge.models.external:timm_model")
_TRANSFORMERS = ImportPath("kdedge.models.transformers_folder:classifier")
# What factories are offered; each gets what its signature names.
_OFFERED_FOR_IMAGES = ("classes", "in_channels", "image_size")
_OFFERED_FOR_TEXTS = ("classes", "vocabulary", "max_length")


def check(section: ModelSection) -> None:
    """Check what can be known without data: the name, the arguments, that the files are there.

    Raises:
        ModelError: as `resolve`.
        MissingExtra: the model's library is not installed.
    """
    kind, name = _split(section)
    match kind:
        case "kdedge":
            offered = _OFFERED_FOR_TEXTS if name in TEXT_MODELS else _OFFERED_FOR_IMAGES
            _check_arguments(section, _named(name), dict.fromkeys(offered))
        case "torchvision" | "timm":
            need(f"`{section.model}`", "vision", kind)
        case "transformers":
            read_folder(Path(name))
        case "onnx":
            _existing(section, Path(name))
        case _:
            _check_arguments(section, ImportPath(section.model), dict.fromkeys((*_OFFERED_FOR_IMAGES, *_OFFERED_FOR_TEXTS)))
    if section.weights is not None:
        _existing(section, section.weights, "weights: ")


def resolve(section: ModelSection, data: PreparedData, *, as_is: bool = False) -> ModelSpec:
    """The spec of a model for this data: how it is built, what it takes, what comes before it in the graph. `as_is`: nothing trains it.

    A factory gets the recipe's arguments, and of `classes`, and `in_channels` and `image_size` (images) or `vocabulary` and `max_length`
    (texts), those that its signature names. A teacher that names its own classes gives as many outputs; the data's must be among them.

    Raises:
        ModelError: an unknown name or argument (with the nearest known one), a missing file, a model that does not fit the data, or weights
            without the normalisation that they were trained with.
        MissingExtra: the model's library is not installed.
    """
    check(section)
    kind, name = _split(section)
    own = section.classes if isinstance(section, TeacherSection) else None
    if own is not None:
        class_map(own, data.classes, f"teacher `{section.model}`")
    spec = ModelSpec(
        name=f"{kind}:{Path(name).name}" if kind in ("onnx", "transformers") else section.model,
        factory=None,
        arguments=dict(section.arguments),
        weights=section.weights,
        onnx=None,
        normalize=None,
        encoder=data.encoder,
        inputs=(),
        outputs=(LOGITS,),
        classes=own if own is not None else data.classes,
    )
    match kind:
        case "onnx":
            return replace(spec, onnx=Path(name), normalize=_normalize(section, data, spec.encoder, as_is), outputs=())
        case "transformers":
            spec = _of_folder(section, spec, Path(name))
        case "torchvision":
            spec = _of_library(section, spec, _TORCHVISION, name, ("classes",))
        case "timm":
            spec = _of_library(section, _with_own_size(spec, name), _TIMM, name, ("classes", "in_channels"))
        case _:
            spec = _of_factory(section, spec, _named(name) if kind == "kdedge" else ImportPath(section.model), kind == "kdedge")
    return replace(spec, inputs=inputs_of(spec.encoder), normalize=_normalize(section, data, spec.encoder, as_is))


def _split(section: ModelSection) -> tuple[str, str]:
    kind, _, name = section.model.partition(":")
    known = ("kdedge", "torchvision", "timm", "transformers", "onnx")
    if kind not in known and "." not in kind and (meant := nearest(kind, known)) and importlib.util.find_spec(kind) is None:
        raise ModelError(f"model `{section.model}`: there is no module `{kind}`{meant} (a model is {MODEL_FORMS})")
    return kind, name


def _named(name: str) -> ImportPath:
    if name not in MODELS:
        raise ModelError(f"there is no model `kdedge:{name}`{nearest(name, MODELS)} (allowed: {listed(MODELS)})")
    return ImportPath(MODELS[name])


def _check_arguments(section: ModelSection, factory: ImportPath, offered: dict[str, Any]) -> None:
    signature = signature_of(factory)
    check_arguments(f"model `{section.model}`", factory, signature, section.arguments, offered)
    _check_ranges(section, factory, signature)


def _check_ranges(section: ModelSection, factory: ImportPath, signature: Signature) -> None:
    """The factory refuses the same; but only when it is built, and a teacher may have been trained before."""
    given = {parameter.name: parameter.default for parameter in signature.parameters.values() if not parameter.required}
    try:
        check_ranges(factory.value, {**given, **section.arguments})
    except ValueError as error:
        raise ModelError(f"model `{section.model}`: arguments.{error}") from error


def _of_factory(section: ModelSection, spec: ModelSpec, factory: ImportPath, own: bool) -> ModelSpec:
    label = f"model `{section.model}`"
    encoder = spec.encoder
    if own and (factory.value in TEXT_MODELS.values()) != isinstance(encoder, TextEncoder):
        fitting = TEXT_MODELS if isinstance(encoder, TextEncoder) else IMAGE_MODELS
        raise ModelError(
            f"{label} does not take what the data holds, {_kind(encoder)} (allowed for these: {listed(f'kdedge:{name}' for name in fitting)})"
        )
    offered = _offered(spec)
    signature = signature_of(factory)
    check_arguments(label, factory, signature, section.arguments, offered)
    _check_class_count(section, spec)
    taken = {name: value for name, value in offered.items() if signature.takes(name)}
    return replace(spec, factory=factory, arguments={**taken, **section.arguments})


def _of_library(section: ModelSection, spec: ModelSpec, factory: ImportPath, name: str, takes: tuple[str, ...]) -> ModelSpec:
    if not isinstance(spec.encoder, ImageEncoder):
        raise ModelError(f"model `{section.model}` takes images, the data holds {_kind(spec.encoder)}")
    _check_class_count(section, spec)
    offered = {argument: value for argument, value in _offered(spec).items() if argument in takes}
    return replace(spec, factory=factory, arguments={"name": name, **offered, **section.arguments})


def _of_folder(section: ModelSection, spec: ModelSpec, folder: Path) -> ModelSpec:
    label = f"model `{spec.name}`"
    if not isinstance(spec.encoder, TextEncoder):
        raise ModelError(f"{label} takes texts, the data holds {_kind(spec.encoder)}")
    found = read_folder(folder)
    check_classes(label, found.classes, spec.classes, "the recipe" if isinstance(section, TeacherSection) and section.classes else "the data")
    return replace(
        spec, factory=_TRANSFORMERS, arguments={"config": found.config}, weights=found.weights, encoder=found.encoder(spec.encoder.max_length)
    )


def _with_own_size(spec: ModelSpec, name: str) -> ModelSpec:
    """Weights of timm were trained at one size, which is theirs to say; a fresh model takes the data's."""
    if spec.weights is None or not isinstance(spec.encoder, ImageEncoder):
        return spec
    from kdedge.models.external import timm_input

    own = timm_input(name)
    return replace(spec, encoder=replace(spec.encoder, size=own.size, resize=own.resize, interpolation=own.interpolation))


def _offered(spec: ModelSpec) -> dict[str, Any]:
    encoder = spec.encoder
    if isinstance(encoder, ImageEncoder):
        return {"classes": len(spec.classes), "in_channels": encoder.channels, "image_size": min(encoder.size)}
    return {"classes": len(spec.classes), "vocabulary": vocabulary_size(encoder.tokenizer), "max_length": encoder.max_length}


def _check_class_count(section: ModelSection, spec: ModelSpec) -> None:
    given = section.arguments.get("classes", len(spec.classes))
    if given != len(spec.classes):
        who = "`classes` names" if isinstance(section, TeacherSection) and section.classes is not None else "the data has"
        says = "`classes` says it" if who != "the data has" else "the data says it"
        raise ModelError(f"model `{section.model}`: arguments.classes is {given}, {who} {len(spec.classes)} classes; remove it, {says}")


def _normalize(section: ModelSection, data: PreparedData, encoder: Encoder, as_is: bool) -> Numbers | None:
    label = f"model `{section.model}`: normalize"
    if not isinstance(encoder, ImageEncoder):
        if section.normalize is not None:
            raise ModelError(f"{label} is for images, the data holds {_kind(encoder)}: remove it")
        return None
    numbers = _numbers(section, data, label, as_is)
    if numbers is not None:
        for what, values in zip(("mean", "std"), numbers, strict=True):
            if len(values) != encoder.channels:
                raise ModelError(f"{label}: {what} has {len(values)} numbers, the images have {encoder.channels} channels")
        if min(numbers[1]) <= 0:
            raise ModelError(
                f"{label}: std is 0 in channel {numbers[1].index(min(numbers[1]))}, by which nothing can be divided; write `none` or numbers"
            )
    return numbers


def _numbers(section: ModelSection, data: PreparedData, label: str, as_is: bool) -> Numbers | None:
    asked = section.normalize
    if asked is None:
        if section.model.startswith("onnx:"):
            return None
        # A model that nothing trains knows something already, also where its factory brings the weights.
        if section.weights is not None or as_is:
            raise ModelError(
                f"{label}: say with which mean and std the weights were trained: imagenet, cifar10, data, none or {{mean: [...], std: [...]}}"
            )
        asked = "data"
    if isinstance(asked, NormalizeSection):
        return asked.mean, asked.std
    if asked == "none":
        return None
    if asked != "data":
        return NORMALIZATIONS[asked]
    if not {"mean", "std"} <= set(data.statistics):
        raise ModelError(f"{label}: the task does not measure mean and std of its data; write imagenet, cifar10, none or {{mean: [...], std: [...]}}")
    return data.statistics["mean"], data.statistics["std"]


def _existing(section: ModelSection, path: Path, key: str = "") -> None:
    if not path.is_file():
        raise ModelError(f"model `{section.model}`: {key}there is no file {path}")


def _kind(encoder: Encoder) -> str:
    return "images" if isinstance(encoder, ImageEncoder) else "texts"
