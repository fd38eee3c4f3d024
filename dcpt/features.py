"""Feature vectors of photographs that are degraded in several ways: what probing looks at."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.data.crops import find_photographs
from dcpt.data.synthetic import MARGIN
from dcpt.degradations import apply_degradations
from dcpt.degradations.base import DEGRADATIONS, uniform
from dcpt.errors import DcptError, InvalidData, InvalidSetting
from dcpt.image import open_image
from dcpt.strips import whole_maps

INPUT, LAST, ALL = "input", "last", "all"

Features = dict[str, np.ndarray]  # by layer, (T, N, D)
Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Pictures:
    """The same crops in several degradations.

    Attributes:
        lq: Degraded crops, (T, N, 3, S, S), uint8, RGB.
        labels: The T degradations.
        scenes: Which photograph each crop is of, (N,).
        data: Name of the folder they are from.
    """

    lq: Tensor
    labels: tuple[str, ...]
    scenes: np.ndarray
    data: str


def degrade_crops(folder: Path, labels: Sequence[str], *, count: int = 100, size: int = 128) -> Pictures:
    """Cut crops from the photographs below a folder and degrade each in every way, always the same.

    Severities are uniform in [0, 1]. Place, severity and looks follow from the number of the crop
    and the name of the degradation alone.

    Args:
        folder: Clean photographs; those that are too small or unreadable are passed over.
        labels: Registered degradations, different ones.
        count: Number of crops, spread evenly over up to as many photographs.
        size: Side of a crop in pixels.

    Raises:
        UnknownName: If a degradation does not exist.
        InvalidSetting: If there are less than ten crops: too few to have neighbours.
        InvalidData: If there are no two photographs of the size.
    """
    for label in labels:
        _ = DEGRADATIONS[label]
    if count < 10:
        raise InvalidSetting(f"expected ten or more crops, got {count}")
    gt, scenes = cut_crops(find_photographs([folder]), count, size + 2 * MARGIN)
    if len(set(scenes)) < 2:
        side = size + 2 * MARGIN
        raise InvalidData(f"expected two or more photographs of at least {side}x{side} pixels in {folder}")
    lq = [torch.cat([degrade_crop(crop, label, index) for index, crop in enumerate(gt)]) for label in labels]
    return Pictures(torch.stack(lq), tuple(labels), np.array(scenes), folder.resolve().name)


def cut_crops(paths: Sequence[Path], count: int, size: int) -> tuple[list[Tensor], list[int]]:
    """Cut crops, each (1, 3, size, size) in [0, 1], from one photograph after the other, in shuffled order.

    Returns:
        The crops and the number of the photograph of each; none if no photograph is large enough.
    """
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    crops: list[Tensor] = []
    scenes: list[int] = []
    unusable: set[int] = set()
    for scene in itertools.cycle(order):
        if len(crops) == count or len(unusable) == len(order):
            break
        crop = None if scene in unusable else random_crop(paths[scene], size, seed=len(crops))
        if crop is None:
            unusable.add(scene)
        else:
            crops.append(crop)
            scenes.append(scene)
    return crops, scenes


def random_crop(path: Path, size: int, *, seed: int) -> Tensor | None:
    """Cut a square from a photograph, (1, 3, size, size) in [0, 1]; None if it is too small or unreadable."""
    try:
        pixels = torch.from_numpy(np.array(open_image(path).convert("RGB")))
    except DcptError:
        return None
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        return None
    generator = torch.Generator().manual_seed(seed)
    top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in (height, width))
    return pixels[top : top + size, left : left + size].permute(2, 0, 1)[None] / 255


def degrade_crop(gt: Tensor, label: str, index: int) -> Tensor:
    """Degrade crop number `index`, (1, 3, S + 2 * MARGIN, ...) in [0, 1]; return (1, 3, S, S), uint8."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{label} {index}".encode()))
    lq = apply_degradations(gt, {label: uniform(generator, 1)}, generator)
    return (lq[..., MARGIN:-MARGIN, MARGIN:-MARGIN] * 255).round().byte()


@torch.inference_mode()
def extract_features(
    backbone: nn.Module,
    pictures: Pictures,
    *,
    grid: int = 1,
    batch_size: int = 4,
    progress: Progress = iter,
) -> Features:
    """Compute the features of every picture, averaged to vectors.

    Args:
        backbone: Any network with `hook=True`; one that also takes `hook="both"` shows what enters
            its last layer, too.
        pictures: From `degrade_crops`; the side is a multiple of the backbone's.
        grid: Cells per side to average over; 1 is the mean over the crop.
        batch_size: Pictures per pass.
        progress: Wraps the loop over batches, such as `tqdm`.

    Returns:
        By layer (T, N, D), float32: "input" for the picture itself, "last" for what enters the last
        layer unless that is "feature 0", then "feature 0" (the finest) and on, "all" for these together.
    """
    device = next(backbone.parameters()).device
    backbone.eval()
    rows: list[dict[str, Tensor]] = []
    for batch in progress(pictures.lq.flatten(0, 1).split(batch_size)):
        x = batch.to(device).float() / 255
        maps = {INPUT: x, **read_layers(backbone, x)}
        rows.append({name: F.adaptive_avg_pool2d(y.float(), grid).flatten(1).cpu() for name, y in maps.items()})
    shape = (len(pictures.labels), len(pictures.scenes), -1)
    layers = {name: torch.cat([row[name] for row in rows]).view(shape).numpy() for name in rows[0]}
    layers[ALL] = np.concatenate([layer for name, layer in layers.items() if name != INPUT], axis=2)
    return layers


def read_layers(backbone: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the feature maps of a batch by name, (B, C, H, W) each."""
    entered: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered[:] = inputs[:1]

    leaves = [module for module in backbone.modules() if not [*module.children()] and [*module.parameters()]]
    handles = [leaf.register_forward_pre_hook(note) for leaf in leaves]
    try:
        with whole_maps():
            both = backbone(x, hook="both")
    finally:
        for handle in handles:
            handle.remove()
    features = both[1] if isinstance(both, tuple) else backbone(x, hook=True)
    layers = {f"feature {index}": feature for index, feature in enumerate(features)}
    # NAFNet ends on its finest feature; a network without "both" may not have come to its end.
    if isinstance(both, tuple) and entered and entered[0].ndim == 4 and entered[0] is not features[0]:
        layers = {LAST: entered[0], **layers}
    return layers
