"""The method in one file: twenty DCPT steps of a tiny NAFNet on a folder of photographs.

python examples/pretraining_step.py [FOLDER]
"""

import sys
from pathlib import Path

import torch

import dcpt
from dcpt.data.crops import pack_crops, sample_patches
from dcpt.degradations import apply_degradations

DEGRADATIONS = ["noise", "haze", "demosaic"]


def main(folder: Path) -> None:
    torch.manual_seed(0)
    backbone = dcpt.create_backbone("nafnet_test")
    head = dcpt.DegradationClassifier(backbone.feature_channels, len(DEGRADATIONS))
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    crops = pack_crops([folder], crop_size=128)

    for step in range(20):
        gt = sample_patches(crops, 9, 32, generator)
        label = torch.arange(9) % 3
        lq = gt.clone()
        for index, name in enumerate(DEGRADATIONS):
            lq[label == index] = apply_degradations(gt[label == index], {name: 0.7}, generator)

        output = dcpt.dcpt_pretrain_step(backbone, head, lq, gt, label)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step:2}: pixel loss {output.pixel_loss:.3f}, accuracy {output.accuracy:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
