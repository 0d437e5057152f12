"""The recipe: what the user wrote, validated. `load_recipe` reads YAML; its errors name the file, the line, the key and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kdedge.artifact import Precision


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerSection(Section):
    """Where a text task's tokenizer comes from: a Hugging Face folder, or trained on the training texts."""

    folder: Path | None = None
    vocabulary: int = Field(default=8000, ge=64)
    lowercase: bool = True


class DataSection(Section):
    """Training and test data as `reader:argument` (npz:FILE, folder:DIR, tsv:FILE, sklearn:digits, python:module:factory)."""

    train: str
    test: str
    augment: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    max_length: int = Field(default=64, ge=2)
    tokenizer: TokenizerSection = TokenizerSection()
    calibration: int = Field(default=512, ge=1)
    limit_train: int | None = Field(default=None, ge=1)
    limit_test: int | None = Field(default=None, ge=1)


class OptimizerSection(Section):
    """How weights are updated. `lr` is for the batch size given; AdamW ignores `momentum`."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    nesterov: bool = True


class TrainSection(Section):
    """A training run; shared by `distill` and by `teacher.train` (which has no teacher terms)."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: OptimizerSection = OptimizerSection()
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, le=1)
    ema: float | None = Field(default=None, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    views: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    losses: tuple[dict[str, Any], ...] = ({"ce": 1.0},)
    seed: int | None = None


class ModelSection(Section):
    """A model: `kdedge:NAME`, `torchvision:NAME`, `timm:NAME`, `transformers:FOLDER`, `onnx:FILE` or `package.module:factory`."""

    model: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: Path | None = None
    normalize: Literal["imagenet", "cifar10", "data", "none"] | dict[Literal["mean", "std"], tuple[float, ...]] | None = None


class TeacherSection(ModelSection):
    """A teacher: a pretrained model, or one that the recipe trains. `weight` counts in an ensemble."""

    train: TrainSection | None = None
    weight: float = Field(default=1.0, gt=0)


class DistillSection(TrainSection):
    """How the student learns. Each entry of `losses` names one term with its weight and its parameters: `{kd: 9.0, temperature: 2}`."""

    losses: tuple[dict[str, Any], ...] = ({"ce": 0.1}, {"kd": 9.0, "temperature": 2.0, "standardize": True})


class QuantizeSection(Section):
    """How ranges are found. `keep_float`: names or patterns (`*`) of nodes that stay float everywhere."""

    observer: Literal["minmax", "mse"] = "minmax"
    keep_float: tuple[str, ...] = ()


class ExportSection(Section):
    """One target and the precisions made for it. `batch`: the fixed batch size, or "dynamic"; `options` override the target's session options."""

    target: str
    precision: tuple[Precision, ...]
    batch: int | Literal["dynamic"] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ProfileSection(Section):
    """How latency is measured. A launch is warm when both warm-up minima are met, and done when both timed minima are met or `max_seconds` is reached."""

    launches: int = Field(default=10, ge=1)
    warmup_seconds: float = Field(default=1.0, ge=0)
    warmup_iterations: int = Field(default=10, ge=1)
    min_seconds: float = Field(default=2.0, gt=0)
    min_iterations: int = Field(default=64, ge=1)
    max_seconds: float = Field(default=60.0, gt=0)
    timeout_seconds: float = Field(default=600.0, gt=0)


class Recipe(Section):
    """Everything that a run does. Paths are relative to the recipe's folder and absolute once loaded."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: str
    seed: int = 0
    data: DataSection
    teacher: TeacherSection | tuple[TeacherSection, ...] | None = None
    student: ModelSection
    distill: DistillSection | None = None
    quantize: QuantizeSection = QuantizeSection()
    export: tuple[ExportSection, ...] = ()
    devices: tuple[str, ...] = ("local",)
    profile: ProfileSection = ProfileSection()
    gate: dict[str, str] = Field(default_factory=dict)
