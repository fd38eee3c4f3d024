"""Restoration fine-tuning: the second half of the method."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dcpt.backbones import Backbone
from dcpt.checkpoint import save_model
from dcpt.data.crops import PackedCrops
from dcpt.data.synthetic import Batch, SyntheticBatches
from dcpt.losses import l1_loss
from dcpt.recipe import Recipe
from dcpt.training import StepOutput, TrainingState, describe_run, run_training, start_backbone


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


def finetune(
    recipe: Recipe,
    crops: PackedCrops,
    folder: str | Path,
    *,
    start: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Fine-tune a backbone for restoration on clean photographs degraded on the fly.

    Interrupt it at will: calling it again with the same folder resumes exactly.

    Args:
        recipe: Backbone, labels and the settings in `recipe.finetune`.
        crops: Clean photographs.
        folder: Run folder; `recipe.json`, `metrics.jsonl`, `checkpoint.pt` and `model/` appear there.
        start: Model folder to start from, usually that of pre-training; None starts from
            random weights.
        device: Where to train; data is prepared there too.

    Returns:
        The folder of the fine-tuned backbone, `folder / "model"`, with averaged weights.

    Raises:
        CheckpointMismatch: If `start` is damaged or of another backbone.
    """
    folder, stage, device = Path(folder), recipe.finetune, torch.device(device)
    backbone = start_backbone(recipe, start)
    origin = describe_run("finetune", recipe, crops)
    state = TrainingState(nn.ModuleDict({"backbone": backbone}).to(device), stage, origin)

    def compute(batch: Batch) -> StepOutput:
        return finetune_step(backbone, batch.lq, batch.gt)

    def publish() -> None:
        save_model(folder / "model", state.ema["backbone"], details=origin | {"step": state.step})

    batches = SyntheticBatches(crops.to(device), recipe, stage)
    run_training(state, stage, batches, compute, folder, origin=origin, publish=publish)
    return folder / "model"
