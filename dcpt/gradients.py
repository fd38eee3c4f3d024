"""From a batch to the gradients in the parameters: what a step gives, and how it is made to fit and to run fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dcpt.data.batches import Batch
from dcpt.errors import InvalidSetting
from dcpt.recipe import Stage


@dataclass(frozen=True)
class StepOutput:
    """The losses of one batch; scalars.

    Attributes:
        loss: What to call `backward` on.
        pixel_loss: L1 of the pictures, with a graph; None where only the head learns.
        class_loss: Classification loss, with a graph; None in plain fine-tuning.
        accuracy: Share of degradations recognised, in [0, 1], detached; None likewise.
    """

    loss: Tensor
    pixel_loss: Tensor | None = None
    class_loss: Tensor | None = None
    accuracy: Tensor | None = None

    def metrics(self) -> dict[str, Tensor]:
        """Return the numbers to log, detached."""
        named = {"loss": self.loss, "pixel_loss": self.pixel_loss}
        named |= {"class_loss": self.class_loss, "accuracy": self.accuracy}
        return {name: value.detach() for name, value in named.items() if value is not None}


def make_backward(
    model: nn.Module, stage: Stage, compute_step: Callable[[Batch], StepOutput]
) -> Callable[[Batch], dict[str, Tensor]]:
    """Return the function that leaves the gradients of a batch in the parameters and gives its metrics."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device

    def compute(batch: Batch) -> StepOutput:
        with torch.autocast(device.type, torch.bfloat16, enabled=stage.precision == "bf16"):
            return compute_step(batch)

    def backward(batch: Batch) -> dict[str, Tensor]:
        rows = []
        for part in batch.split(stage.gradient_accumulation_steps):
            output, share = compute(part), len(part) / len(batch)
            (output.loss * share).backward()
            rows.append({name: value * share for name, value in output.metrics().items()})
        return {name: sum(row[name] for row in rows) for name in rows[0]}

    if stage.gradients == "normalized":
        return lambda batch: backward_normalized(batch, compute, parameters)
    return backward


def backward_normalized(
    batch: Batch, compute_step: Callable[[Batch], StepOutput], parameters: list[nn.Parameter]
) -> dict[str, Tensor]:
    """Leave the mean of the pictures' gradients, each scaled to length 1, in the parameters.

    The gradient of a dark picture is some ten times that of a noisy one. In their plain mean
    noise is hardly heard, and the optimizer's steps shake what was learnt about it.

    Returns:
        The metrics, averaged over the pictures.
    """
    total = [torch.zeros_like(parameter) for parameter in parameters]
    rows = []
    for picture in batch.split(len(batch)):
        output = compute_step(picture)
        gradients = torch.autograd.grad(output.loss, parameters, allow_unused=True, materialize_grads=True)
        length = nn.utils.get_total_norm(gradients).clamp_min(1e-12)
        for mean, gradient in zip(total, gradients, strict=True):
            mean += gradient / (length * len(batch))
        rows.append(output.metrics())
    for parameter, mean in zip(parameters, total, strict=True):
        parameter.grad = mean
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}


@contextmanager
def faster_backbone(model: nn.ModuleDict, stage: Stage) -> Iterator[None]:
    """Compile the backbone or recompute its blocks in the backward pass, as the stage says, for a while.

    Raises:
        InvalidSetting: If its blocks are unknown.
    """
    backbone = model["backbone"] if "backbone" in model else nn.Identity()
    blocks = outermost_blocks(backbone) if stage.gradient_checkpointing else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if stage.torch_compile:
        backbone.compile()
    try:
        yield
    finally:
        backbone._compiled_call_impl = None
        for block in blocks:
            del block.forward  # the class has one


def outermost_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Return the blocks of a backbone that are in no other block.

    Raises:
        InvalidSetting: If it says of no class that it is one.
    """
    kinds = getattr(backbone, "block_types", ())
    blocks = {name: module for name, module in backbone.named_modules() if isinstance(module, kinds)}
    if not blocks:
        raise InvalidSetting("expected a backbone with block_types for gradient_checkpointing, got none")
    parents = [f"{name}." for name in blocks]
    return [block for name, block in blocks.items() if not name.startswith(tuple(parents))]
