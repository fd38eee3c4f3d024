"""Degradation classification pre-training: teach a network to say what is wrong, before how to mend it.

Paper: Hu et al., "Universal Image Restoration Pre-training via Degradation Classification",
ICLR 2025 (arXiv 2501.15510).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.backbones import Backbone
from dcpt.checkpoint import save_model
from dcpt.data.synthetic import Batch, step_seed
from dcpt.errors import InvalidImage, InvalidSetting
from dcpt.heads import DegradationClassifier
from dcpt.losses import focal_loss, l1_loss
from dcpt.metrics import accuracy
from dcpt.recipe import Recipe
from dcpt.training import Data, StepOutput, TrainingState, describe_run, make_batches, run_training, seeded, start_model


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


def draw_visible(pictures: Tensor, generator: torch.Generator, *, patch_size: int = 16, share: float = 0.5) -> Tensor:
    """Draw which square patches of each picture stay visible.

    Args:
        pictures: (B, C, H, W).
        generator: Source of randomness, on the pictures' device.
        patch_size: Side of a patch in pixels.
        share: Share of the patches that stays visible, in (0, 1).

    Returns:
        1 where visible and 0 elsewhere, (B, 1, H, W).
    """
    batch, _, height, width = pictures.shape
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    order = torch.rand(batch, rows * columns, generator=generator, device=pictures.device).argsort(1).argsort(1)
    chosen = (order < round(share * rows * columns)).view(batch, 1, rows, columns).to(pictures.dtype)
    return chosen.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)[..., :height, :width]


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
    recipe: Recipe,
    data: Data,
    folder: str | Path,
    *,
    start: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Pre-train the recipe's backbone and head on clean photographs degraded on the fly.

    Interrupt it at will: calling it again with the same folder resumes exactly.

    Args:
        recipe: Backbone, labels and the settings in `recipe.pretrain`.
        data: Clean photographs, degraded on the fly, or a folder per degradation.
        folder: Run folder; `recipe.json`, `metrics.jsonl`, `checkpoints/` and `model/` appear there.
        start: Name or folder of weights whose backbone to start from; None starts from random ones.
        device: Where to train; data is prepared there too.

    Returns:
        The folder of the trained pair, `folder / "model"`: averaged weights, backbone and head.

    Raises:
        InvalidSetting: If the recipe asks for normalized gradients.
        CheckpointMismatch: If `start` is damaged or of another backbone.
    """
    folder, stage, device = Path(folder), recipe.pretrain, torch.device(device)
    if stage.gradients != "mean":
        raise InvalidSetting("expected gradients=mean in pre-training: a head may normalise over the batch")
    backbone, _ = start_model(recipe, start)
    head = seeded(
        recipe.seed + 1,
        lambda: DegradationClassifier(
            backbone.feature_channels,
            len(recipe.labels),
            expansion=recipe.head_expansion,
            norm=recipe.head_norm,
            labels=recipe.labels,
        ),
    )
    origin = describe_run("pretrain", recipe, data)
    frozen = stage.mode == "head"
    learning = {"head": head} if frozen else {"backbone": backbone, "head": head}
    backbone.to(device).requires_grad_(not frozen).train(not frozen)
    state = TrainingState(nn.ModuleDict(learning).to(device), stage, origin)

    def compute(batch: Batch) -> StepOutput:
        if frozen:
            return head_step(backbone, head, batch.lq, batch.label)
        if stage.mode == "masked":
            # Of another seed than the batch of the step.
            generator = torch.Generator(device).manual_seed(step_seed(recipe.seed, state.step) ^ 0x3A5C)
            visible = draw_visible(batch.lq, generator)
            return masked_step(backbone, head, batch.lq, batch.gt, batch.label, visible)
        clean_input = stage.mode == "standard"
        return dcpt_pretrain_step(backbone, head, batch.lq, batch.gt, batch.label, clean_input=clean_input)

    def publish() -> None:
        trained = backbone if frozen else state.ema["backbone"]
        save_model(folder / "model", trained, state.ema["head"], details=origin | {"step": state.step})

    batches = make_batches(data, recipe, stage, device, paired=False)
    run_training(state, stage, batches, compute, folder, origin=origin, publish=publish)
    return folder / "model"
