"""The commented recipe that `kdedge init` writes: it runs once its data is there, and shows where to go from it."""

from __future__ import annotations

import difflib
import re

from kdedge.errors import RecipeError

_IMAGES = """\
# yaml-language-server: $schema=recipe.schema.json      (write it once: kdedge recipe schema > recipe.schema.json)
# Run it: kdedge run NAME.yaml        What would waste hours: kdedge doctor NAME.yaml        Paths are relative to this file.
name: NAME
task: image-classification

data:
  # npz:FILE holds uint8 images x_train, x_test [n, height, width, 3] and labels y_train, y_test; folder:DIR has one folder a class.
  train: npz:data/images.npz
  test: npz:data/images.npz
  augment: [crop4, flip]             # shifts by up to 4 pixels, mirrors; leave out flip where left and right mean something
  # size: [32, 32]                   # height and width that enter the model; needed where images differ in size

teacher:
  model: kdedge:resnet56-cifar       # or torchvision:NAME, timm:NAME, package.module:factory, onnx:FILE
  train: {epochs: 60}                # trained here, once. For one that is trained already write instead:
  # weights: data/teacher.safetensors
  # normalize: imagenet              # the mean and std that its weights were trained with: imagenet, cifar10, data, none, {mean, std}

student:
  model: kdedge:resnet20-cifar       # or kdedge:mobilenetv2, kdedge:cnn, kdedge:vgg8, ...
  # arguments: {width: 12}           # smaller, by what the model offers

distill:
  epochs: 60
  losses:
    - {ce: 0.1}                      # the labels
    - {kd: 9.0, temperature: 2, standardize: true}    # the teacher's logits
  # views: 5                         # that many augmented views of an image instead of a new one each epoch: the teacher is asked once about each
  # precision: bf16                  # much faster steps on processors that have it

# compare: {seeds: 3, baseline: true}    # what the teacher is worth, over three seeds, against a student without one

export:
  - {target: onnxruntime-x86, precision: [fp32, int8]}
  - {target: openvino, precision: [fp16, int8]}
  # - {target: tensorrt, precision: [fp16, int8]}     # built on the board that runs it

devices: [local]

# What an artifact must reach to be shipped, with 95 % confidence. Leave out what does not matter.
gate:
  agreement_student: ">= 0.97"       # share of test images with the same answer as the float student
  agreement_teacher: ">= 0.85"
  size: "<= 2 MB"
  # latency_median: "<= 5 ms"
"""

_TEXTS = """\
# yaml-language-server: $schema=recipe.schema.json      (write it once: kdedge recipe schema > recipe.schema.json)
# Run it: kdedge run NAME.yaml        What would waste hours: kdedge doctor NAME.yaml        Paths are relative to this file.
name: NAME
task: text-classification

data:
  # A text and its label a line, with a tab between them and a header line; .tsv or .tsv.gz.
  train: tsv:data/train.tsv
  test: tsv:data/test.tsv
  max_length: 64                     # tokens; what is longer is cut
  tokenizer: {vocabulary: 8000}      # trained on the training texts; or {folder: DIR} for one of Hugging Face

teacher:
  model: kdedge:transformer-text     # or transformers:FOLDER for a Hugging Face classifier (then without arguments and train)
  arguments: {layers: 4, width: 256}
  train:
    epochs: 5
    batch_size: 64
    optimizer: {name: adamw, lr: 5e-4, weight_decay: 0.01}
    warmup_epochs: 0.5

student:
  model: kdedge:transformer-text
  arguments: {layers: 2, width: 64}

distill:
  epochs: 5
  batch_size: 64
  optimizer: {name: adamw, lr: 1e-3, weight_decay: 0.01}
  warmup_epochs: 0.5
  losses:
    - {ce: 0.5}                      # the labels
    - {kd: 1.0, temperature: 2}      # the teacher's logits

export:
  - {target: onnxruntime-x86, precision: [fp32, int8-dynamic]}

devices: [local]

# What an artifact must reach to be shipped, with 95 % confidence. Leave out what does not matter.
gate:
  agreement_student: ">= 0.97"       # share of test texts with the same answer as the float student
  # accuracy: ">= 0.80"
  # latency_median: "<= 5 ms"
"""

STARTERS: dict[str, str] = {"image-classification": _IMAGES, "text-classification": _TEXTS}


def starter(name: str, task: str) -> str:
    """A commented recipe for a task.

    Raises:
        RecipeError: the name has characters that no recipe's name has, or there is no starter for the task.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise RecipeError(
            f"`{name}` cannot name a recipe: it must begin with a letter or digit and hold only letters, digits, `.`, `_` and `-`, at most 100"
        )
    if task not in STARTERS:
        close = difflib.get_close_matches(task, STARTERS, n=1)
        meant = f"; did you mean `{close[0]}`?" if close else ""
        raise RecipeError(f"there is no starter recipe for the task `{task}`{meant} (allowed: {', '.join(STARTERS)})")
    # A name such as 2024 or 1e3 would be read as a number without quotes.
    quoted = name if re.match(r"[A-Za-z]", name) and name.lower() not in ("null", "true", "false") else f'"{name}"'
    return STARTERS[task].replace("name: NAME\n", f"name: {quoted}\n").replace("NAME.yaml", f"{name}.yaml")
