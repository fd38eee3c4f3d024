"""Your own degradation in dcpt: registered once, it is in `dcpt.degrade`, in recipes and in training.

    python examples/own_degradation.py [PHOTO] [-o faded_print.jpg]

The damage here is a faded print: less contrast, a yellow cast, dust. The bundled weights, which do
not know it, learn to mend it in under a minute on a laptop.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import dcpt
from dcpt.data.crops import pack_crops
from dcpt.degradations.base import per_picture, uniform
from dcpt.recipe import Recipe

IMAGES = Path(__file__).parent / "images"
SETTINGS = {"batch_size": 4, "patch_size": 96, "lr": 2e-3, "warmup_steps": 5, "log_every": 20, "ema_decay": 0.9}


@dcpt.register_degradation("surface")
def faded_print(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Fade, yellow and dust pictures, (B, 3, H, W), in [0, 1]; severity (B,), in [0, 1]."""
    strength = per_picture(0.2 + 0.4 * severity)
    paper = gt.new_tensor([0.93, 0.85, 0.62]).view(1, 3, 1, 1)
    faded = gt + strength * (paper - gt)
    dust = uniform(generator, len(gt), 1, *gt.shape[-2:]) < 0.004 * strength
    return torch.where(dust, paper, faded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=IMAGES / "noise.png")
    parser.add_argument("-o", "--output", type=Path, default=Path("faded_print.jpg"))
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()

    recipe = Recipe("faded", "nafnet_small", labels=("faded_print", "clean"))
    crops = pack_crops([IMAGES], crop_size=128)
    faded = dcpt.degrade(Image.open(arguments.photo).convert("RGB"), faded_print=0.8, seed=1)
    with tempfile.TemporaryDirectory() as run:
        model = dcpt.finetune(
            None, crops, run, recipe=recipe, start="nafnet-small-10d", device="cpu", steps=arguments.steps, **SETTINGS
        )
        restored = dcpt.restore(faded, model=model, device="cpu")
    sheet = Image.new("RGB", (2 * faded.width, faded.height))
    sheet.paste(faded, (0, 0))
    sheet.paste(restored, (faded.width, 0))
    sheet.save(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
