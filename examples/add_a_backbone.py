"""Your own network in dcpt: pre-trained by one call, its features shown.

    python examples/add_a_backbone.py [FOLDER] [-o features.png]

Any encoder and decoder will do. It must take RGB in [0, 1], tell the channels and strides of its
decoder features, and return them with `hook=True`, finest first.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import dcpt
from dcpt.data.crops import pack_crops
from dcpt.recipe import Recipe

RECIPE = Recipe("three", "two_levels", labels=("noise", "haze", "demosaic"), head_norm="batch")


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
    """Only needed to load it by name later: the function's name is the variant's, in recipes and model folders."""
    return TwoLevels(**overrides)


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
    backbone = TwoLevels(width=16)
    crops = pack_crops([arguments.folder], crop_size=128)
    settings = {"batch_size": 9, "patch_size": 64, "lr": 3e-3, "head_lr": 3e-3, "log_every": 5}
    with tempfile.TemporaryDirectory() as run:
        dcpt.pretrain(backbone, crops, run, recipe=RECIPE, device="cpu", steps=arguments.steps, **settings)
    picture = crops.pixels[:1].permute(0, 3, 1, 2).float() / 255
    feature_sheet(backbone, picture).save(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
