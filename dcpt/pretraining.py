"""Degradation classification pre-training: teach a network to say what is wrong, before how to mend it.

Paper: Hu et al., "Universal Image Restoration Pre-training via Degradation Classification",
ICLR 2025 (arXiv 2501.15510).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.backbones import Backbone
from dcpt.checkpoint import hash_weights, save_model
from dcpt.data.batches import Batch
from dcpt.data.mixture import Data
from dcpt.errors import InvalidImage, InvalidSetting
from dcpt.gradients import StepOutput
from dcpt.heads import DegradationClassifier
from dcpt.losses import focal_loss, l1_loss
from dcpt.metrics import accuracy
from dcpt.preparation import prepare, seeded, start_model
from dcpt.recipe import Recipe
from dcpt.training import Task, TrainingState, run_training
from dcpt.validation import Findings


def dcpt_pretrain_step(
    backbone: Backbone,
    head: nn.Module,
    lq: Tensor,
    gt: Tensor,
    label: Tensor,
    *,
    clean_input: bool = True,
    class_weight: float = 1.0,
    gamma: float = 2.0,
) -> StepOutput:
    """Compute the two DCPT losses of one batch; gradients and updates stay with the caller.

    Generation: the backbone reproduces clean pictures, L1. Classification: the head names the
    degradation from the backbone's features, focal loss. Call `backward` once, on the sum: the
    hook path alone leaves the output convolution without a gradient, and DistributedDataParallel
    needs one for every parameter.

    Args:
        backbone: The network to pre-train.
        head: Classifier of its features, returns (B, num_classes).
        lq: Degraded pictures, (B, 3, H, W), RGB in [0, 1]; sides multiples of
            `backbone.size_multiple`.
        gt: The clean pictures, same shape and range.
        label: Degradation of each picture, (B,), int64, in [0, num_classes).
        clean_input: Feed `gt` to the generation pass (the method); False feeds `lq`, which is
            the paper's ablation "direct training".
        class_weight: Factor on the classification loss.
        gamma: Exponent of the focal loss.

    Returns:
        Loss = pixel_loss + class_weight * class_loss, with graphs; accuracy in [0, 1], detached.

    Raises:
        InvalidImage: If the shapes differ or a side is not a multiple.

    Source: Hu et al., ICLR 2025, section 3.2.
    """
    if lq.shape != gt.shape or label.shape != lq.shape[:1]:
        raise InvalidImage(
            "expected lq and gt of one shape and one label per picture, got "
            f"lq {tuple(lq.shape)}, gt {tuple(gt.shape)}, label {tuple(label.shape)}"
        )
    pixel_loss = l1_loss(backbone(gt if clean_input else lq), gt)
    logits = head(backbone(lq, hook=True))
    class_loss = focal_loss(logits, label, gamma=gamma)
    loss = pixel_loss + class_weight * class_loss
    return StepOutput(loss, pixel_loss, class_loss, accuracy(logits, label))


def head_step(backbone: Backbone, head: nn.Module, lq: Tensor, label: Tensor, *, gamma: float = 2.0) -> StepOutput:
    """Compute the classification loss with the backbone frozen: only the head gets a gradient.

    Args:
        backbone: Gives the features; best in evaluation mode.
        head: Classifier of them, returns (B, num_classes).
        lq: Degraded pictures, (B, 3, H, W), RGB in [0, 1].
        label: Degradation of each picture, (B,), int64.
        gamma: Exponent of the focal loss.

    Source: Hu et al., ICLR 2025, the head of section 3.2 on its own.
    """
    with torch.no_grad():
        features = backbone(lq, hook=True)
    logits = head(features)
    loss = focal_loss(logits, label, gamma=gamma)
    return StepOutput(loss, class_loss=loss, accuracy=accuracy(logits, label))


def masked_step(
    backbone: Backbone, head: nn.Module, lq: Tensor, gt: Tensor, label: Tensor, visible: Tensor, *, gamma: float = 2.0
) -> StepOutput:
    """Compute the two losses of MaskDCPT: restore the whole picture, and name its degradation, from half of it.

    The hidden half is blacked out of the input and of the output of every block, so that no block
    looks there; pictures and features come from one pass.

    Args:
        backbone: The network to pre-train; takes `hook="both"`.
        head: Classifier of its features, returns (B, num_classes).
        lq: Degraded pictures, (B, 3, H, W), RGB in [0, 1].
        gt: The clean pictures, same shape and range.
        label: Degradation of each picture, (B,), int64.
        visible: 1 where the network may look and 0 elsewhere, (B, 1, H, W), from `draw_visible`.
        gamma: Exponent of the focal loss.

    Source: Hu et al., MaskDCPT, arXiv 2510.13282. Unlike there, NAFNet's pooling counts hidden positions, as zeros.
    """
    with masked_blocks(backbone, visible):
        restored, features = backbone(lq * visible, hook="both")
    logits = head(features)
    pixel_loss, class_loss = l1_loss(restored, gt), focal_loss(logits, label, gamma=gamma)
    return StepOutput(pixel_loss + class_loss, pixel_loss, class_loss, accuracy(logits, label))


def draw_visible(pictures: Tensor, seeds: Tensor, *, patch_size: int = 16, share: float = 0.5) -> Tensor:
    """Draw which square patches of each picture stay visible.

    Args:
        pictures: (B, C, H, W).
        seeds: Seed of each picture's draw, (B,), int64.
        patch_size: Side of a patch in pixels.
        share: Share of the patches that stays visible, in (0, 1).

    Returns:
        1 where visible and 0 elsewhere, (B, 1, H, W).
    """
    height, width = pictures.shape[-2:]
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    visible = torch.zeros(len(pictures), 1, rows * columns)
    for picture, seed in zip(visible, seeds.tolist(), strict=True):
        order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
        picture[0, order[: round(share * rows * columns)]] = 1
    patches = visible.view(-1, 1, rows, columns).to(pictures)
    return patches.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)[..., :height, :width]


@contextmanager
def masked_blocks(backbone: Backbone, visible: Tensor) -> Iterator[None]:
    """Black out the hidden positions in the output of every block of a backbone, as long as the block lasts."""

    def hide(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output * F.interpolate(visible, size=output.shape[-2:], mode="nearest")

    blocks = [module for module in backbone.modules() if isinstance(module, backbone.block_types)]
    handles = [block.register_forward_hook(hide) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pretrain(
    backbone: Backbone | str | None,
    data: Data | Sequence[Data],
    folder: str | Path,
    *,
    recipe: Recipe | str | Path = "small-10d",
    weights: Sequence[float] | None = None,
    validation: Data | Sequence[Data] | None = None,
    start: str | Path | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Path:
    """Teach a backbone, with a classifier head on its features, to say what is wrong with a picture.

    Interrupt it at will: calling it again with the same folder resumes exactly.

    Args:
        backbone: A network, which is trained in place: a `Backbone`, or any module with its three
            attributes and `hook=True`; the name of a registered one; or None for the recipe's.
        data: Clean photographs to degrade on the fly, a file of packed ones, a folder with a folder per
            degradation (whose names become the labels), or several of these.
        folder: Run folder; `recipe.json`, `metrics.jsonl`, `checkpoints/`, `model/` and, where pictures
            are held out for validation, `best/` and `samples/` appear there.
        recipe: Labels and settings; a name, a file or a `Recipe`.
        weights: How often a picture is drawn from each of the data, relative to the others.
        validation: What to validate on; None holds out a share of the data (`validation_share`).
        start: Name or folder of weights whose backbone to start from; None starts from random ones.
        device: Where to train; None picks the fastest.
        **settings: Settings of `recipe.pretrain` to change, by the fields of `Stage`.

    Returns:
        The folder of the trained pair, `folder / "model"`: averaged weights, backbone and head.

    Raises:
        UnknownName: If there is no such recipe, backbone or setting.
        InvalidSetting: If a setting is out of range, or the recipe asks for normalized gradients.
        InvalidData: If the data cannot serve.
        CheckpointMismatch: If `start` is damaged or of another backbone.
    """
    setup = prepare(
        "pretrain", backbone, data, recipe=recipe, weights=weights, validation=validation, device=device,
        settings=settings,
    )  # fmt: skip
    recipe, stage, device = setup.recipe, setup.stage, setup.processes.device
    network, _ = start_model(recipe, backbone, start)
    head = make_head(recipe, network)
    frozen = stage.mode == "head"
    learning = {"head": head} if frozen else {"backbone": network, "head": head}
    network.to(device).train(not frozen)
    idle = hash_weights(network) if frozen else ""
    state = TrainingState(nn.ModuleDict(learning).to(device), stage, setup, frozen=idle)
    trained = network if frozen else state.ema["backbone"]

    def compute(batch: Batch) -> StepOutput:
        if frozen:
            return head_step(network, head, batch.lq, batch.label)
        if stage.mode == "masked":
            visible = draw_visible(batch.lq, batch.seed)
            return masked_step(network, head, batch.lq, batch.gt, batch.label, visible)
        clean_input = stage.mode == "standard"
        return dcpt_pretrain_step(network, head, batch.lq, batch.gt, batch.label, clean_input=clean_input)

    def examine(batch: Batch) -> Findings:
        guess = state.ema["head"](trained(batch.lq, hook=True)).argmax(1)
        pairs = zip(batch.label.tolist(), guess.tolist(), strict=True)
        captions = [f"{recipe.labels[label]}: {recipe.labels[named]}" for label, named in pairs]
        return Findings({"accuracy": (guess == batch.label).float()}, (batch.lq, batch.gt), captions)

    def write(target: Path) -> None:
        save_model(target, trained, state.ema["head"], details=setup.origin | {"step": state.step})

    model = run_training(state, setup, Task(compute, examine, write), Path(folder), paired=False)
    network.load_state_dict(trained.state_dict())
    network.eval()
    return model


def make_head(recipe: Recipe, backbone: Backbone) -> DegradationClassifier:
    """Create the classifier of a backbone's features, its initial weights following from the recipe's seed.

    Raises:
        InvalidSetting: If there are no classes to tell apart.
    """
    if len(recipe.labels) < 2:
        raise InvalidSetting(f"expected two or more labels to tell apart, got {list(recipe.labels)}")
    options = {"expansion": recipe.head_expansion, "norm": recipe.head_norm, "labels": recipe.labels}
    create = partial(DegradationClassifier, backbone.feature_channels, len(recipe.labels), **options)
    return seeded(recipe.seed + 1, create)
