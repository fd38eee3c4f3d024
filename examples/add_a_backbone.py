"""Your own network in dcpt: registered, pre-trained for a few steps, its features shown.

    python examples/add_a_backbone.py [FOLDER] [-o features.png]

Any encoder and decoder will do. It must take RGB in [0, 1], tell the channels and strides of its
decoder features, and return them with `hook=True`, finest first.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import dcpt
from dcpt.data.crops import pack_crops, sample_patches
from dcpt.degradations import apply_degradations

DEGRADATIONS = ["noise", "haze", "demosaic"]


class TwoLevels(dcpt.Backbone):
    """A U-Net of two levels, as small as one can be."""

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.feature_channels = (width, 2 * width)
        self.feature_strides = (1, 2)
        self.size_multiple = 2
        self.fine = nn.Conv2d(3, width, 3, padding=1)
        self.coarse = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.decode_coarse = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.decode_fine = nn.Conv2d(3 * width, width, 3, padding=1)
        self.output = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, hook: bool = False) -> Tensor | list[Tensor]:
        self.check_input(x)
        fine = F.gelu(self.fine(x))
        coarse = F.gelu(self.decode_coarse(F.gelu(self.coarse(fine))))
        decoded = F.gelu(self.decode_fine(torch.cat((fine, F.interpolate(coarse, scale_factor=2)), dim=1)))
        if hook:
            return [decoded, coarse]
        return self.output(decoded) + x


@dcpt.register_backbone
def two_levels(**overrides: Any) -> TwoLevels:
    """The function's name is the variant's name everywhere: here, in recipes, in model folders."""
    return TwoLevels(**overrides)


def pretrain(backbone: dcpt.Backbone, folder: Path, steps: int) -> None:
    """Do a few steps of the method; `dcpt.pretrain` with a recipe does it in earnest."""
    head = dcpt.DegradationClassifier(backbone.feature_channels, len(DEGRADATIONS), norm="batch")
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    crops = pack_crops([folder], crop_size=128)
    for step in range(steps):
        gt = sample_patches(crops, 9, 64, generator)
        label = torch.arange(9) % 3
        lq = gt.clone()
        for index, name in enumerate(DEGRADATIONS):
            lq[label == index] = apply_degradations(gt[label == index], {name: 0.7}, generator)
        output = dcpt.dcpt_pretrain_step(backbone, head, lq, gt, label)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step:2}: pixel loss {output.pixel_loss:.3f}, accuracy {output.accuracy:.2f}")


@torch.no_grad()
def feature_sheet(backbone: dcpt.Backbone, picture: Tensor) -> Image.Image:
    """Show the six liveliest channels of every feature map, one row per map, each stretched to its range."""
    rows = []
    for feature in backbone(picture, hook=True):
        liveliest = feature.std((2, 3))[0].argsort(descending=True)[:6]
        maps = F.interpolate(feature[:, liveliest], picture.shape[-2:], mode="nearest")[0]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        rows.append(torch.cat(list((maps - low) / (high - low).clamp_min(1e-6)), dim=1))
    return Image.fromarray((torch.cat(rows) * 255).byte().numpy())


def main() -> None:
    images = Path(__file__).parent / "images"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=images, help="clean photographs")
    parser.add_argument("-o", "--output", type=Path, default=Path("features.png"))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    backbone = dcpt.create_backbone("two_levels", width=16)
    pretrain(backbone, arguments.folder, arguments.steps)
    crops = pack_crops([arguments.folder], crop_size=128)
    picture = crops.pixels[:1].permute(0, 3, 1, 2).float() / 255
    feature_sheet(backbone, picture).save(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
