"""Time the DCPT pre-training step beside a plain statement of the same step.

    python benchmarks/training.py [NAME ...] [--rounds 7] [--batch-size N] [--patch-size N] [--precision fp32]
                                  [--data PATH] [--device cpu]

A step is both passes, one backward and AdamW, which is the same on both sides. The plain statement
(plain.py) runs the whole network twice, channels first, and collects the features on the way. Both
sides have the same weights and see the same batch, one after the other, round by round; the ratio
is the median over the rounds. Clocks, threads and malloc thresholds are as in backbones.py.

Memory is what one step needs on top of weights and AdamW's moments, at its peak, each side in a
process of its own. The last two columns are the time to make a batch of the recipe small-10d,
without workers, from clean crops (noise, unless photographs are given), alone and as a share of
our step.
"""

import argparse
import copy
import ctypes
import multiprocessing
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import plain
import torch
import torch.nn.functional as F
from backbones import build, measure, resident_memory

from dcpt.data.crops import PackedCrops
from dcpt.data.mixture import load_data, make_batches
from dcpt.heads import DegradationClassifier
from dcpt.pretraining import dcpt_pretrain_step
from dcpt.recipe import load_recipe

NAMES = ("nafnet_small", "nafnet")
RECIPE = load_recipe("small-10d")
BATCHES = {"nafnet_small": (8, 128), "nafnet": (2, 128)}  # pictures and their side; the first is the recipe's
HEADS = {"nafnet_small": {"expansion": 1.0, "norm": "batch"}}  # likewise; the others have the paper's


@dataclass(frozen=True)
class Case:
    """What is measured: which network, on how many pictures of which side."""

    name: str
    count: int
    size: int
    device: str
    precision: str

    def random_batch(self):
        generator = torch.Generator().manual_seed(0)
        lq, gt = torch.rand(2, self.count, 3, self.size, self.size, generator=generator).to(self.device)
        return lq, gt, torch.arange(self.count, device=self.device) % len(RECIPE.labels)

    def build_sides(self):
        """Return both sides with the same weights, plain first."""
        backbone = build(self.name, self.device)
        head = DegradationClassifier(backbone.feature_channels, len(RECIPE.labels), **HEADS.get(self.name, {}))
        ours = [backbone.train().requires_grad_(), head.train().to(self.device)]
        usual = copy.deepcopy(ours)
        for module in usual:
            for parameter in module.parameters():
                parameter.data = parameter.data.contiguous()
        return Side(plain_loss, *usual, self.precision), Side(our_loss, *ours, self.precision)


class Side:
    """A backbone and its head in training, ours or stated plainly."""

    def __init__(self, compute_loss, backbone, head, precision):
        self.compute_loss, self.precision = compute_loss, precision
        self.model = torch.nn.ModuleList([backbone, head])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def backward(self, lq, gt, label):
        self.optimizer.zero_grad()
        with torch.autocast(lq.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.compute_loss(*self.model, lq, gt, label)
        loss.backward()
        return loss.detach()

    def step(self, lq, gt, label):
        loss = self.backward(lq, gt, label)
        self.optimizer.step()
        return loss


def our_loss(backbone, head, lq, gt, label):
    return dcpt_pretrain_step(backbone, head, lq, gt, label).loss


def plain_loss(backbone, head, lq, gt, label):
    network, seen = getattr(plain, type(backbone).__name__.lower()), []
    pixel_loss = F.l1_loss(network(backbone, gt), gt)
    network(backbone, lq, seen)
    logits = plain.degradationclassifier(head, seen[::-1][: len(head.feature_channels)])
    cross_entropy = F.cross_entropy(logits, label, reduction="none")
    return pixel_loss + ((1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy).mean()


def gradient_difference(case):
    """Return the largest relative difference of a parameter's gradient between the two sides.

    In double precision: in single, rounding turns rectifiers on or off, and gradients with them.
    """
    case = replace(case, count=2, size=32, precision="fp64")
    usual, ours = case.build_sides()
    batch = [x.double() if x.is_floating_point() else x for x in case.random_batch()]
    for side in (usual, ours):
        side.model.double()
    losses = [side.backward(*batch) for side in (usual, ours)]
    assert torch.isclose(*losses, rtol=1e-5), f"losses differ: {losses}"
    differences = []
    for (key, parameter), expected in zip(ours.model.named_parameters(), usual.model.parameters(), strict=True):
        assert (parameter.grad is None) == (expected.grad is None), f"one side has no gradient: {key}"
        if parameter.grad is not None:
            distance = (parameter.grad - expected.grad).norm() / expected.grad.norm().clamp_min(1e-12)
            assert distance < 1e-3, f"gradients differ by {distance:.1e}: {key}"
            differences.append(distance.item())
    return max(differences)


def grown_memory(case, index):
    """Return by how many MiB this process grows in one step; for a process of its own."""
    torch.set_num_threads(1)
    side, batch = case.build_sides()[index], case.random_batch()
    side.step(*replace(case, count=2, size=32).random_batch())
    side.optimizer.zero_grad()
    ctypes.CDLL(None).malloc_trim(0)  # give back what that small step needed
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident_memory("VmRSS")
    side.step(*batch)
    return resident_memory("VmHWM") - before


def peak_memory(case):
    """Return what a step of each side needs, in MiB, plain first."""
    if case.device == "cpu":
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            return [pool.apply(grown_memory, (case, index)) for index in (0, 1)]
    peaks, batch = [], case.random_batch()
    for side in case.build_sides():
        side.step(*batch)
        side.optimizer.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side.step(*batch)
        peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        side.optimizer.zero_grad()
    return peaks


def time_batches(case, path):
    """Return a batch of the recipe's stream, and the mean time to make one: degradations differ in cost."""
    noise = torch.randint(256, (64, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = load_data(path or PackedCrops(noise, {}))
    stage = replace(RECIPE.pretrain, batch_size=case.count, patch_size=case.size)
    batches = make_batches(data, RECIPE, stage, case.device, paired=False)
    clocks = [measure(batches, step)[0] for step in range(20)]
    batch = batches(0)
    return [x.contiguous() for x in (batch.lq, batch.gt, batch.label)], statistics.mean(clocks)


def compare(case, rounds, path):
    difference, memory = gradient_difference(case), peak_memory(case)
    batch, making = time_batches(case, path)
    sides = case.build_sides()
    losses = [side.step(*batch) for side in sides]  # the round to warm up
    tolerance = 1e-5 if case.precision == "fp32" else 1e-2
    assert torch.isclose(*losses, rtol=tolerance), f"losses differ: {losses}"
    clocks = [[measure(side.step, *batch)[0] for side in sides] for _ in range(rounds)]
    slow, fast = (statistics.median(column) for column in zip(*clocks))
    ratio = statistics.median(row[0] / row[1] for row in clocks)
    print(
        f"| {case.name}, {case.count}x{case.size}x{case.size}, {case.precision} | {1 / slow:.3f} | {1 / fast:.3f} "
        f"| {ratio:.2f} | {memory[0]:.0f} | {memory[1]:.0f} | {difference:.1e} "
        f"| {1e3 * making:.0f} | {making / fast:.1%} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, help="else 8 for nafnet_small, 2 for nafnet, 1 for others")
    parser.add_argument("--patch-size", type=int, help="else 128 for the two, 64 for others")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--data", type=Path, help="clean photographs: a folder, or a file of `dcpt pack`")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the training loop does
    print(
        "| batch | plain, steps/s | this package, steps/s | ratio | plain, MiB | this package, MiB "
        "| gradients differ by | making a batch, ms | of the step |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in arguments.names:
        count, size = BATCHES.get(name, (1, 64))
        count, size = arguments.batch_size or count, arguments.patch_size or size
        case = Case(name, count, size, arguments.device, arguments.precision)
        compare(case, arguments.rounds, arguments.data)


if __name__ == "__main__":
    main()
