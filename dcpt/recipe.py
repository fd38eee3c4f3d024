"""Training recipes: what a run does, as data.

A recipe is a small YAML file with the sections `pretrain` and `finetune`; the shipped ones
lie in `dcpt/recipes/`. The keys of a section are the fields of `Stage`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dcpt.errors import InvalidSetting, UnknownName
from dcpt.registry import unknown_name

RECIPE_FILE = "recipe.json"  # what a training did, beside the weights it made
CLEAN = "clean"  # the class of pictures that need nothing


MODES = {"pretrain": ("standard", "direct", "masked", "head"), "finetune": ("standard", "guided")}
POSITIVE = ("steps", "batch_size", "patch_size", "gradient_accumulation_steps", "validation_size")
POSITIVE += ("checkpoint_every", "log_every")


@dataclass(frozen=True)
class Stage:
    """The settings of one training stage, pre-training or fine-tuning.

    Attributes:
        mode: "standard", the stage's own step; in pre-training also "direct" (the generation pass sees
            the degraded picture), "masked" (MaskDCPT) and "head" (the backbone is frozen, only the head learns); in
            fine-tuning also "guided" (DC-guided transfer: a frozen pre-trained head watches).
        steps: Optimizer steps.
        batch_size: Pictures per step, of all processes together.
        patch_size: Side of the square training crops in pixels.
        lr: Peak learning rate of the backbone (AdamW).
        head_lr: Learning rate of the head; only pre-training has one.
        min_lr: Rate at the end of the cosine.
        schedule: "constant" or "cosine", after a linear warm-up.
        warmup_steps: Steps from rate 0 to the peak.
        weight_decay: AdamW weight decay of the backbone.
        head_weight_decay: The same of the head.
        gradients: "mean" of the loss over the batch, or "normalized": that of each picture is scaled
            to length 1 before averaging, so that the degradations with the largest errors, such as
            darkness and haze, do not drown those with small ones (fine-tuning only; one pass per picture).
        clip_norm: Gradient norm to clip at; 0 switches clipping off.
        ema_decay: Decay of the averaged weights; 0 switches averaging off.
        clean_share: Share of pictures left clean.
        mixed_share: Share of pictures with two or three degradations at once (their class is
            unknown: fine-tuning only).
        sampling_weights: How often a degradation is drawn, relative to the others, by name; those not
            named have weight 1.
        precision: "fp32" or "bf16" (automatic mixed precision).
        gradient_accumulation_steps: Parts to make a batch in, one after the other, where it does not fit
            in memory at once; the batch stays as large as `batch_size`.
        gradient_checkpointing: Keep only what enters each block and compute the block again in the
            backward pass: a third slower, at a fraction of the memory.
        torch_compile: Compile the backbone; minutes at the start, faster steps on a GPU.
        validation_share: Share of the data held out to validate on at every checkpoint; 0 holds out nothing.
        validation_size: Pictures to validate on.
        tensorboard: Write the log for TensorBoard, too (extra `tensorboard`).
        workers: Processes that prepare batches ahead, on the CPU; 0 prepares them in the training process,
            on its device, where a GPU draws other pictures than the CPU.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between lines of the log, over which they average.
    """

    mode: str = "standard"
    steps: int = 1000
    batch_size: int = 16
    patch_size: int = 128
    lr: float = 3e-4
    head_lr: float = 1e-4
    min_lr: float = 1e-6
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    head_weight_decay: float = 1e-4
    gradients: str = "mean"
    clip_norm: float = 0.0
    ema_decay: float = 0.999
    clean_share: float = 0.0
    mixed_share: float = 0.0
    sampling_weights: dict[str, float] = field(default_factory=dict)
    precision: str = "fp32"
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    validation_share: float = 0.05
    validation_size: int = 64
    tensorboard: bool = False
    workers: int = 0
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        choices = {"schedule": ("constant", "cosine"), "precision": ("fp32", "bf16")}
        choices["gradients"] = ("mean", "normalized")
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidSetting(f"expected {name} to be one of {allowed}, got {getattr(self, name)!r}")
        numbers = {name: value for name, value in asdict(self).items() if isinstance(value, (int, float))}
        numbers |= {f"the sampling weight of {name}": value for name, value in self.sampling_weights.items()}
        for name, value in numbers.items():
            lowest = 1 if name in POSITIVE else 0
            # Written so that NaN fails too.
            if not lowest <= value < math.inf:
                raise InvalidSetting(f"expected {name} to be finite and at least {lowest}, got {value}")
        if self.mode == "head" and (self.torch_compile or self.gradient_checkpointing):
            raise InvalidSetting("expected torch_compile and gradient_checkpointing=false where only the head learns")
        if self.mode == "masked" and self.torch_compile:
            raise InvalidSetting("expected torch_compile=false in masked pre-training: compiled blocks hide nothing")
        if self.clean_share + self.mixed_share > 1 or self.ema_decay >= 1 or self.validation_share >= 1:
            raise InvalidSetting("expected clean_share + mixed_share up to 1, ema_decay and validation_share below 1")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training, apart from the photographs.

    Attributes:
        name: Name under which weights trained by it are published.
        backbone: Registered backbone variant.
        labels: Class names in the order of the head's logits: degradations, "clean" possibly last.
        head_expansion: Hidden width of the head's bottlenecks (`DegradationClassifier`).
        head_norm: Their norm, "layer" or "batch".
        seed: Seed of the initial weights and of the data stream.
        pretrain: Settings of DCPT pre-training.
        finetune: Settings of restoration fine-tuning.
    """

    name: str
    backbone: str
    labels: tuple[str, ...]
    head_expansion: float = 2.0
    head_norm: str = "layer"
    seed: int = 0
    pretrain: Stage = field(default_factory=Stage)
    finetune: Stage = field(default_factory=Stage)

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise InvalidSetting(f"expected different labels, got {list(self.labels)}")
        if CLEAN not in self.labels and (self.pretrain.clean_share or self.finetune.clean_share):
            raise InvalidSetting(f"expected {CLEAN!r} among the labels, for there is a clean_share")
        for stage, modes in MODES.items():
            if (mode := getattr(self, stage).mode) not in modes:
                raise InvalidSetting(f"expected the mode of {stage} to be one of {modes}, got {mode!r}")
        if self.pretrain.gradients != "mean":
            raise InvalidSetting("expected gradients=mean in pre-training: a head may normalise over the batch")
        if self.mixes_classes:
            raise InvalidSetting("expected mixed_share 0 where degradations are classified: a mixture has no class")
        for weights in (self.pretrain.sampling_weights, self.finetune.sampling_weights):
            for name in weights:
                if name not in self.degradations:
                    raise unknown_name("degradation of the recipe", name, self.degradations)
            if not any(weights.get(name, 1) for name in self.degradations):
                raise InvalidSetting("expected a sampling weight above 0, got 0 for every degradation")

    @property
    def degradations(self) -> tuple[str, ...]:
        """The labels without "clean"."""
        return tuple(label for label in self.labels if label != CLEAN)

    @property
    def mixes_classes(self) -> bool:
        """Whether a stage that classifies is to see pictures of several classes."""
        return bool(self.pretrain.mixed_share or (self.finetune.mode == "guided" and self.finetune.mixed_share))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `build_recipe` reads back."""
        return asdict(self) | {"labels": list(self.labels)}


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("dcpt") / "recipes"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(name: str | Path, *, backbone: str | None = None) -> Recipe:
    """Read a shipped recipe by name, or any recipe file (.yaml, .json) by path.

    Args:
        name: Name or path.
        backbone: Another backbone than the recipe's own; what its section `variants` says of it counts.

    Raises:
        UnknownName: If there is no such recipe, or it has a key that does not exist.
        InvalidSetting: If the file is no recipe, or a value is of the wrong type or out of range.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        if not path.is_file():
            raise UnknownName(f"expected a recipe file, found none at {path}")
        text = path.read_text(encoding="utf-8")
    elif str(name) in list_recipes():
        text = (resources.files("dcpt") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise unknown_name("recipe", str(name), list_recipes())
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSetting(f"cannot read the recipe {name}: {error}") from None
    if isinstance(data, dict) and isinstance(data.get("recipe"), dict):
        data = data["recipe"]  # the recipe.json of a run folder
    return build_recipe(choose_variant(data, backbone) if isinstance(data, dict) else data)


def choose_variant(data: Mapping[str, Any], backbone: str | None) -> dict[str, Any]:
    """Return a recipe's plain data as its section `variants` has them for a backbone, by default its own.

    Raises:
        InvalidSetting: If the section is malformed.
    """
    chosen = backbone or data.get("backbone")
    try:
        changes = dict((data.get("variants") or {}).get(chosen) or {})
        values = {key: value for key, value in data.items() if key != "variants"}
        values |= {stage: {**(values.get(stage) or {}), **settings} for stage, settings in changes.items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidSetting(
            f"expected variants to be settings by backbone and stage, got {data.get('variants')!r}"
        ) from None
    return values | ({"backbone": backbone} if backbone else {})


def build_recipe(data: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain data, checking every key and type."""
    if not isinstance(data, Mapping):
        raise InvalidSetting(f"expected a recipe with keys and values, got {data!r}")
    values = dict(data)
    for stage in ("pretrain", "finetune"):
        if stage in values:
            values[stage] = _build(Stage, values[stage] or {}, f"key of {stage}:")
    labels = values.get("labels", [])
    if not isinstance(labels, (list, tuple)):
        raise InvalidSetting(f"expected labels to be a list, got {labels!r}")
    values["labels"] = tuple(map(str, labels))
    return _build(Recipe, values, "recipe key")


def override_stage(recipe: Recipe, stage: str, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some settings of one stage replaced.

    Args:
        recipe: The recipe to start from.
        stage: "pretrain" or "finetune".
        settings: New values by the field names of `Stage`; strings are converted.
    """
    values = asdict(getattr(recipe, stage)) | dict(settings)
    return replace(recipe, **{stage: _build(Stage, values, f"key of {stage}:")})


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UnknownName unless all keys are settings of a stage."""
    known = {entry.name for entry in fields(Stage)}
    for key in settings:
        if key not in known:
            raise unknown_name("setting", key, known)


def relabel(recipe: Recipe, labels: tuple[str, ...], *, synthesises: bool = False) -> Recipe:
    """Return the recipe for the classes of given pictures.

    Args:
        recipe: The recipe.
        labels: Their classes; they replace the recipe's.
        synthesises: Whether clean photographs are there, too: then the recipe's own classes, and what
            it says of clean and mixed pictures, stay.
    """
    if synthesises:
        labels = tuple(sorted(dict.fromkeys((*recipe.labels, *labels)), key=lambda label: label == CLEAN))
        return replace(recipe, labels=labels)
    stages = {}
    for name in MODES:
        stage = getattr(recipe, name)
        weights = {label: weight for label, weight in stage.sampling_weights.items() if label in labels}
        stages[name] = replace(stage, clean_share=0.0, mixed_share=0.0, sampling_weights=weights)
    return replace(recipe, labels=labels, **stages)


def _build(kind: type, values: Any, what: str) -> Any:
    if not isinstance(values, Mapping):
        raise InvalidSetting(f"expected keys and values in place of {values!r} ({what} is missing)")
    types = {entry.name: entry.type for entry in fields(kind)}
    converted = {}
    for key, value in values.items():
        if key not in types:
            raise unknown_name(what, str(key), types)
        converted[key] = _convert(key, value, types[key])
    try:
        return kind(**converted)
    except TypeError as error:  # a required key is missing
        raise InvalidSetting(f"incomplete recipe: {error}") from None


def _convert(key: str, value: Any, kind: str) -> Any:
    # YAML reads 3e-4 as a string, and the command line has nothing but strings.
    if kind == "dict[str, float]":
        return _convert_weights(key, value)
    if kind == "bool":
        return _convert_switch(key, value)
    convert = {"int": int, "float": float, "str": str}.get(kind)
    if convert is None:
        return value
    try:
        if convert is int and float(value) != int(value):
            raise ValueError
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSetting(f"expected {key} to be of type {kind}, got {value!r}") from None


def _convert_switch(key: str, value: Any) -> bool:
    switch = {"true": True, "false": False}.get(str(value).lower())
    if switch is None:
        raise InvalidSetting(f"expected {key} to be true or false, got {value!r}")
    return switch


def _convert_weights(key: str, value: Any) -> dict[str, float]:
    if isinstance(value, str):  # from the command line: jpeg=2,haze=0.5
        value = dict(pair.partition("=")[::2] for pair in value.split(",") if pair)
    if not isinstance(value, Mapping):
        raise InvalidSetting(f"expected {key} to be numbers by name, such as jpeg=2,haze=0.5, got {value!r}")
    return {str(name): _convert(f"{key} of {name}", weight, "float") for name, weight in value.items()}
