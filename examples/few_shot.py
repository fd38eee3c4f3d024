"""Teach the bundled weights a damage that they do not know, from fifty pairs of pictures.

The damage here is a stain of tea, brown and uneven. The pairs lie in a folder per degradation, as
yours would; half a minute on a laptop.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import dcpt

IMAGES = Path(__file__).parent / "images"
SIZE = 96
SETTINGS = {"steps": 40, "batch_size": 4, "patch_size": 64, "lr": 5e-4, "warmup_steps": 5, "ema_decay": 0.9}


def stain(gt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brown a picture unevenly, (H, W, 3), uint8."""
    y, x = np.mgrid[: gt.shape[0], : gt.shape[1]] / SIZE
    depth = 0.5 + 0.3 * np.sin(3 * x + rng.uniform(0, 6)) * np.sin(3 * y + rng.uniform(0, 6))
    tea = np.array([0.75, 0.55, 0.35])
    return (gt * (1 - depth[..., None] * (1 - tea))).round().astype(np.uint8)


def make_pairs(photograph: Image.Image, folder: Path, count: int) -> None:
    """Cut crops out of a photograph and write them with their stained twins."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(photograph)
    for side in ("lq", "gt"):
        (folder / side).mkdir(parents=True)
    for index in range(count):
        top, left = (rng.integers(length - SIZE) for length in pixels.shape[:2])
        gt = pixels[top : top + SIZE, left : left + SIZE]
        Image.fromarray(gt).save(folder / "gt" / f"{index}.png")
        Image.fromarray(stain(gt, rng)).save(folder / "lq" / f"{index}.png")


def mean_error(model: str | Path, folder: Path) -> float:
    """Return the mean absolute difference, in grey levels, between restored and clean pictures."""
    restorer = dcpt.Restorer(model, device="cpu")
    errors = []
    for lq in sorted((folder / "lq").iterdir()):
        restored = np.asarray(restorer.restore(lq), dtype=float)
        errors.append(np.abs(restored - np.asarray(Image.open(folder / "gt" / lq.name))).mean())
    return float(np.mean(errors))


def main() -> None:
    """Fine-tune, and compare on pictures that were not trained on."""
    photograph = dcpt.restore(IMAGES / "noise.png")
    middle = photograph.width // 2
    halves = photograph.crop((0, 0, middle, photograph.height)), photograph.crop((middle, 0, *photograph.size))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_pairs(halves[0], root / "train" / "tea", 50)
        make_pairs(halves[1], root / "test" / "tea", 6)
        model = dcpt.finetune(None, root / "train", root / "run", start="nafnet-small-10d", **SETTINGS)
        before, after = (mean_error(name, root / "test" / "tea") for name in ("nafnet-small-10d", model))
    print(f"mean error on unseen pictures: {before:.1f} grey levels before, {after:.1f} after")


if __name__ == "__main__":
    main()
