"""Control over a restoration: how strong it is, and which degradations it removes.

What a restoration changed comes apart into what it did to the tone of each neighbourhood, its
brightness and contrast, and what it did to the texture, band by band of frequency.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.diagnosis import POSSIBLE, Diagnosis
from dcpt.errors import InvalidImage, InvalidSetting
from dcpt.registry import unknown_name

BANDS = 5  # octaves, the last with all that is coarser than 16 pixels
CELL = 8  # pixels per side
CONTRAST_WINDOW, OFFSET_WINDOW = 9, 3  # cells per side; the narrower one follows the outlines of what is near and far
FLATNESS = 3e-4  # variance below which a neighbourhood is too flat to show its contrast

# Mean square of what each degradation does, times 10^4: darkened, brightened, then texture, finest
# band first. Measured on CBSD68 by `python benchmarks/steering.py footprints`.
FOOTPRINTS: dict[str, tuple[float, ...]] = {
    "noise": (1.05, 0.73, 94.37, 23.61, 5.96, 1.49, 0.21),
    "motion_blur": (0.97, 10.23, 20.04, 21.14, 15.23, 6.06, 0.82),
    "defocus_blur": (0.01, 2.35, 19.18, 12.61, 3.85, 0.83, 0.13),
    "jpeg": (0.15, 0.15, 11.96, 3.29, 1.54, 0.85, 0.20),
    "haze": (6.66, 649.41, 0.41, 0.45, 0.58, 0.63, 0.34),
    "snow": (0.07, 43.22, 5.55, 10.30, 10.35, 5.76, 1.21),
    "rain": (0.07, 38.04, 13.66, 13.78, 9.79, 5.09, 1.14),
    "demosaic": (1151.69, 0.01, 536.49, 1.73, 0.80, 0.55, 0.22),
    "low_light": (1027.44, 0.00, 0.66, 0.48, 0.58, 0.64, 0.37),
    "inpainting": (12.80, 12.79, 25.69, 28.20, 32.63, 23.21, 5.97),
}
DOUBT = 0.1  # probability of something else, whose footprint is the median of all


def adjust_strength(lq: Tensor, restored: Tensor, strength: float) -> Tensor:
    """Give back what a restoration changed, the finest texture first and the tone last.

    The change, restored - lq, is the exact sum of five bands: band k = 0 ... 3 is what averaging
    blocks of 2^(k+1) pixels takes away from blocks of 2^k pixels, band 4 the rest. The result is lq
    plus the sum of strength ** (2 ** (1 - k / 2)) times band k, clamped to [0, 1]: the weight is
    the square of the strength in the finest band and its square root in the coarsest, so that each
    rises with the strength, and none is above that of a coarser band.

    Args:
        lq: Degraded pictures, (B, 3, H, W), floats in [0, 1], of any size.
        restored: The same, restored.
        strength: 1 returns `restored` itself, 0 returns `lq` itself.

    Raises:
        InvalidImage: If the shapes differ.
        InvalidSetting: If the strength is not in [0, 1].
    """
    _check_pair(lq, restored)
    if not 0 <= strength <= 1:
        raise InvalidSetting(f"expected a strength in [0, 1], got {strength}")
    if strength in (0, 1):
        return restored if strength else lq
    weights = [torch.full((1, 1, 1, 1), strength**2 ** (1 - k / 2)).to(lq) for k in range(BANDS)]
    result = torch.empty_like(lq)
    for channel in range(3):  # one at a time: a third of the memory
        before, after = lq[:, channel, None], restored[:, channel, None]
        result[:, channel, None] = before + _join_bands(_split_bands(after - before), weights)
    return result.clamp_(0, 1)


def steer(
    lq: Tensor, restored: Tensor, diagnosis: Diagnosis, *, only: Sequence[str] = (), keep: Sequence[str] = ()
) -> Tensor:
    """Restrict a restoration to some degradations, as far as the diagnosis tells them apart.

    In each neighbourhood the tone of `lq` is fitted as a line over `restored`; what the line misses
    is texture, in the bands of `adjust_strength`. Degradations differ in what they change, which
    `FOOTPRINTS` holds as energies: haze brightens, low light darkens, noise and compression lie in
    the finest bands, blur, rain, snow and covered parts in all of them. Of each part of the change
    that share is applied which the wanted degradations explain: their footprints, times how far
    their probability exceeds `POSSIBLE` there, over those of all that were found and of a little
    doubt. Probabilities are interpolated between the parts of the picture, so that no border shows.

    Limits: nothing is removed that the restoration left in. Degradations of like footprint, as rain
    and snow or noise and compression, are not told apart but scaled alike; so are haze and low
    light where the restoration removed both. Footprints hold for degradations of usual strength: if
    haze was found but left in, what a restoration did to the veil of rain passes for haze.
    At abrupt outlines in haze or light, a trace of both shows about 20 pixels wide.

    Args:
        lq: The degraded picture, (1, 3, H, W), floats in [0, 1], of any size.
        restored: The same, restored.
        diagnosis: What is wrong with `lq`.
        only: Degradations to remove; all others stay in. If none of them was found, `lq` itself is returned.
        keep: Degradations to leave in; all else is removed. If none of them was found, `restored`
            itself is returned. Without effect beside `only`, which keeps all others.

    Raises:
        InvalidImage: If the shapes differ, or it is more than one picture.
        UnknownName: If the diagnosis does not know a degradation.
        InvalidSetting: If one is in both lists, or a list is a text.
    """
    _check_pair(lq, restored)
    if len(lq) != 1:
        raise InvalidImage(f"expected one picture to steer, got a batch of {len(lq)}")
    check_choice(only, keep, known=diagnosis.probabilities)
    share = _explained_share(diagnosis, only or keep).to(lq)
    if not share.any():
        return lq if only else restored
    darkened, brightened, *texture = share if only else 1 - share
    contrast, offset = _fit_tone(lq, restored)
    result = torch.empty_like(lq)
    for channel in range(3):
        before, after, steered = (picture[:, channel, None] for picture in (lq, restored, result))
        tone = _apply_tone(after, contrast, offset[:, channel, None])
        steered.copy_(tone)
        steered += _weigh_tone(after - tone, darkened, brightened)
        steered += _join_bands(_split_bands(before - tone), [1 - part for part in texture])
    return result.clamp_(0, 1)


def check_choice(only: Sequence[str], keep: Sequence[str], *, known: Collection[str] = FOOTPRINTS) -> None:
    """Refuse degradations to remove or to leave in that do not exist, or that are in both lists.

    Raises:
        UnknownName: If a name is not among `known`, the nearest ones in the message.
        InvalidSetting: If a name is in both lists, or one is a text instead of a list of names.
    """
    for names in (only, keep):
        if isinstance(names, str):
            raise InvalidSetting(f"expected a list of degradations, got the text {names!r}; write [{names!r}]")
    for name in (*only, *keep):
        if name not in known:
            raise unknown_name("degradation", name, known)
    if both := sorted({*only} & {*keep}):
        raise InvalidSetting(f"expected degradations either to remove or to keep, got {', '.join(both)} for both")


def measure_footprint(lq: Tensor, gt: Tensor) -> Tensor:
    """Measure what degradations did to pictures, as rows of `FOOTPRINTS`.

    Args:
        lq: Degraded pictures, (B, 3, H, W), in [0, 1].
        gt: The same without degradation.

    Returns:
        Mean squares times 10^4, (B, 2 + BANDS).
    """
    _check_pair(lq, gt)
    tone = _apply_tone(gt, *_fit_tone(lq, gt))
    change = gt - tone
    parts = [change.clamp(min=0), change.clamp(max=0), *_split_bands(lq - tone)]
    return 1e4 * torch.stack([part.square().mean((1, 2, 3)) for part in parts], dim=1)


def _check_pair(lq: Tensor, restored: Tensor) -> None:
    if lq.ndim != 4 or lq.shape[1] != 3 or lq.shape != restored.shape:
        shapes = f"{tuple(lq.shape)} and {tuple(restored.shape)}"
        raise InvalidImage(f"expected a picture and its restoration, both (B, 3, H, W), got {shapes}")


def _explained_share(diagnosis: Diagnosis, wanted: Sequence[str]) -> Tensor:
    """Return which share of each part of the change the wanted degradations explain.

    (2 + BANDS, 1, 1, rows, columns), for the parts of the picture that were diagnosed.
    """
    names = list(diagnosis.probabilities)
    parts = [part.probabilities for part in diagnosis.map] or [diagnosis.probabilities]
    rows = len({part.box[1] for part in diagnosis.map}) or 1
    found = torch.tensor([[part[name] for part in parts] for name in names]).view(len(names), 1, rows, -1)
    found = (found - POSSIBLE).clamp(min=0) / (1 - POSSIBLE)
    anything = torch.tensor(list(FOOTPRINTS.values())).median(0).values.tolist()
    footprints = torch.tensor([FOOTPRINTS.get(name, anything) for name in names])
    explained = found * footprints[:, :, None, None]
    doubt = DOUBT * torch.tensor(anything)[:, None, None]
    share = explained[[name in wanted for name in names]].sum(0) / (explained.sum(0) + doubt)
    return share[:, None, None]


def _fit_tone(lq: Tensor, restored: Tensor) -> tuple[Tensor, Tensor]:
    """Fit lq = contrast * restored + offset in each neighbourhood; one contrast for all colours, a value per cell.

    Noise and the like are in `lq`, not in what it is fitted over, so that they do not bias the contrast.
    """
    y, x = _shrink(lq, CELL), _shrink(restored, CELL)
    mean_y, mean_x = (_local_mean(cells, CONTRAST_WINDOW) for cells in (y, x))
    products = torch.cat([(x * y).mean(1, keepdim=True), (x * x).mean(1, keepdim=True)], dim=1)
    means = torch.cat([(mean_x * mean_y).mean(1, keepdim=True), (mean_x * mean_x).mean(1, keepdim=True)], dim=1)
    covariance, variance = (_local_mean(products, CONTRAST_WINDOW) - means).split(1, dim=1)
    contrast = ((covariance + FLATNESS) / (variance + FLATNESS)).clamp(min=0)  # 1 where there is nothing to see
    contrast = _local_mean(contrast, CONTRAST_WINDOW)
    return contrast, _local_mean(y - contrast * x, OFFSET_WINDOW)


def _apply_tone(restored: Tensor, contrast: Tensor, offset: Tensor) -> Tensor:
    return _enlarge(contrast, restored, CELL) * restored + _enlarge(offset, restored, CELL)


def _local_mean(cells: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(cells, window, stride=1, padding=window // 2, count_include_pad=False)


def _weigh_tone(change: Tensor, darkened: Tensor, brightened: Tensor) -> Tensor:
    """Scale a change of tone where it mends what a degradation darkened and where what one brightened; in place."""
    lighter = change.clamp(min=0)
    lighter *= _spread(darkened, change)
    darker = change.clamp_(max=0)
    darker *= _spread(brightened, change)
    return lighter.add_(darker)


def _split_bands(picture: Tensor) -> list[Tensor]:
    """Split a picture into bands that add up to it, finest first, each of half the size of the one before."""
    bands = []
    for _ in range(BANDS - 1):
        coarse = _shrink(picture, 2)
        bands.append(picture - _enlarge(coarse, picture, 2))
        picture = coarse
    return [*bands, picture]


def _join_bands(bands: list[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Add bands up, each weighted by one value per part of the picture; in place."""
    for band, weight in zip(bands, weights, strict=True):
        band *= _spread(weight, band)
    whole = bands[-1]
    for band in bands[-2::-1]:
        whole = band.add_(_enlarge(whole, band, 2))
    return whole


def _shrink(picture: Tensor, factor: int) -> Tensor:
    return F.avg_pool2d(picture, factor, ceil_mode=True, count_include_pad=False)


def _enlarge(picture: Tensor, like: Tensor, factor: int) -> Tensor:
    """Undo `_shrink`; what is cut off stands for no pixel of a side that is not a multiple."""
    larger = F.interpolate(picture, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger[..., : like.shape[2], : like.shape[3]]


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Interpolate one value per part of the picture, (1, 1, rows, columns), between the centres of the parts."""
    if values.numel() == 1:
        return values
    return F.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)
