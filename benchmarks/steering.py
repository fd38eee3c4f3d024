"""Measure what degradations change in a picture, and how far a restoration can be restricted to one of two.

    python benchmarks/steering.py footprints CBSD68
    python benchmarks/steering.py mixtures KODAK24 [--limit 6]

The first prints the table `FOOTPRINTS` of dcpt/steering.py: means over the pictures, severities spread
evenly over [0, 1]. In each picture the severity jumps along a line, as distance and light do at outlines
in nature, but not in the synthetic degradations. The second degrades each picture by two degradations at
a time and asks for one to be removed, once by `only` and once by `keep` of the other: PSNR in dB to the
picture with only the other, of the degraded picture, of the full restoration by the bundled network and
of the two restricted ones. The last two columns have the clean picture in place of a restoration, and a
perfect diagnosis.
"""

import argparse
import math
from pathlib import Path

import torch
from tqdm import tqdm

import dcpt
from dcpt.cases import load_clean_pictures
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.diagnosis import Diagnosis
from dcpt.metrics import psnr
from dcpt.steering import measure_footprint, steer

PAIRS = (  # in the order in which they happen
    ("haze", "noise"), ("low_light", "noise"), ("haze", "rain"), ("haze", "snow"), ("haze", "jpeg"),
    ("low_light", "jpeg"), ("haze", "low_light"), ("motion_blur", "low_light"), ("defocus_blur", "noise"),
    ("rain", "noise"), ("noise", "inpainting"), ("noise", "jpeg"),
)  # fmt: skip
SEVERITIES = (0.35, 0.6)  # by turns


def degrade(gt, names, severity, seed):
    """Degrade a picture so that each degradation falls alike, whatever comes with it."""
    lq = gt
    for name in names:
        generator = torch.Generator().manual_seed(100 * seed + list_degradations().index(name))
        lq = apply_degradations(lq, {name: severity}, generator)
    return (lq * 255).round() / 255


def draw_side(height, width, generator):
    """Draw a straight line through the middle half of a picture; return what lies on one side, (H, W)."""
    angle = math.tau * torch.rand((), generator=generator)
    top, left = (0.25 + 0.5 * torch.rand(2, generator=generator)).tolist()
    y, x = torch.meshgrid(torch.arange(height) - top * height, torch.arange(width) - left * width, indexing="ij")
    return y * angle.sin() + x * angle.cos() > 0


def print_footprints(pictures):
    for name in list_degradations():
        rows = []
        for index, gt in enumerate(pictures):
            severities = [(index / len(pictures) + shift) % 1 for shift in (0, 0.5)]
            sides = [degrade(gt, [name], severity, index) for severity in severities]
            side = draw_side(*gt.shape[-2:], torch.Generator().manual_seed(index))
            rows.append(measure_footprint(torch.where(side, *sides), gt))
        print(f'    "{name}": ({", ".join(f"{value:.2f}" for value in torch.cat(rows).mean(0).tolist())}),')


def measure_case(gt, pair, index):
    """Return PSNR by column for removing the first and for removing the second degradation."""
    severity = SEVERITIES[index % 2]
    lq = degrade(gt, pair, severity, index)
    restored, found = dcpt.restore(lq), dcpt.diagnose(lq)
    perfect = Diagnosis({name: float(name in pair) for name in list_degradations()}, 0.0, False, False, True, ())
    rows = []
    for wanted, other in (pair, pair[::-1]):
        results = [lq, restored]
        for full, diagnosis in ((restored, found), (gt, perfect)):
            results.append(steer(lq, full, diagnosis, only=[wanted]))
            results.append(steer(lq, full, diagnosis, keep=[other]))
        target = degrade(gt, [other], severity, index)
        rows.append(torch.cat([psnr(result, target) for result in results]))
    return torch.stack(rows)


def print_mixtures(pictures):
    print("| picture with | to remove | degraded | restored | only | keep | only, ideal | keep, ideal |")
    print("|---|---|---|---|---|---|---|---|")
    for pair in PAIRS:
        rows = torch.stack([measure_case(gt, pair, index) for index, gt in enumerate(tqdm(pictures, leave=False))])
        for wanted, row in zip(pair, rows.mean(0).tolist()):
            print(f"| {' + '.join(pair)} | {wanted} | {' | '.join(f'{value:.1f}' for value in row)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["footprints", "mixtures"])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    pictures = load_clean_pictures(arguments.pictures, limit=arguments.limit)
    print_footprints(pictures) if arguments.task == "footprints" else print_mixtures(pictures)


if __name__ == "__main__":
    main()
