"""Large photographs: time and memory in tiles and exactly, the exact mode beside the whole pass, seams.

    python benchmarks/photographs.py sizes [1 12 24 48] [--limit 3]
    python benchmarks/photographs.py exact [NAME=SIDE ...]
    python benchmarks/photographs.py seams PHOTOGRAPHS

`sizes` runs the command line on pictures of so many megapixels, each in a process of its own under a
limit of its address space in GiB. `exact` compares both passes of each backbone: the largest
difference, and time and peak memory as ratios. `seams` degrades photographs and smooth skies and
compares the error near the borders of tiles with the error elsewhere. Linux only.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from backbones import build, resident_memory
from PIL import Image

from dcpt import Restorer
from dcpt.data.crops import find_photographs
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.image import open_image
from dcpt.strips import Storage
from dcpt.tiling import apply_exact, tile_starts

NEAR = 32  # pixels from the middle of an overlap
SKY = (0.35, 0.55, 0.85), (0.75, 0.85, 0.95)  # zenith and horizon
SIDES = {"nafnet": 768, "restormer": 384, "promptir": 384, "swinir": 192}


def make_sky(height, width):
    """A gradient without anything on it: where a seam would show first."""
    top, bottom = (torch.tensor(colour).view(1, 3, 1, 1) for colour in SKY)
    share = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    return (top + (bottom - top) * share).expand(1, 3, height, width).contiguous()


def run_command(source, target, limit, *options):
    """Run the command line under a limit; return seconds, peak memory in MiB and whether it succeeded."""

    def confine():
        resource.setrlimit(resource.RLIMIT_AS, (int(limit * 2**30),) * 2)

    command = [sys.executable, "-m", "dcpt", "restore", str(source), "-o", str(target), "--device", "cpu", *options]
    start = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=confine)
    _, status, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - start, usage.ru_maxrss / 1024, status == 0


def compare_sizes(megapixels, limit):
    print(f"| megapixels | tiles: s | MiB | exact: s | MiB | (address space: {limit} GiB)\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in megapixels:
            height = round((count * 1e6 * 2 / 3) ** 0.5)
            rng = np.random.default_rng(0)
            small = Image.fromarray(rng.integers(0, 256, (height // 16, height * 3 // 32, 3), np.uint8))
            source = Path(folder, f"{count}.jpg")
            small.resize((height * 3 // 2, height), Image.Resampling.BICUBIC).save(source, quality=90)
            cells = []
            for options in ((), ("--exact",)):
                seconds, memory, succeeded = run_command(
                    source, Path(folder, "out.png"), limit, "--overwrite", *options
                )
                cells += [f"{seconds:.0f}", f"{memory:.0f}"] if succeeded else ["failed", "-"]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)


def peak_memory(function):
    """Return seconds, and what the process grew by at its peak, in MiB."""

    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident_memory("VmRSS"), time.process_time()
    result = function()
    return time.process_time() - start, resident_memory("VmHWM") - before, result


def run_pass(name, side, exact, path):
    torch.set_num_threads(1)
    backbone = build(name, "cpu")
    x = torch.rand(1, 3, side, side)
    with torch.no_grad():
        backbone(x[..., :64, :64])
        storage = Storage(torch.device("cpu"), memory=0)
        multiple = backbone.size_multiple
        passes = {
            True: lambda: apply_exact(backbone, x, multiple=multiple, storage=storage),
            False: lambda: backbone(x),
        }
        torch.save(peak_memory(passes[exact]), path)


def compare_passes(sides):
    print("| backbone | side | largest difference | time, exact / whole | peak memory, exact / whole |")
    print("|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name, side in sides.items():
            seen = []
            for exact in (False, True):
                process = spawn.Process(target=run_pass, args=(name, side, exact, Path(folder, "pass.pt")))
                process.start()
                process.join()
                seen.append(torch.load(Path(folder, "pass.pt"), weights_only=True))
            whole, exact = seen
            difference = (whole[2] - exact[2]).abs().max().item()
            seconds, memory = exact[0] / whole[0], exact[1] / whole[1]
            print(
                f"| {name} | {side} | {difference:.1e} | {exact[0]:.1f} s / {whole[0]:.1f} s = {seconds:.2f} "
                f"| {exact[1]:.0f} / {whole[1]:.0f} MiB = {memory:.2f} |",
                flush=True,
            )


def border_mask(height, width, tile_size, overlap, multiple):
    """Where two tiles meet, (H, W)."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for axis, side in enumerate((height, width)):
        starts = tile_starts(-(-side // multiple) * multiple, tile_size, overlap, multiple)
        for before, after in zip(starts, starts[1:]):
            middle = (before + tile_size + after) // 2
            mask.index_fill_(axis, torch.arange(max(0, middle - NEAR), min(side, middle + NEAR)), True)
    return mask


def compare_seams(folder, tile_size=256, overlap=64):
    """Compare errors: of the restored picture against the clean one, and of tiles against the whole."""
    tiled, whole = (Restorer(device="cpu", tile_size=size, overlap=overlap) for size in (tile_size, 10**5))
    scenes = {"sky": [make_sky(512, 768)]}
    paths = find_photographs([folder])[:4]
    scenes["photographs"] = [
        torch.from_numpy(np.array(open_image(path).convert("RGB"))).permute(2, 0, 1)[None] / 255 for path in paths
    ]
    print("| scenes | degradation | error at borders / inside, tiles | the same, whole |\n|---|---|---|---|")
    for scene, pictures in scenes.items():
        for label in list_degradations():
            ratios = []
            for index, gt in enumerate(pictures):
                lq = apply_degradations(gt, {label: 0.5}, torch.Generator().manual_seed(index))
                mask = border_mask(*gt.shape[-2:], tile_size, overlap, tiled.backbone.size_multiple)
                errors = [(r.restore_batch(lq) - gt).abs().mean((0, 1)) for r in (tiled, whole)]
                ratios.append([(error[mask].mean() / error[~mask].mean()).item() for error in errors])
            print(
                f"| {scene} | {label} | " + " | ".join(f"{statistics.mean(r):.3f}" for r in zip(*ratios)) + " |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    sizes = commands.add_parser("sizes")
    sizes.add_argument("megapixels", nargs="*", type=float, default=[1, 12, 24, 48])
    sizes.add_argument("--limit", type=float, default=3)
    exact = commands.add_parser("exact")
    exact.add_argument("sides", nargs="*", metavar="NAME=SIDE")
    seams = commands.add_parser("seams")
    seams.add_argument("photographs", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "sizes":
        compare_sizes(arguments.megapixels, arguments.limit)
    elif arguments.command == "exact":
        given = {name: int(side) for name, side in (pair.split("=") for pair in arguments.sides)}
        compare_passes(given or SIDES)
    else:
        compare_seams(arguments.photographs)


if __name__ == "__main__":
    main()
