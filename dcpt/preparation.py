"""What a training command is given, made ready: recipe, data, processes and the network to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from dcpt.backbones import Backbone, create_backbone
from dcpt.checkpoint import load_model
from dcpt.data.batches import Batches
from dcpt.data.mixture import Data, Mixture, load_data, make_batches
from dcpt.errors import CheckpointMismatch, InvalidSetting
from dcpt.heads import DegradationClassifier
from dcpt.hub import locate
from dcpt.processes import Processes, join_processes
from dcpt.recipe import Recipe, Stage, load_recipe, override_stage, relabel

VALIDATION_SEED = 0x5EED  # added to the run's, so that validation draws other pictures


@dataclass(frozen=True)
class Setup:
    """Everything that a run has beside its network.

    Attributes:
        kind: "pretrain" or "finetune".
        recipe: The recipe in effect.
        data: What to train on.
        validation: What to validate on, if there is anything.
        manifest_hash: Which data were given.
        processes: Those that train together.
    """

    kind: str
    recipe: Recipe
    data: Mixture
    validation: Mixture | None
    manifest_hash: str
    processes: Processes

    @property
    def stage(self) -> Stage:
        """The settings of this stage."""
        return getattr(self.recipe, self.kind)

    @property
    def origin(self) -> dict[str, Any]:
        """What the run is, as plain data: it is kept beside everything the run writes."""
        return {"stage": self.kind, "recipe": self.recipe.as_dict(), "data_manifest": self.manifest_hash}

    @property
    def held_out(self) -> str:
        """What is validated on, for a resumed run to hold out the same."""
        share = self.stage.validation_share
        return f"{share:g} {self.validation.manifest_hash}" if self.validation else "nothing"

    def make_batches(self, *, paired: bool) -> Batches:
        """Return the data stream, of this process's pictures."""
        members = self.processes.share(self.stage.batch_size)
        return make_batches(self.data, self.recipe, self.stage, self.processes.device, paired=paired, members=members)

    def make_validation_batches(self, *, paired: bool) -> Batches | None:
        """Return the stream to validate on, every degradation as often as the others; None if there is none.

        Raises:
            DcptError: If no picture can be made of it.
        """
        if self.validation is None:
            return None
        recipe = replace(self.recipe, seed=self.recipe.seed + VALIDATION_SEED)
        stage = replace(self.stage, sampling_weights={}, mixed_share=0.0, workers=0)
        members = self.processes.share(stage.batch_size)
        batches = make_batches(
            self.validation, recipe, stage, self.processes.device, paired=paired, members=members, limited=False
        )
        batches(0)  # what cannot serve is said before the first step, not at the first checkpoint
        return batches


def prepare(
    kind: str,
    backbone: Backbone | str | None,
    data: Data | Sequence[Data],
    *,
    recipe: Recipe | str | Path,
    weights: Sequence[float] | None,
    validation: Data | Sequence[Data] | None,
    device: torch.device | str | None,
    settings: Mapping[str, Any],
) -> Setup:
    """Bring together what a training function is given; see `dcpt.pretrain` for the arguments.

    Raises:
        UnknownName: If there is no such recipe, backbone or setting.
        InvalidSetting: If a setting is out of range.
        InvalidData: If the data cannot serve.
    """
    name = type(backbone).__name__ if isinstance(backbone, nn.Module) else backbone
    check_backbone(backbone)
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, backbone=name)
    loaded = load_data(data, weights=weights)
    if loaded.labels and set(loaded.labels) != set(chosen.labels):  # the folders' names are the labels
        chosen = relabel(chosen, loaded.labels, synthesises=loaded.synthesises)
    chosen = override_stage(replace(chosen, backbone=name or chosen.backbone), kind, settings)
    if validation is None:
        kept, held = loaded.split(getattr(chosen, kind).validation_share)
    else:
        kept, held = loaded, load_data(validation)
    return Setup(kind, chosen, kept, held, loaded.manifest_hash, join_processes(device))


def check_backbone(backbone: Any) -> None:
    """Raise InvalidSetting unless it is None, a name or a network that keeps the contract of `Backbone`."""
    contract = ("feature_channels", "feature_strides", "size_multiple")
    if isinstance(backbone, nn.Module):
        missing = [name for name in contract if not hasattr(backbone, name)]
        if missing:
            raise InvalidSetting(f"expected a backbone with {', '.join(contract)}, got none of {', '.join(missing)}")
    elif not isinstance(backbone, (str, type(None))):
        raise InvalidSetting(f"expected a network, a name or None as backbone, got a {type(backbone).__name__}")


def start_model(
    recipe: Recipe, backbone: Backbone | str | None, start: str | Path | None
) -> tuple[Backbone, DegradationClassifier | None]:
    """Return the backbone to train, with trained weights if `start` names some, and their head.

    Args:
        recipe: Gives the backbone, unless it is given itself, and the seed of its weights.
        backbone: The network itself, which is then trained in place; or a name, or None.
        start: As the name for `from_pretrained`, of weights with a config.

    Raises:
        CheckpointMismatch: If `start` is damaged or of another backbone.
        UnknownName, HubError: If there is no such thing, or it cannot be fetched.
    """
    if isinstance(backbone, nn.Module):
        return load_model(locate(start), backbone=backbone)[:2] if start is not None else (backbone, None)
    fresh, head = seeded(recipe.seed, lambda: create_backbone(recipe.backbone)), None
    if start is not None:
        trained, head, _ = load_model(locate(start))
        if (trained.variant, trained.overrides) != (recipe.backbone, {}):
            raise CheckpointMismatch(
                f"expected a plain {recipe.backbone} to start from, got a {trained.variant} "
                f"with the options {trained.overrides} in {start}"
            )
        fresh.load_state_dict(trained.state_dict())
    return fresh, head


M = TypeVar("M", bound=nn.Module)


def seeded(seed: int, create: Callable[[], M]) -> M:
    """Create a module whose initial weights follow from the seed, leaving the global one alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return create()
