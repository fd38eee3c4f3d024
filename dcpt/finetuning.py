"""Restoration fine-tuning: the second half of the method."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dcpt.backbones import Backbone
from dcpt.checkpoint import save_model
from dcpt.data.synthetic import Batch
from dcpt.errors import CheckpointMismatch
from dcpt.heads import DegradationClassifier
from dcpt.losses import cross_entropy_loss, l1_loss
from dcpt.metrics import accuracy
from dcpt.recipe import Recipe
from dcpt.training import Data, StepOutput, TrainingState, describe_run, make_batches, run_training, start_model


def finetune_step(backbone: Backbone, lq: Tensor, gt: Tensor) -> StepOutput:
    """Compute the restoration loss of one batch, L1; gradients and updates stay with the caller.

    Args:
        backbone: The network to fine-tune.
        lq: Degraded pictures, (B, 3, H, W), RGB in [0, 1].
        gt: The clean pictures, same shape and range.

    Source: Hu et al., ICLR 2025, section 3.3.
    """
    loss = l1_loss(backbone(lq), gt)
    return StepOutput(loss, loss)


def guided_step(backbone: Backbone, head: nn.Module, lq: Tensor, gt: Tensor, label: Tensor) -> StepOutput:
    """Compute the two losses of DC-guided transfer to other degradations.

    The head, pre-trained and frozen, keeps the features telling what the degradation is, while
    the backbone learns to restore. Pictures and features come from one pass.

    Args:
        backbone: The network to transfer; takes `hook="both"`.
        head: Pre-trained classifier of its features, in evaluation mode, its parameters frozen.
        lq: Degraded pictures, (B, 3, H, W), RGB in [0, 1].
        gt: The clean pictures, same shape and range.
        label: Class of each picture, (B,), int64.

    Returns:
        Loss = L1 + cross-entropy, with graphs; accuracy in [0, 1], detached.

    Source: Hu et al., ICLR 2025, section 3.3 (degradation classification guided training).
    """
    restored, features = backbone(lq, hook="both")
    logits = head(features)
    pixel_loss, class_loss = l1_loss(restored, gt), cross_entropy_loss(logits, label)
    return StepOutput(pixel_loss + class_loss, pixel_loss, class_loss, accuracy(logits, label))


def finetune(
    recipe: Recipe,
    data: Data,
    folder: str | Path,
    *,
    start: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Fine-tune a backbone for restoration on clean photographs degraded on the fly.

    Interrupt it at will: calling it again with the same folder resumes exactly.

    Args:
        recipe: Backbone, labels and the settings in `recipe.finetune`.
        data: Clean photographs, degraded on the fly, or a folder per degradation.
        folder: Run folder; `recipe.json`, `metrics.jsonl`, `checkpoints/` and `model/` appear there.
        start: Name or folder of weights to start from, usually those of pre-training; None starts
            from random ones. DC-guided transfer needs the pair of backbone and head.
        device: Where to train; data is prepared there too.

    Returns:
        The folder of the fine-tuned backbone, `folder / "model"`, with averaged weights.

    Raises:
        CheckpointMismatch: If `start` is damaged, of another backbone, or without the head that
            DC-guided transfer needs.
    """
    folder, stage, device = Path(folder), recipe.finetune, torch.device(device)
    backbone, head = start_model(recipe, start)
    guide = freeze_guide(recipe, head, device) if stage.mode == "guided" else None
    origin = describe_run("finetune", recipe, data)
    state = TrainingState(nn.ModuleDict({"backbone": backbone}).to(device), stage, origin)

    def compute(batch: Batch) -> StepOutput:
        if guide is None:
            return finetune_step(backbone, batch.lq, batch.gt)
        return guided_step(backbone, guide, batch.lq, batch.gt, batch.label)

    def publish() -> None:
        save_model(folder / "model", state.ema["backbone"], details=origin | {"step": state.step})

    batches = make_batches(data, recipe, stage, device, paired=True)
    run_training(state, stage, batches, compute, folder, origin=origin, publish=publish)
    return folder / "model"


def freeze_guide(recipe: Recipe, head: DegradationClassifier | None, device: torch.device) -> DegradationClassifier:
    """Return the head that guides a transfer, frozen.

    Raises:
        CheckpointMismatch: If there is none, or it knows other classes than the recipe.
    """
    if head is None:
        raise CheckpointMismatch("expected a pre-trained pair to start a guided transfer from, got no head")
    if head.labels != recipe.labels:
        raise CheckpointMismatch(f"expected a head for {list(recipe.labels)}, got one for {list(head.labels)}")
    return head.to(device).requires_grad_(False).eval()
