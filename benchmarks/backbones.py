"""Time the forward pass of every backbone beside a plain statement of the same network.

    python benchmarks/backbones.py [NAME ...] [--size 256] [--rounds 3] [--device cpu] [--profile]

The plain statements are in plain.py. Both sides have the same weights and see the same picture,
one after the other, round by round; the ratio is the median over the rounds. On the CPU it is one
thread and CPU time, so that other work on the machine counts less; the rate of a large matrix
product, taken in the same rounds, is what the machine could do. Memory is what the process of one
pass grows by at its peak, each side in a process of its own.

Without a larger malloc threshold glibc returns the memory of every activation to the system and
gets it back page by page; both sides gain from MALLOC_MMAP_THRESHOLD_=4000000000 and
MALLOC_TRIM_THRESHOLD_=8000000000 in the environment.
"""

import argparse
import copy
import multiprocessing
import re
import statistics
import time
from pathlib import Path

import plain
import torch
from torch.utils.flop_counter import FlopCounterMode

from dcpt import create_backbone

NAMES = ("nafnet", "nafnet_small", "restormer", "promptir", "swinir")


def build(name, device):
    """Our network, as an idle one would not do: residual gains of NAFNet start at zero."""
    torch.manual_seed(0)
    ours = create_backbone(name).to(device).eval().requires_grad_(False)
    for key, parameter in ours.named_parameters():
        if key.endswith(("beta", "gamma")):
            torch.nn.init.normal_(parameter, std=0.2)
    return ours


def plain_statement(ours):
    usual = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    function = getattr(plain, type(ours).__name__.lower())
    return lambda x: function(usual, x)


def measure(function, *arguments):
    on_gpu = torch.cuda.is_initialized()
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    result = function(*arguments)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start, result


def resident_memory(field):
    """Return a memory figure of this process in MiB, "VmRSS" now or "VmHWM" at its peak; Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def grown_memory(name, size, side):
    """Return by how many MiB this process grows in one pass; for a process of its own."""
    torch.set_num_threads(1)
    ours = build(name, "cpu")
    network = ours if side == "ours" else plain_statement(ours)
    x = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        network(x[..., :64, :64])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident_memory("VmRSS")
        network(x)
    return resident_memory("VmHWM") - before


def peak_memory(name, size, device):
    if device == "cpu":
        context = multiprocessing.get_context("spawn")
        with context.Pool(1, maxtasksperchild=1) as pool:
            return [pool.apply(grown_memory, (name, size, side)) for side in ("plain", "ours")]
    ours, x, peaks = build(name, device), torch.rand(1, 3, size, size, device=device), []
    for network in (plain_statement(ours), ours):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network(x)
        peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
    return peaks


@torch.inference_mode()
def compare(name, size, rounds, device):
    ours = build(name, device)
    usual = plain_statement(ours)
    x, square = torch.rand(1, 3, size, size, device=device), torch.rand(2048, 2048, device=device)
    with FlopCounterMode(display=False) as counter:
        expected = usual(x)
    difference = ((ours(x) - expected).norm() / expected.norm()).item()
    rows = [
        [measure(usual, x)[0], measure(ours, x)[0], measure(torch.matmul, square, square)[0]] for _ in range(rounds)
    ]
    slow, fast, product = (statistics.median(column) for column in zip(*rows))
    ratio = statistics.median(row[0] / row[1] for row in rows)
    rate, possible = counter.get_total_flops() / fast / 1e9, 2 * 2048**3 / product / 1e9
    memory = peak_memory(name, size, device)
    print(
        f"| {name} | {1e3 * slow:.0f} | {1e3 * fast:.0f} | {ratio:.2f} | {rate:.0f} | {rate / possible:.0%} "
        f"| {memory[0]:.0f} | {memory[1]:.0f} | {difference:.1e} |",
        flush=True,
    )


@torch.inference_mode()
def profile(name, size, device):
    """Print where the time of a pass goes, by operator."""
    ours, x = build(name, device), torch.rand(1, 3, size, size, device=device)
    ours(x)
    with torch.profiler.profile() as record:
        ours(x)
    times = {row.key.removeprefix("aten::"): row.self_cpu_time_total for row in record.key_averages()}
    total = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:8]
    print(f"{name}: " + ", ".join(f"{operator} {time / total:.0%}" for operator, time in largest), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profile", action="store_true", help="tell where the time goes instead")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    if arguments.profile:
        for name in arguments.names:
            profile(name, arguments.size, arguments.device)
        return
    side = f"{arguments.size}x{arguments.size}"
    print(
        f"| {side} | plain, ms | this package, ms | ratio | GFLOP/s | of matrix product "
        "| plain, MiB | this package, MiB | relative difference |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in arguments.names:
        compare(name, arguments.size, arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()
