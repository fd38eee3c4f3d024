"""What all training loops share: the loop itself, averaged weights, checkpoints and the log."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dcpt.backbones import Backbone, create_backbone
from dcpt.checkpoint import load_model
from dcpt.data.crops import PackedCrops
from dcpt.data.folders import FolderBatches, LabelledFolders
from dcpt.data.synthetic import Batch, SyntheticBatches
from dcpt.errors import CheckpointMismatch, DcptError, RunStopped
from dcpt.files import write_json
from dcpt.heads import DegradationClassifier
from dcpt.hub import locate
from dcpt.recipe import RECIPE_FILE, Recipe, Stage
from dcpt.run_folder import RunFolder


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


class TrainingState:
    """Everything that changes while training; saving and loading it resumes exactly.

    Args:
        model: The trained modules by name, "backbone" and possibly "head".
        stage: Rates and decays.
        origin: What the run is, from `describe_run`. The settings of the stage may change when it
            is resumed; the kind of stage, seed, labels and data may not.
    """

    def __init__(self, model: nn.ModuleDict, stage: Stage, origin: Mapping[str, Any]) -> None:
        self.step = 0
        recipe = origin["recipe"]
        self.identity = {"stage": origin["stage"], "seed": recipe["seed"], "labels": recipe["labels"]}
        self.identity["data"] = origin["data_manifest"]
        self.model = model
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW([{"params": list(module.parameters())} for module in model.values()])
        self.stage = stage

    def update(self) -> bool:
        """Do one optimizer step on the gradients, and move the averaged weights after it.

        Returns:
            Whether the gradients were finite; else nothing but the step count changes.
        """
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        length = nn.utils.get_total_norm(gradients)
        finite = bool(torch.isfinite(length))
        if finite:
            self._move(length)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return finite

    def _move(self, length: Tensor) -> None:
        if self.stage.clip_norm:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.stage.clip_norm, length)
        self._set_rates()
        self.optimizer.step()
        # Young averages forget their random beginning faster than the final decay would.
        decay = min(self.stage.ema_decay, (self.step + 1) / (self.step + 11))
        for average, weight in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            average.lerp_(weight.detach(), 1 - decay)
        for average, statistic in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(statistic)

    def _set_rates(self) -> None:
        # At every step and from the stage, so that a resumed run obeys the settings it was given.
        stage = self.stage
        peaks = {"backbone": (stage.lr, stage.weight_decay), "head": (stage.head_lr, stage.head_weight_decay)}
        for group, name in zip(self.optimizer.param_groups, self.model, strict=True):
            peak, group["weight_decay"] = peaks[name]
            group["lr"] = learning_rate(self.step, peak, stage)

    def save(self, folder: RunFolder) -> None:
        """Write a checkpoint.

        Raises:
            DcptError: If a weight is no longer finite; the checkpoints before stay as they are.
        """
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise diverged(self.step)
        state = {"step": self.step, "identity": self.identity, "model": self.model.state_dict()}
        state |= {"ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict()}
        folder.save_checkpoint(self.step, state)

    def load(self, folder: RunFolder) -> bool:
        """Take the newest state of the run folder, if it has one; return whether it had.

        Raises:
            CheckpointMismatch: If its checkpoints are damaged or of a run with other settings.
        """
        saved = folder.load_checkpoint()
        if saved is None:
            return False
        try:
            changed = [key for key, value in self.identity.items() if saved["identity"].get(key) != value]
            if changed:
                raise ValueError(f"it was made with another {' and '.join(changed)}; choose a new folder")
            self.model.load_state_dict(saved["model"])
            self.ema.load_state_dict(saved["ema"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointMismatch(f"cannot resume from {folder.path}: {reason}") from None
        return True


def diverged(step: int) -> DcptError:
    """Return the error for a loss or weight that is not finite."""
    return DcptError(
        f"loss or weights are no longer finite at step {step}; repeat the command to go on from the "
        "last checkpoint, with a lower lr or with precision=fp32"
    )


def learning_rate(step: int, peak: float, stage: Stage) -> float:
    """Return the rate of a step: linear warm-up, then constant or a cosine down to `min_lr`."""
    if step < stage.warmup_steps:
        return peak * (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return peak
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    low = min(stage.min_lr, peak)
    return low + (peak - low) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


Data = PackedCrops | LabelledFolders


def describe_run(stage: str, recipe: Recipe, data: Data) -> dict[str, Any]:
    """Return what determines a run, as plain data: it is kept beside everything the run writes."""
    return {"stage": stage, "recipe": recipe.as_dict(), "data_manifest": data.manifest_hash}


def make_batches(
    data: Data, recipe: Recipe, stage: Stage, device: torch.device, *, paired: bool
) -> Callable[[int], Batch]:
    """Return the data stream of a stage.

    Args:
        data: Clean photographs, degraded on the fly on the device unless there are workers, or a
            folder per degradation.
        recipe: Gives labels and seed.
        stage: Gives sizes and shares.
        device: Where the network is.
        paired: Whether every degraded picture needs its clean counterpart.
    """
    if isinstance(data, LabelledFolders):
        return FolderBatches(data, recipe, stage, paired=paired)
    return SyntheticBatches(data if stage.workers else data.to(device), recipe, stage)


def start_model(recipe: Recipe, start: str | Path | None) -> tuple[Backbone, DegradationClassifier | None]:
    """Create the recipe's backbone, with trained weights if `start` names some, and their head.

    Args:
        recipe: Gives the backbone and the seed of its weights.
        start: As the name for `from_pretrained`, of weights with a config.

    Raises:
        CheckpointMismatch: If `start` is damaged or of another backbone.
        UnknownName, HubError: If there is no such thing, or it cannot be fetched.
    """
    backbone, head = seeded(recipe.seed, lambda: create_backbone(recipe.backbone)), None
    if start is not None:
        trained, head, _ = load_model(locate(start))
        if (trained.variant, trained.overrides) != (recipe.backbone, {}):
            raise CheckpointMismatch(
                f"expected a plain {recipe.backbone} to start from, got a {trained.variant} "
                f"with the options {trained.overrides} in {start}"
            )
        backbone.load_state_dict(trained.state_dict())
    return backbone, head


M = TypeVar("M", bound=nn.Module)


def seeded(seed: int, create: Callable[[], M]) -> M:
    """Create a module whose initial weights follow from the seed, leaving the global one alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create()


def run_training(
    state: TrainingState,
    stage: Stage,
    batches: Callable[[int], Batch],
    compute_step: Callable[[Batch], StepOutput],
    path: Path,
    *,
    origin: Mapping[str, Any],
    publish: Callable[[], None],
) -> None:
    """Train to the end of the stage, resuming from the folder's newest whole checkpoint if there is one.

    Args:
        state: The modules and optimizer, freshly made.
        stage: Length, rates, precision and how often to write.
        batches: Gives the batch of a step.
        compute_step: Gives the losses of a batch.
        path: Run folder: gets `recipe.json`, `checkpoints/` and `metrics.jsonl`.
        origin: What the run is, from `describe_run`, to be written there.
        publish: Called after each checkpoint and at the end, to write the model as users load it.

    Raises:
        DcptError: If the loss is no longer finite, or another process trains in the folder.
        RunStopped: If the process was asked to stop, with Ctrl-C or SIGTERM, after a last checkpoint.
        CheckpointMismatch: If the folder holds damaged checkpoints only, or another run.
    """
    # Young gains and small rates breed denormal numbers, which slow a CPU step by a fifth.
    torch.set_flush_denormal(True)
    folder = RunFolder(path)
    with folder.locked(), explained_workers(), stop_requests() as requests:
        if state.load(folder):
            tqdm.write(f"resuming {path} at step {state.step}")
        write_json(path / RECIPE_FILE, origin)
        folder.keep_log_until(state.step)
        log = StepLog(folder)
        backward = make_backward(state, stage, compute_step)
        with tqdm(total=stage.steps, initial=state.step, unit="step", dynamic_ncols=True) as bar:
            for batch in feed(batches, state, stage):
                log.add(backward(batch), finite=state.update())
                bar.update()
                last = state.step == stage.steps or bool(requests)
                if state.step % stage.log_every == 0 or last:
                    bar.set_postfix(log.write(state.step))
                if state.step % stage.checkpoint_every == 0 or last:
                    state.save(folder)
                    if state.step < stage.steps:
                        publish()
                if requests and state.step < stage.steps:
                    raise RunStopped(f"stopped by {requests[0]} at step {state.step}; repeat the command to go on")
        publish()  # here, so that a run cut off between its last checkpoint and this line gets it, too


class StepBatches(Dataset[Batch]):
    """The batches of a run by their step, for worker processes."""

    def __init__(self, batches: Callable[[int], Batch]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self.batches(step)


def feed(batches: Callable[[int], Batch], state: TrainingState, stage: Stage) -> Iterator[Batch]:
    """Give the batches from the state's step to the end of the stage, on the model's device."""
    device = next(state.model.parameters()).device
    steps = range(state.step, stage.steps)
    unused = torch.Generator()  # else the loader takes a number from the global one
    loader = DataLoader(
        StepBatches(batches), batch_size=None, sampler=steps, num_workers=stage.workers, generator=unused
    )
    for batch in loader:
        yield batch.to(device)


@contextmanager
def explained_workers() -> Iterator[None]:
    """Turn the death of a data worker, which a signal handler may raise anywhere, into one line.

    Raises:
        DcptError: In its place.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DcptError(
            f"a data worker died ({str(error).partition(chr(10))[0]}); repeat the command to go on from the last "
            "checkpoint, with fewer workers if memory is short"
        ) from None


def make_backward(
    state: TrainingState, stage: Stage, compute_step: Callable[[Batch], StepOutput]
) -> Callable[[Batch], dict[str, Tensor]]:
    """Return the function that leaves the gradients of a batch in the parameters and gives its metrics."""
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    device = parameters[0].device

    def compute(batch: Batch) -> StepOutput:
        with torch.autocast(device.type, torch.bfloat16, enabled=stage.precision == "bf16"):
            return compute_step(batch)

    def backward(batch: Batch) -> dict[str, Tensor]:
        output = compute(batch)
        output.loss.backward()
        return output.metrics()

    if stage.gradients == "normalized":
        return lambda batch: backward_normalized(batch, compute, parameters)
    return backward


class StepLog:
    """Averages the metrics of some steps and writes them down."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        self.window: list[dict[str, Tensor]] = []
        self.skipped = 0
        self.started = time.perf_counter()

    def add(self, metrics: dict[str, Tensor], *, finite: bool) -> None:
        """Take note of a step; one without a finite gradient, which moved nothing, is only counted."""
        if finite:
            self.window.append(metrics)
        else:
            self.skipped += 1

    def write(self, step: int) -> dict[str, str]:
        """Write the averages of the steps since the last time; return them as text.

        Raises:
            DcptError: If most of them had no finite gradient.
        """
        if self.skipped > len(self.window):
            raise diverged(step)
        row = average(self.window)
        row["seconds_per_step"] = (time.perf_counter() - self.started) / (len(self.window) + self.skipped)
        self.folder.append_log({"step": step, **row} | ({"skipped": self.skipped} if self.skipped else {}))
        self._begin()
        return {name: f"{value:.4f}" for name, value in row.items()}


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """Yield a list that gets the name of a signal asking the process to stop; a second Ctrl-C stops at once."""
    requests: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    usual = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: Any) -> None:
        requests.append(signal.Signals(number).name)
        signal.signal(number, usual[signal.Signals(number)])

    for kind in usual:
        signal.signal(kind, note)
    try:
        yield requests
    finally:
        for kind, handler in usual.items():
            signal.signal(kind, handler)


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
    for picture in batch.pictures():
        output = compute_step(picture)
        gradients = torch.autograd.grad(output.loss, parameters, allow_unused=True, materialize_grads=True)
        length = nn.utils.get_total_norm(gradients).clamp_min(1e-12)
        for mean, gradient in zip(total, gradients, strict=True):
            mean += gradient / (length * len(batch.lq))
        rows.append(output.metrics())
    for parameter, mean in zip(parameters, total, strict=True):
        parameter.grad = mean
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}


def average(window: list[dict[str, Tensor]]) -> dict[str, float]:
    """Return the mean of each number over a window of steps."""
    return {name: torch.stack([row[name] for row in window]).float().mean().item() for name in window[0]}
