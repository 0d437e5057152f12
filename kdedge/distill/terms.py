"""From the recipe's `losses` to checked terms. A wrong one is refused before torch or a user's module is imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from kdedge.artifact import ImportPath
from kdedge.distill.layers import ALL_PAIRS, FORMS, LayerPair, read_pairs
from kdedge.distill.losses import LEARNED, LOSSES
from kdedge.distill.ranges import range_of
from kdedge.distill.schedule import LearnedTemperature, Schedule, is_number, read_fraction, read_schedule
from kdedge.distill.signature import Signature, signature_of, signature_of_class
from kdedge.distill.spec import PLAIN_TENSORS, TermSpec, TrainingSpec
from kdedge.errors import RecipeError
from kdedge.recipe import DistillSection, TrainSection

# Keys that every entry may have besides the loss, its weight and its parameters.
_LAYERS, _ADAPTER, _START, _STOP = "layers", "adapter", "start", "stop"


def training_spec(
    section: TrainSection, *, has_teacher: bool = False, augment: tuple[str, ...], losses: str | None = None, view_seed: int | None = None
) -> TrainingSpec:
    """A section of the recipe with its losses looked up and checked. `augment` is what the recipe's `data` section names, `losses` the
    recipe's key of the losses where it is not the usual one.

    Raises:
        RecipeError: as `terms_of`.
    """
    return TrainingSpec(section, terms_of(section, has_teacher, losses), augment, view_seed)


def terms_of(section: TrainSection, has_teacher: bool, losses: str | None = None) -> tuple[TermSpec, ...]:
    """The terms that `losses` of a section names: `{NAME: weight, parameter: value, ...}`, NAME from `LOSSES` or `module:function`.

    A weight or a number among the parameters may change over the run (`{"0": 0.0, "0.2": 9.0}`); `temperature: learned` is trained against the
    student; `layers` names the layers that the loss looks at; `start` and `stop` are the fractions of the run between which it counts.

    Raises:
        RecipeError: an unknown loss or parameter (with the nearest known one), a value of the wrong type, layers that are missing or not
            asked for, or a term that needs a teacher where there is none. The message starts with the recipe's key
            (`distill.losses[1].temperature`).
    """
    losses = losses or ("distill.losses" if isinstance(section, DistillSection) else "teacher.train.losses")
    if not section.losses:
        raise RecipeError(f"{losses}: is empty, so there is nothing to learn (allowed: {_known_losses()})")
    terms: list[TermSpec] = []
    for index, entry in enumerate(section.losses):
        key = f"{losses}[{index}]"
        term = _term(entry, key)
        if term.needs_teacher and not has_teacher:
            raise RecipeError(f"{key}: `{term.name}` compares with a teacher, and there is none here (without one: {_without_teacher()})")
        if term.needs_peers and not isinstance(section, DistillSection):
            raise RecipeError(f"{key}: `{term.name}` looks at peers, and a teacher learns alone: it is for distill.losses")
        if term.name in {earlier.name for earlier in terms}:
            raise RecipeError(f"{key}: `{term.name}` is there already: give each loss once, with the sum of its weights")
        terms.append(term)
    if not any(term.weight.largest > 0 for term in terms):
        raise RecipeError(f"{losses}: every weight is 0, so there is nothing to learn")
    check_always(tuple(terms), losses)
    return tuple(terms)


def check_always(terms: tuple[TermSpec, ...], key: str, where: str = "") -> None:
    """See that some term counts at every moment of the run: a step without any would end it, maybe after hours.

    Raises:
        RecipeError: there is a moment without; `key` is the recipe's key of the losses, `where` says of which of its trainings these are the terms.
    """
    edges = {0.0, *(edge for term in terms for edge in (term.start, term.stop, *(place for place, _ in term.weight.points)))}
    places = sorted(place for place in edges if 0 <= place < 1)
    # Between two edges a weight is 0 everywhere or nowhere.
    between = [(left + right) / 2 for left, right in zip(places, [*places[1:], 1.0], strict=True)]
    for place in sorted([*places, *between]):
        if not any(term.active(place) for term in terms):
            names = _listed(f"`{term.name}`" for term in terms)
            raise RecipeError(
                f"{key}: at {place:g} of {where or 'the run'} no loss counts ({names}), so that nothing is learned there: let one count from 0 to 1 "
                "of the run, as `{ce: 0.1}`, with a weight above 0"
            )


def _term(entry: Mapping[str, Any], key: str) -> TermSpec:
    name = _loss_name(entry, key)
    function = ImportPath(LOSSES.get(name, name))
    signature = _signature(function, key)
    learned = _learned(entry, name, key)
    own = _learned_signature(learned, key)
    _check_tensors(signature, name, key, learns=learned is not None)
    _check_tensors(own, name, key)
    rest = {parameter: value for parameter, value in entry.items() if parameter not in (name, _LAYERS, _ADAPTER, _START, _STOP)}
    _check_known(rest, name, (signature.parameters, own.parameters), key)
    start, stop = (read_fraction(entry.get(edge, default), f"{key}.{edge}") for edge, default in ((_START, 0.0), (_STOP, 1.0)))
    if start >= stop:
        raise RecipeError(f"{key}: starts at {start} of the run and stops at {stop}: it would never count")
    return TermSpec(
        name=name,
        function=function,
        weight=_weight(entry[name], f"{key}.{name}"),
        tensors=signature.tensors,
        parameters={
            each: _parameter(value, signature.parameters[each], (name, each), f"{key}.{each}")
            for each, value in rest.items()
            if each in signature.parameters
        },
        layers=_layers(entry, (*signature.tensors, *own.tensors), name, key),
        learned=learned,
        learned_tensors=own.tensors,
        learned_parameters={each: value for each, value in rest.items() if each in own.parameters},
        start=start,
        stop=stop,
    )


def _loss_name(entry: Mapping[str, Any], key: str) -> str:
    names = [name for name in entry if name in LOSSES or ":" in str(name)]
    if len(names) == 1:
        return names[0]
    if names:
        raise RecipeError(f"{key}: names {len(names)} losses ({_listed(names)}); an entry holds one loss, its weight and its parameters")
    if not entry:
        raise RecipeError(f"{key}: is empty; an entry looks like {{kd: 9.0, temperature: 2}} (allowed: {_known_losses()})")
    found = next(iter(entry))
    raise RecipeError(f"{key}.{found}: unknown loss{_nearest(found, LOSSES)} (allowed: {_known_losses()})")


def _signature(function: ImportPath, key: str) -> Signature:
    try:
        return signature_of(function)
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error


def _learned(entry: Mapping[str, Any], name: str, key: str) -> ImportPath | None:
    if _ADAPTER not in entry:
        return ImportPath(LEARNED[name]) if name in LEARNED else None
    adapter = entry[_ADAPTER]
    if not isinstance(adapter, str) or ":" not in adapter:
        raise RecipeError(f"{key}.{_ADAPTER}: names a class as module:Class, not {adapter!r}")
    return ImportPath(adapter)


def _learned_signature(learned: ImportPath | None, key: str) -> Signature:
    if learned is None:
        return Signature((), {})
    try:
        return signature_of_class(learned)
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error


def _check_tensors(signature: Signature, name: str, key: str, *, learns: bool = False) -> None:
    prefixes = ("student_", "teacher_", *(("learned_",) if learns else ()))
    for tensor in signature.tensors:
        if tensor not in PLAIN_TENSORS and not tensor.startswith(prefixes):
            raise RecipeError(
                f"{key}: `{name}` asks for `{tensor}`, which no training step has: an argument without a default is one of "
                f"student_OUTPUT, teacher_OUTPUT (such as student_logits), {_listed(PLAIN_TENSORS)}; give any other a default"
            )


def _check_known(given: Mapping[str, Any], name: str, defaults: tuple[Mapping[str, Any], Mapping[str, Any]], key: str) -> None:
    known = {**defaults[1], **defaults[0]}
    for parameter, value in given.items():
        if parameter not in known:
            raise RecipeError(f"{key}.{parameter}: unknown key{_nearest(parameter, known)} (allowed: {_listed((name, *known, _START, _STOP))})")
        if parameter in defaults[1]:
            _check_value(f"{key}.{parameter}", (name, parameter), value, defaults[1][parameter])


def _parameter(value: Any, default: Any, name: tuple[str, str], key: str) -> Any:
    if name[1] == "temperature" and (value == "learned" or (isinstance(value, Mapping) and "learned" in value)):
        return _learned_temperature(value, key)
    if isinstance(value, Mapping) and isinstance(default, float):
        schedule = read_schedule(value, key)
        for place, number in schedule.points:
            _check_value(f"{key}.{place:g}", name, number, default)
        return schedule
    _check_value(key, name, value, default)
    return value


def _learned_temperature(value: Any, key: str) -> LearnedTemperature:
    settings = {} if value == "learned" else value["learned"]
    allowed = ("lowest", "span", "warmup_epochs")
    if not isinstance(settings, Mapping) or len(value if isinstance(value, Mapping) else {"learned": 0}) != 1:
        raise RecipeError(f"{key}: write `learned`, or {{learned: {{{', '.join(f'{name}: NUMBER' for name in allowed)}}}}}, not {value!r}")
    for name, number in settings.items():
        if name not in allowed:
            raise RecipeError(f"{key}.learned.{name}: unknown key{_nearest(name, allowed)} (allowed: {_listed(allowed)})")
        if not is_number(number) or number < 0 or (name == "lowest" and number == 0):
            raise RecipeError(f"{key}.learned.{name}: must be a number above 0, not {number!r}")
    return LearnedTemperature(**{name: float(number) for name, number in settings.items()})


def _check_value(key: str, name: tuple[str, str], value: Any, default: Any) -> None:
    """`name`: the loss, and which of its parameters has this value."""
    if isinstance(default, bool):
        expected, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, int):
        expected, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        expected, fits = "a number", is_number(value)
    elif isinstance(default, str):
        expected, fits = "a text", isinstance(value, str)
    else:
        return
    if not fits:
        raise RecipeError(f"{key}: must be {expected} (as the default, {default!r}), not {value!r}")
    allowed = range_of(*name)
    if allowed is not None and is_number(value) and not allowed.holds(value):
        raise RecipeError(f"{key}: must be {allowed}, not {value!r}")


def _layers(entry: Mapping[str, Any], tensors: tuple[str, ...], name: str, key: str) -> tuple[LayerPair, ...]:
    forms = (*FORMS, ALL_PAIRS)
    asks = [each for each in tensors if each.partition("_")[2] in forms and each.startswith(("student_", "teacher_"))]
    if _LAYERS not in entry:
        if asks:
            raise RecipeError(f"{key}: `{name}` looks inside the models ({_listed(asks)}): name the layers, as `layers: [layer1, layer3]`")
        return ()
    if not asks:
        raise RecipeError(f"{key}.{_LAYERS}: `{name}` looks at outputs alone ({_listed(tensors)}): remove `{_LAYERS}`")
    return read_pairs(entry[_LAYERS], f"{key}.{_LAYERS}", with_teacher=any(each.startswith("teacher_") for each in asks))


def _weight(value: Any, key: str) -> Schedule:
    if not isinstance(value, Mapping) and (not is_number(value) or value < 0):
        raise RecipeError(f"{key}: a weight is a number of at least 0, not {value!r}")
    schedule = read_schedule(value, key)
    for place, number in schedule.points:
        if number < 0:
            raise RecipeError(f"{key}.{place:g}: a weight is a number of at least 0, not {number!r}")
    return schedule


def _known_losses() -> str:
    return f"{_listed(LOSSES)}, or your own as module:function"


def _without_teacher() -> str:
    return _listed(name for name in LOSSES if not any(tensor.startswith("teacher_") for tensor in _asked(name)))


def _asked(name: str) -> tuple[str, ...]:
    own = signature_of_class(ImportPath(LEARNED[name])).tensors if name in LEARNED else ()
    return (*signature_of(ImportPath(LOSSES[name])).tensors, *own)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _nearest(name: str, allowed: Iterable[str]) -> str:
    found = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean `{found[0]}`?" if found else ""
