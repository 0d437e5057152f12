"""The recipe: what the user wrote, validated.

`kdedge.recipe_file.load_recipe` reads it from YAML; its errors name the file, the line, the key and what is allowed. What one section can
check alone is checked here, so that a recipe made in Python is held to the same rules.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from kdedge.artifact import Precision
from kdedge.recipe_values import (
    COMPLETE_MODELS,
    NAMED_MODELS,
    ModelName,
    Positive,
    RecipePath,
    Rule,
    Section,
    Side,
    Source,
    Value,
    one_or_many,
    preset_or_numbers,
)


class TokenizerSection(Section):
    """Where a text task's tokenizer comes from: a Hugging Face folder, or trained on the training texts."""

    folder: RecipePath | None = None
    vocabulary: int = Field(default=8000, ge=64)
    lowercase: bool = True


class DataSection(Section):
    """Training and test data as `reader:argument` (npz:FILE, folder:DIR, tsv:FILE, sklearn:digits, python:module:factory).

    `unlabelled`: examples without labels, for `distill.learn_from: unlabelled`.
    """

    train: Source
    test: Source
    unlabelled: Source | None = None
    augment: tuple[str, ...] = ()
    size: tuple[Side, Side] | None = None
    max_length: int = Field(default=64, ge=2)
    tokenizer: TokenizerSection = TokenizerSection()
    calibration: int = Field(default=512, ge=1)
    limit_train: int | None = Field(default=None, ge=1)
    limit_test: int | None = Field(default=None, ge=1)
    limit_unlabelled: int | None = Field(default=None, ge=1)


class OptimizerSection(Section):
    """How weights are updated. `lr` is for the batch size given; AdamW ignores `momentum`."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    nesterov: bool = True


class TrainSection(Section):
    """A training run; shared by `distill` and by `teacher.train` (which has no teacher terms).

    `views`: how many augmented views of each example there are (view = epoch mod views); without it every epoch has a new one. Without an
    augmentation there is one view, whatever is said here. `accumulate`: in how many pieces a batch goes through the model. `compile`: by
    torch.compile. `tensorboard`: a folder for its event files.
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: OptimizerSection = OptimizerSection()
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, le=1)
    ema: float | None = Field(default=None, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    accumulate: int = Field(default=1, ge=1)
    compile: bool = False
    views: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=30.0, ge=0, exclude=True)
    losses: tuple[dict[str, Any], ...] = ({"ce": 1.0},)
    seed: int | None = Field(default=None, ge=0)
    tensorboard: RecipePath | None = Field(default=None, exclude=True)


class NormalizeSection(Section):
    """Mean and standard deviation a channel, of images in [0, 1]."""

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Positive, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> NormalizeSection:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std has {len(self.std)}: both need one number a channel")
        return self


class ModelSection(Section):
    """A model: `kdedge:NAME`, `torchvision:NAME`, `timm:NAME`, `transformers:FOLDER`, `onnx:FILE` or `package.module:factory`.

    `arguments` go to the model's factory. `weights`: safetensors, or a checkpoint of tensors alone. `normalize`: the mean and std that the
    weights were trained with; without weights those of the training data are used.
    """

    model: ModelName
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: RecipePath | None = None
    normalize: (
        Annotated[
            Annotated[Literal["imagenet", "cifar10", "data", "none"], Tag("preset")] | Annotated[NormalizeSection, Tag("numbers")],
            Discriminator(preset_or_numbers),
        ]
        | None
    ) = None

    @property
    def kind(self) -> str:
        """What stands before the colon: `kdedge`, `onnx`, ..., or the module of a factory."""
        return self.model.partition(":")[0]

    @model_validator(mode="after")
    def _weights_belong(self) -> ModelSection:
        if self.kind in COMPLETE_MODELS and self.weights is not None:
            raise ValueError(f"`{self.kind}:` holds its weights already: remove `weights`")
        if self.kind in COMPLETE_MODELS and self.arguments:
            raise ValueError(f"`{self.kind}:` takes no arguments: remove `arguments`")
        return self


class TeacherSection(ModelSection):
    """A teacher: a pretrained model, or one that the recipe trains.

    In an ensemble it counts by `weight`. Its logits are divided by `temperature`. `classes`: its own class names in the order of its outputs,
    where they are not the data's; those of the same name are taken, and what it gives to others is left out.
    """

    train: TrainSection | None = None
    weight: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    classes: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _knows_something(self) -> TeacherSection:
        if self.kind == "onnx" and self.train is not None:
            raise ValueError("an ONNX file cannot be trained: remove `train`, or name a model that can be built")
        if self.kind in NAMED_MODELS and self.weights is None and self.train is None:
            raise ValueError(f"`{self.model}` has no weights and nothing trains it: give `weights: FILE` or `train: {{epochs: ...}}`")
        if self.classes is not None and self.train is not None:
            raise ValueError("`classes` are what given weights tell apart, and a teacher that is trained learns the data's: remove one of them")
        return self

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value if value is None else _unique(value)


class StageSection(Section):
    """One of several stages of `distill`: what it says replaces what `distill` says. The weights go on, the optimizer begins anew."""

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    optimizer: OptimizerSection | None = None
    schedule: Literal["cosine", "multistep", "constant"] | None = None
    warmup_epochs: float | None = Field(default=None, ge=0)
    ema: float | None = Field(default=None, ge=0, lt=1)
    losses: tuple[dict[str, Any], ...] | None = None
    learn_from: Literal["train", "unlabelled"] | None = None
    mixup: bool | None = None


class CacheSection(Section):
    """What the teacher says, kept: `use` it when that pays (`auto`), `always` or `never`; `top_k`: keep the largest logits alone, with the mass
    of the rest; `limit_gb`: how much the caches of a workspace may hold together."""

    use: Literal["auto", "always", "never"] = "auto"
    top_k: int | None = Field(default=None, ge=1)
    limit_gb: float = Field(default=20.0, gt=0, exclude=True)


class GenerationsSection(Section):
    """Self-distillation: `count` students of one kind, each taught by the one before (`teacher: last`) or by the average of all before."""

    count: int = Field(ge=2)
    teacher: Literal["last", "average"] = "last"


class DistillSection(TrainSection):
    """How the student learns. Each entry of `losses` names one term with its weight and its parameters: `{kd: 9.0, temperature: 2}`.

    `stages` come one after the other. `assistants` are models between teacher and student in size: each is taught by the one before and
    teaches the next. `peers` learn beside the student (for the loss `mutual`). `learn_from: unlabelled` takes the data section's unlabelled
    examples; `mixup` shows student and teacher the same mixtures of two examples.
    """

    losses: tuple[dict[str, Any], ...] = ({"ce": 0.1}, {"kd": 9.0, "temperature": 2.0, "standardize": True})
    stages: tuple[StageSection, ...] = ()
    assistants: tuple[ModelSection, ...] = ()
    peers: tuple[ModelSection, ...] = ()
    generations: GenerationsSection | None = None
    learn_from: Literal["train", "unlabelled"] = "train"
    mixup: bool = False
    cache: CacheSection = CacheSection()

    @model_validator(mode="after")
    def _learns(self) -> DistillSection:
        for key, models in (("assistants", self.assistants), ("peers", self.peers)):
            for place, model in enumerate(models):
                if model.kind == "onnx":
                    raise ValueError(f"{key}[{place}]: an ONNX file cannot be trained: name a model that can be built")
        return self


class CompareSection(Section):
    """An honest comparison: `seeds` students instead of one, and with `baseline` as many without a teacher at the same cost."""

    seeds: int = Field(default=3, ge=2)
    baseline: bool = True


class AwareSection(Section):
    """Quantization-aware distillation: the student with its dialect's rounding learns from the float student, or from the recipe's teacher.

    `epochs` over the training data, or `steps` batches where they are given. `ranges`: learned with the weights, or frozen as calibrated. `lr`: of
    weights in rounding steps, of ranges in logarithms.
    """

    epochs: float = Field(default=2.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    learn_from: Literal["student", "teacher"] = "student"
    lr: float = Field(default=3e-3, gt=0)
    batch_size: int = Field(default=64, ge=1)
    temperature: float = Field(default=2.0, gt=0)
    ranges: Literal["learned", "frozen"] = "learned"
    seed: int | None = Field(default=None, ge=0)


class MixedSection(Section):
    """What `mixed` must keep: a floor of agreement with the float student and a ceiling of KL from it, in calibration examples, and a hard limit of
    latency. `trials` caps how many candidates are measured."""

    agreement_student: Rule | None = None
    kl_student: Rule | None = None
    latency_median: Rule | None = None
    trials: int = Field(default=24, ge=1)

    @model_validator(mode="after")
    def _asks_for_something(self) -> MixedSection:
        if self.agreement_student is None and self.kl_student is None:
            raise ValueError("give what must be kept: agreement_student: '>= 0.99', or kl_student: '<= 0.002'")
        return self


class QuantizeSection(Section):
    """How ranges are found, and what is done to bring the integers closer to the float graph.

    `observer`: `best` takes the one that comes closest in the target's own dialect. `percentile`: of absolute values, for that observer.
    `keep_float`: names or patterns (`*`) of nodes that stay float everywhere. `recover`: each is measured, and dropped where it does not help.
    `aware`: quantization-aware distillation comes last. `mixed`: what the precision `mixed` must keep.
    """

    observer: Literal["minmax", "moving-average", "percentile", "entropy", "mse", "best"] = "mse"
    percentile: float = Field(default=99.99, gt=50, le=100)
    keep_float: tuple[str, ...] = ()
    recover: tuple[Literal["normalization", "equalization", "bias_correction", "adaptive_rounding"], ...] = ()
    aware: AwareSection | None = None
    mixed: MixedSection | None = None

    def observing(self) -> QuantizeSection:
        """What calibration reads of it: the rest may change and the ranges stay valid."""
        return self.model_copy(update={"recover": (), "aware": None, "mixed": None})


class ExportSection(Section):
    """One target and the precisions made for it. `batch`: the fixed batch size, or "dynamic"; `options` override the target's session options."""

    target: str
    precision: tuple[Precision, ...] = Field(min_length=1)
    batch: Annotated[int, Field(ge=1)] | Literal["dynamic"] | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("precision")
    @classmethod
    def _each_once(cls, value: tuple[Precision, ...]) -> tuple[Precision, ...]:
        return _unique(value)


class ProfileSection(Section):
    """How latency is measured.

    A launch is warm when both warm-up minima are met, and done when both timed minima are met or `max_seconds` is reached. `mode: sustained` is
    one launch from cold, as long as `sustained_seconds` or until the temperature is flat. `energy` adds launches of `energy_seconds` whose supplies
    are sampled.
    """

    mode: Literal["burst", "sustained"] = "burst"
    launches: int = Field(default=10, ge=1)
    warmup_seconds: float = Field(default=1.0, ge=0)
    warmup_iterations: int = Field(default=10, ge=1)
    min_seconds: float = Field(default=2.0, gt=0)
    min_iterations: int = Field(default=64, ge=1)
    max_seconds: float = Field(default=60.0, gt=0)
    sustained_seconds: float = Field(default=600.0, gt=0)
    energy: bool = False
    energy_seconds: float = Field(default=10.0, gt=0)
    timeout_seconds: float = Field(default=600.0, gt=0, exclude=True)


class Recipe(Section):
    """Everything that a run does. Paths are relative to the recipe's folder and absolute once loaded.

    `gate`: a figure and its rule, such as {latency_median: "<= 2 ms"}; `require` names the targets that must have run (a list, or all).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    task: str
    seed: int = Field(default=0, ge=0)
    data: DataSection
    teacher: (
        Annotated[
            Annotated[TeacherSection, Tag("one")] | Annotated[tuple[TeacherSection, ...], Field(min_length=1), Tag("many")],
            Discriminator(one_or_many),
        ]
        | None
    ) = None
    student: ModelSection
    distill: DistillSection | None = None
    compare: CompareSection | None = None
    quantize: QuantizeSection = QuantizeSection()
    export: tuple[ExportSection, ...] = ()
    devices: tuple[str, ...] = Field(default=("local",), min_length=1)
    profile: ProfileSection = ProfileSection()
    gate: dict[str, Rule] = Field(default_factory=dict)

    @field_validator("devices")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _unique(value)

    @model_validator(mode="after")
    def _student_learns_or_knows(self) -> Recipe:
        student = self.student
        if self.distill is not None and student.kind == "onnx":
            raise ValueError("student: an ONNX file cannot be trained: remove `distill`, or name a model that can be built")
        if self.distill is None and student.kind in NAMED_MODELS and student.weights is None:
            raise ValueError(f"student: `{student.model}` has no weights and nothing trains it: add a `distill` section or give `weights: FILE`")
        return self


def _unique(values: tuple[Value, ...]) -> tuple[Value, ...]:
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise ValueError(f"`{repeated[0]}` is listed twice")
    return values
