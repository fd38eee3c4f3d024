"""What a degradation is, the registry of them, and how several are chained.

A degradation is a pure function `(gt, generator, severity) -> lq`:
    gt: clean pictures, (B, 3, H, W), RGB in [0, 1], on any device;
    generator: all its randomness, on the device of `gt`;
    severity: (B,), in [0, 1], mild to strong; each function documents the physical meaning.
The result has the shape of `gt` and lies in [0, 1]. The registered name is the function's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.errors import InvalidImage, InvalidSetting
from dcpt.image import read_picture
from dcpt.registry import Registry

Degradation = Callable[[Tensor, torch.Generator, Tensor], Tensor]
Stage = Literal["scene", "lens", "exposure", "sensor", "file", "surface"]

DEGRADATIONS: Registry[Degradation] = Registry("degradation")
_PLACE: dict[str, tuple[int, int]] = {}  # in a chain: stage, then order of registration

GAMMA = 2.2  # between display values and linear light


def register_degradation(stage: Stage) -> Callable[[Degradation], Degradation]:
    """Return a decorator that registers a degradation under its function's name.

    Args:
        stage: Where on the way from the scene to the file it happens; chains run in that order.
    """

    def register(degradation: Degradation) -> Degradation:
        name = degradation.__name__
        _PLACE[name] = (get_args(Stage).index(stage), len(_PLACE))
        return DEGRADATIONS.register(name)(degradation)

    return register


def list_degradations() -> list[str]:
    """Return the names of all registered degradations, in order of registration."""
    return list(DEGRADATIONS)


def apply_degradations(gt: Tensor, severities: Mapping[str, float | Tensor], generator: torch.Generator) -> Tensor:
    """Degrade a batch by one or several degradations, in the order in which nature applies them.

    Args:
        gt: Clean pictures, (B, 3, H, W), RGB in [0, 1].
        severities: Severity in [0, 1] by degradation name: one number, or one per picture (B,).
        generator: Source of all randomness, on the device of `gt`.

    Returns:
        Degraded pictures, same shape, in [0, 1].

    Raises:
        UnknownName: If a degradation does not exist.
        InvalidImage: If `gt` is not a batch of RGB pictures.
        InvalidSetting: If a severity is outside [0, 1], or their number is not that of pictures.
    """
    if gt.ndim != 4 or gt.shape[1] != 3:
        raise InvalidImage(f"expected a batch of RGB pictures (B, 3, H, W), got {tuple(gt.shape)}")
    degradations = {name: DEGRADATIONS[name] for name in severities}
    lq = gt.float()
    for name in sorted(degradations, key=_PLACE.__getitem__):
        lq = degradations[name](lq, generator, _as_batch(severities[name], name, lq))
    return lq.to(gt.dtype)


def _as_batch(severity: float | Tensor, name: str, lq: Tensor) -> Tensor:
    values = torch.as_tensor(severity, dtype=torch.float32)
    if values.numel() not in (1, len(lq)):
        raise InvalidSetting(f"expected one severity for {name!r}, or {len(lq)}, got {values.numel()}")
    # Not looked at on a GPU: that would stall the training that made them.
    if values.device.type == "cpu" and not torch.all((values >= 0) & (values <= 1)):
        raise InvalidSetting(f"expected a severity in [0, 1] for {name!r}, got {severity}")
    return values.to(lq.device).expand(len(lq))


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw float32 numbers in [low, high) on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def per_picture(values: Tensor) -> Tensor:
    """View one number per picture, (B,), so that it broadcasts over (B, C, H, W)."""
    return values.view(-1, 1, 1, 1)


SCENE = 256  # pixels; a smaller picture shows a part of a scene of this size


def scene_window(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Choose the part of the scene that each picture shows: sampling positions, (B, H, W, 2).

    The scene spans [-1, 1] in x and y. A picture of `SCENE` pixels or more shows all of it, a
    smaller one (a training patch) a window somewhere in it, so that depth and other fields
    change over a patch as slowly as over the photograph it was cut from.
    """
    extent = [min(1.0, side / SCENE) for side in (width, height)]
    axes = []
    for side, share in zip((width, height), extent):
        centre = uniform(generator, batch, 1, low=share - 1, high=1 - share)
        axes.append(centre + share * torch.linspace(-1, 1, side, device=generator.device))
    x, y = axes
    return torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=3)


def smooth_field(window: Tensor, generator: torch.Generator, *, octaves: int = 3) -> Tensor:
    """Draw smooth random maps in [0, 1] over a scene window, (B, 1, H, W), halving detail per octave."""
    field = torch.zeros_like(window[..., 0]).unsqueeze(1)
    for octave in range(octaves):
        side = 2 ** (octave + 1) + 1
        coarse = uniform(generator, len(window), 1, side, side)
        field += 0.5**octave * F.grid_sample(coarse, window, padding_mode="border", align_corners=True)
    return field / sum(0.5**octave for octave in range(octaves))


def degrade(image: Any, *, seed: int = 0, **severities: float) -> Any:
    """Degrade a picture of any kind: `dcpt.degrade(image, haze=0.6, noise=0.3)`.

    Args:
        image: As for `dcpt.restore`: a path, bytes, a PIL image, an array or a tensor.
        seed: Seed of all randomness; the same seed gives the same picture.
        **severities: Severity in [0, 1] by degradation name.

    Returns:
        The degraded picture, same size and kind as `image` (for a path, a PIL image).

    Raises:
        UnknownName: If a degradation does not exist.
        InvalidImage: If it is not a readable picture.
        InvalidSetting: If a severity is outside [0, 1], or none is given.
    """
    if not severities:
        raise InvalidSetting(f"expected at least one degradation out of {', '.join(DEGRADATIONS)}")
    gt, give_back = read_picture(image)
    generator = torch.Generator(gt.device).manual_seed(seed)
    return give_back(apply_degradations(gt, severities, generator))
