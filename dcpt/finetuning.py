"""Restoration fine-tuning: the second half of the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcpt.backbones import Backbone
from dcpt.checkpoint import hash_weights, save_model
from dcpt.data.batches import Batch
from dcpt.data.mixture import Data
from dcpt.errors import CheckpointMismatch
from dcpt.gradients import StepOutput
from dcpt.heads import DegradationClassifier
from dcpt.losses import cross_entropy_loss, l1_loss
from dcpt.metrics import accuracy, psnr
from dcpt.preparation import prepare, start_model
from dcpt.recipe import Recipe
from dcpt.training import Task, TrainingState, run_training
from dcpt.validation import Findings


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
    """Fine-tune a backbone for restoration.

    Interrupt it at will: calling it again with the same folder resumes exactly.

    Args:
        backbone: As for `pretrain`.
        data: As for `pretrain`; degraded pictures without a clean one are left out.
        folder: Run folder, as for `pretrain`.
        recipe: As for `pretrain`.
        weights: As for `pretrain`.
        validation: As for `pretrain`.
        start: Name or folder of weights to start from, usually those of pre-training; None starts
            from random ones. DC-guided transfer needs the pair of backbone and head.
        device: Where to train; None picks the fastest.
        **settings: Settings of `recipe.finetune` to change, by the fields of `Stage`.

    Returns:
        The folder of the fine-tuned backbone, `folder / "model"`, with averaged weights.

    Raises:
        UnknownName: If there is no such recipe, backbone or setting.
        InvalidSetting: If a setting is out of range.
        InvalidData: If the data cannot serve.
        CheckpointMismatch: If `start` is damaged, of another backbone, or without the head that
            DC-guided transfer needs.
    """
    setup = prepare(
        "finetune", backbone, data, recipe=recipe, weights=weights, validation=validation, device=device,
        settings=settings,
    )  # fmt: skip
    stage, device = setup.stage, setup.processes.device
    network, head = start_model(setup.recipe, backbone, start)
    guide = None
    if stage.mode == "guided":
        setup = replace(setup, recipe=replace(setup.recipe, labels=common_labels(setup.recipe, head)))
        guide = head.to(device).requires_grad_(False).eval()
    idle = hash_weights(guide) if guide else ""
    state = TrainingState(nn.ModuleDict({"backbone": network.train()}).to(device), stage, setup, frozen=idle)
    trained = state.ema["backbone"]

    def compute(batch: Batch) -> StepOutput:
        if guide is None:
            return finetune_step(network, batch.lq, batch.gt)
        return guided_step(network, guide, batch.lq, batch.gt, batch.label)

    def examine(batch: Batch) -> Findings:
        restored = trained(batch.lq)
        degraded = (batch.lq != batch.gt).flatten(1).any(1)  # the PSNR of clean pictures is infinite
        after, before = (psnr(x.clamp(0, 1), batch.gt) for x in (restored, batch.lq))
        captions = [f"{a:.2f} -> {b:.2f} dB" for a, b in zip(before.tolist(), after.tolist(), strict=True)]
        metrics = {"psnr": after[degraded], "input_psnr": before[degraded]}
        return Findings(metrics, (batch.lq, restored, batch.gt), captions)

    def write(target: Path) -> None:
        save_model(target, trained, details=setup.origin | {"step": state.step})

    model = run_training(state, setup, Task(compute, examine, write), Path(folder), paired=True)
    network.load_state_dict(trained.state_dict())
    network.eval()
    return model


def common_labels(recipe: Recipe, head: DegradationClassifier | None) -> tuple[str, ...]:
    """Return the labels of the head that is to guide a transfer, in its order.

    Raises:
        CheckpointMismatch: If there is none, or it does not know all classes of the recipe.
    """
    if head is None:
        raise CheckpointMismatch("expected a pre-trained pair to start a guided transfer from, got no head")
    if not set(recipe.labels) <= set(head.labels):
        raise CheckpointMismatch(f"expected a head for {list(recipe.labels)}, got one for {list(head.labels)}")
    return head.labels
