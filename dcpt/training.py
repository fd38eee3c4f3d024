"""What all training loops share: the loop itself, averaged weights and checkpoints."""

from __future__ import annotations

import copy
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dcpt.data.batches import Batch, picture_seed
from dcpt.errors import CheckpointMismatch, DcptError, InvalidData, MissingExtra, OutputError, RunStopped
from dcpt.files import write_json
from dcpt.gradients import StepOutput, faster_backbone, make_backward
from dcpt.preparation import Setup
from dcpt.processes import Processes
from dcpt.recipe import RECIPE_FILE, Stage
from dcpt.run_folder import LOG_FILE, RunFolder
from dcpt.runs import plot_curves, read_log
from dcpt.step_log import StepLog, diverged
from dcpt.validation import Findings, validate

MODEL_FOLDER = "model"  # in the run folder
GRACE = 60  # seconds that a data worker outlives SIGTERM


class TrainingState:
    """Everything that changes while training; saving and loading it resumes exactly.

    Args:
        model: The trained modules by name, "backbone" and possibly "head".
        stage: Rates and decays.
        setup: What the run is. The settings of the stage may change when it is resumed; its kind and
            mode, seed, labels, data and what of them is held out may not.
        frozen: Hash of the weights that the run uses and leaves as they are.
    """

    def __init__(self, model: nn.ModuleDict, stage: Stage, setup: Setup, *, frozen: str = "") -> None:
        self.step = 0
        self.identity = {"stage": setup.kind, "mode": stage.mode, "frozen weights": frozen}
        self.identity |= {"seed": setup.recipe.seed, "labels": list(setup.recipe.labels)}
        self.identity |= {"data": setup.manifest_hash, "pictures held out": setup.held_out}
        self.model = model
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW([{"params": list(module.parameters())} for module in model.values()])
        self.stage = stage

    def update(self, processes: Processes) -> bool:
        """Do one optimizer step on the gradients of all processes, and move the averaged weights after it.

        Returns:
            Whether the gradients were finite; else nothing but the step count changes.
        """
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        processes.average(gradients)
        length = nn.utils.get_total_norm(gradients)
        finite = bool(torch.isfinite(length))
        if finite:
            processes.average(float_buffers(self.model))  # of a batch norm, whose batch is each process's own
            self._move(length)
        else:
            copy_buffers(self.ema, self.model)  # the pass has spoilt them, too
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
        copy_buffers(self.model, self.ema)

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
        if not all(torch.isfinite(value).all() for value in self.model.state_dict().values()):
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


def float_buffers(model: nn.Module) -> list[Tensor]:
    """Return the statistics that a network keeps beside its weights."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Give a network the statistics of another of its kind."""
    for theirs, ours in zip(source.buffers(), target.buffers(), strict=True):
        ours.copy_(theirs)


def learning_rate(step: int, peak: float, stage: Stage) -> float:
    """Return the rate of a step: linear warm-up, then constant or a cosine down to `min_lr`."""
    if step < stage.warmup_steps:
        return peak * (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return peak
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    low = min(stage.min_lr, peak)
    return low + (peak - low) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


@dataclass(frozen=True)
class Task:
    """What a stage does with its network.

    Attributes:
        compute: Gives the losses of a batch; what it trains is in the state's model.
        examine: Judges the averaged weights on a batch that nothing is trained on.
        write: Writes the averaged weights to a folder, as users load them.
    """

    compute: Callable[[Batch], StepOutput]
    examine: Callable[[Batch], Findings]
    write: Callable[[Path], None]


def run_training(state: TrainingState, setup: Setup, task: Task, path: Path, *, paired: bool) -> Path:
    """Train to the end of the stage, resuming from the folder's newest whole checkpoint if there is one.

    Args:
        state: The modules and optimizer, freshly made.
        setup: Stage, data and processes.
        task: What the stage does.
        path: Run folder; all processes must see it, one writes.
        paired: Whether every degraded picture needs its clean counterpart.

    Returns:
        The folder of the trained model, `path / "model"`.

    Raises:
        DcptError: If the loss is no longer finite, or another run is going on in the folder.
        RunStopped: If the process was asked to stop, with Ctrl-C or SIGTERM, after a last checkpoint.
        CheckpointMismatch: If the folder holds damaged checkpoints only, or another run.
    """
    # Young gains and small rates breed denormal numbers, which slow a CPU step by a fifth.
    torch.set_flush_denormal(True)
    folder, device = RunFolder(path), setup.processes.device
    with ExitStack() as stack:
        with setup.processes.together():
            if setup.processes.is_main:
                stack.enter_context(folder.locked())
        stack.enter_context(explained_workers())
        stack.enter_context(faster_backbone(state.model, setup.stage))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        requests = stack.enter_context(stop_requests())
        run = Run(state, setup, task, folder, paired=paired)
        run.resume()
        run.train(requests)
    setup.processes.wait()
    return path / MODEL_FOLDER


class Run:
    """One run of a stage in a locked folder: what `run_training` does, step by step."""

    def __init__(self, state: TrainingState, setup: Setup, task: Task, folder: RunFolder, *, paired: bool) -> None:
        self.state, self.setup, self.task, self.folder = state, setup, task, folder
        self.stage, self.processes = setup.stage, setup.processes
        self.batches = setup.make_batches(paired=paired)
        self.validation_batches = setup.make_validation_batches(paired=paired)
        self.backward = make_backward(state.model, setup.stage, task.compute)

    def resume(self) -> None:
        """Take up the folder's run, if there is one, and write down what this one is.

        Raises:
            DcptError: If the processes do not find the same in the folder.
        """
        with self.processes.together():
            found = self.state.load(self.folder)
        if len(set(self.processes.gather([self.state.step]))) > 1:
            raise DcptError(f"expected all processes to see {self.folder.path}, some do not; put it on a shared disk")
        if self.processes.is_main:
            if found:
                tqdm.write(f"resuming {self.folder.path} at step {self.state.step}")
            write_json(self.folder.path / RECIPE_FILE, self.setup.origin)
            self.folder.keep_log_until(self.state.step)
        if not found:  # a network of the user's own may have begun with other weights in each process
            self.processes.spread([*self.state.model.parameters(), *float_buffers(self.state.model)])
            self.state.ema.load_state_dict(self.state.model.state_dict())
        self.processes.wait()

    def train(self, requests: list[str]) -> None:
        """Do the steps that are left; stop after one in which some process was asked to."""
        state, stage = self.state, self.stage
        log = StepLog(self.folder, self.processes, events=stage.tensorboard and state.step + 1)
        silent = not self.processes.is_main
        if self.misses_validation():
            self.validate(log)
        # Closed here whatever happens, so that the data workers end before this process does.
        with (
            closing(feed(self.batches, state, stage)) as stream,
            tqdm(total=stage.steps, initial=state.step, unit="step", dynamic_ncols=True, disable=silent) as bar,
        ):
            for batch in stream:
                with self.processes.together():
                    if isinstance(batch, DcptError):
                        raise batch
                batch = batch.to(self.processes.device)
                # Where a network draws at random, as dropout does, a resumed run draws the same.
                torch.manual_seed(picture_seed(self.setup.recipe.seed, int(batch.seed[0])))
                metrics = self.backward(batch)
                finite = state.update(self.processes)
                log.add(state.step, metrics, batch.skipped, finite=finite)
                bar.update()
                stopped = self.processes.any(bool(requests)) and state.step < stage.steps
                last = stopped or state.step == stage.steps
                if state.step % stage.log_every == 0 or last:
                    bar.set_postfix(log.write_average(state.step))
                if state.step % stage.checkpoint_every == 0 or last:
                    self.save(log, validated=not stopped)
                if stopped:
                    self.processes.wait()  # for the main one, which writes: its end would end them all
                    name = requests[0] if requests else "another process"
                    raise RunStopped(f"stopped by {name} at step {state.step}; repeat the command to go on")
        # Once more, so that a run cut off between its last checkpoint and its model gets it, too.
        if self.processes.is_main:
            self.task.write(self.folder.path / MODEL_FOLDER)

    def save(self, log: StepLog, *, validated: bool) -> None:
        """Write checkpoint and model; then validate, keep what is best, and draw the curves."""
        with self.processes.together():
            if self.processes.is_main:
                self.state.save(self.folder)
                self.task.write(self.folder.path / MODEL_FOLDER)
        if validated and self.validation_batches:
            self.validate(log)
        if self.processes.is_main:
            with suppress(MissingExtra, InvalidData, OutputError):  # no reason to stop a run
                plot_curves(self.folder.path, self.folder.path / "curves.png")

    def misses_validation(self) -> bool:
        """Say whether the run was cut off between a checkpoint and its validation."""
        step = self.state.step
        if not self.validation_batches or not step or step % self.stage.checkpoint_every:
            return False
        rows = read_log(self.folder.path) if (self.folder.path / LOG_FILE).exists() else []
        done = any(row["step"] == step and any(name.startswith("val_") for name in row) for row in rows)
        return self.processes.any(self.processes.is_main and not done)

    def validate(self, log: StepLog) -> None:
        """Examine the averaged weights on pictures held out; keep them if they are the best so far."""
        step, path = self.state.step, self.folder.path
        sheet = path / "samples" / f"{step:08d}.png"
        row, unusable = validate(
            self.task.examine, self.validation_batches, self.stage.validation_size, self.processes, sheet
        )
        log.warn(unusable)
        if not row or not self.processes.is_main:
            return
        metric, value = next(iter(row.items()))
        log.write({"step": step, **row})
        if value > self.folder.best.get("value", -math.inf):
            self.task.write(path / "best")
            self.folder.note_best(step, metric, value)


class StepBatches(Dataset[Batch | DcptError]):
    """The batches of a run by their step, for worker processes; what is wrong with the data is handed over whole."""

    def __init__(self, batches: Callable[[int], Batch]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | DcptError:
        try:
            return self.batches(step)
        except DcptError as error:  # raised in a worker, it would come out wrapped in a traceback
            return error


def feed(batches: Callable[[int], Batch], state: TrainingState, stage: Stage) -> Iterator[Batch | DcptError]:
    """Give the batches from the state's step to the end of the stage, or what is wrong with their data."""
    steps = range(state.step, stage.steps)
    unused = torch.Generator()  # else the loader takes a number from the global one
    yield from DataLoader(
        StepBatches(batches),
        batch_size=None,
        sampler=steps,
        num_workers=stage.workers,
        generator=unused,
        worker_init_fn=delay_signals,
    )


def delay_signals(_: int) -> None:
    """Leave it to the training process what is to be done about a signal; it may need this worker for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


@contextmanager
def explained_workers() -> Iterator[None]:
    """Turn the death of a data worker, which a signal handler may raise anywhere, into one line.

    Raises:
        DcptError: In its place.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DcptError(
            f"a data worker died ({str(error).partition(chr(10))[0]}); repeat the command to go on from the last "
            "checkpoint, with fewer workers if memory is short"
        ) from None


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
        if number == signal.SIGINT:
            signal.signal(number, usual[signal.SIGINT])

    for kind in usual:
        signal.signal(kind, note)
    try:
        yield requests
    finally:
        for kind, handler in usual.items():
            signal.signal(kind, handler)
