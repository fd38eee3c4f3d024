"""What is wrong with a picture: how likely each degradation is, in the whole and in its parts."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcpt.calibration import Describer, load_calibration
from dcpt.device import pick_device
from dcpt.errors import CheckpointMismatch, InvalidImage, InvalidSetting
from dcpt.hub import from_pretrained, locate
from dcpt.image import read_picture
from dcpt.recipe import CLEAN
from dcpt.weights import PRETRAINED_PAIR, list_weights

TILE_SIZE = 256
SMALLEST = 96  # pixels; the shortest side the calibration was fitted on
LIKELY, POSSIBLE = 0.5, 0.25
SLIGHTEST_DETAIL = 0.002  # half a grey level from row to row


@dataclass(frozen=True)
class Tile:
    """A part of a picture and what is wrong there.

    Attributes:
        box: Left, top, right and bottom in pixels. Up to `TILE_SIZE` pixels per side in the middle
            of it were looked at.
        probabilities: As those of a `Diagnosis`.
        clean_probability: Likewise.
    """

    box: tuple[int, int, int, int]
    probabilities: dict[str, float]
    clean_probability: float


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a picture.

    Attributes:
        probabilities: Probability of each degradation. Each stands for itself: in a picture with
            haze and noise both are high, in a clean one all are low.
        clean_probability: Probability that nothing is wrong.
        clean: Whether it looks clean: its probability reaches a threshold that 95 % of held-out
            clean photographs reach, so that 5 % of them raise a false alarm, and nothing is likely wrong.
        unknown: Whether it is unlike anything the model was trained on, so that the probabilities
            mean little; one in a hundred held-out pictures is called so, too.
        calibrated: Whether the probabilities were fitted to held-out pictures. Those of a model
            without a calibration add up to one, so that at most one of them is high.
        map: The same for each part of the picture, row by row.
    """

    probabilities: dict[str, float]
    clean_probability: float
    clean: bool
    unknown: bool
    calibrated: bool
    map: tuple[Tile, ...]

    @property
    def summary(self) -> str:
        """The findings in words, such as "noise (97 %), probably also haze (61 %)"."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        if self.clean:
            words = [f"looks clean ({self.clean_probability:.0%})"]
        else:
            name, probability = ranked.pop(0)
            doubt = "" if probability >= LIKELY else "perhaps " if probability >= POSSIBLE else "not clean, perhaps "
            words = [doubt + name_finding(name, probability)]
        possible = "perhaps" if self.clean else "perhaps also"
        for name, probability in ranked:
            if probability >= POSSIBLE:
                doubt = "" if probability >= 0.8 else "probably also" if probability >= LIKELY else possible
                words.append(f"{doubt} {name_finding(name, probability)}".strip())
        if self.unknown:
            words.append("but it is unlike anything this model was trained on")
        if not self.calibrated:
            words.append("not calibrated")
        return ", ".join(words).replace("%", " %")

    def __str__(self) -> str:
        return self.summary

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the summary included."""
        return {"summary": self.summary} | asdict(self)


def name_finding(name: str, probability: float) -> str:
    """Write a degradation and its probability in words."""
    return f"{name.replace('_', ' ')} ({probability:.0%})"


class Diagnoser:
    """A loaded pair of backbone and classifier on a device, ready to diagnose many pictures.

    Args:
        model: Name or folder of weights with a classifier head. Without a calibration beside them,
            the probabilities are those of the head.
        device: "cpu", "cuda", "mps" or a torch device; default the fastest there is.
        max_tiles: Of larger pictures only so many parts are looked at, spread evenly.

    Raises:
        UnknownName: If there are no such weights.
        CheckpointMismatch: If they or their calibration are damaged, or there is no classifier.
        InvalidSetting: If the device does not exist, or there is no tile.
    """

    def __init__(
        self, model: str | Path = PRETRAINED_PAIR, *, device: torch.device | str | None = None, max_tiles: int = 16
    ) -> None:
        if max_tiles < 1:
            raise InvalidSetting(f"expected at least one tile, got max_tiles {max_tiles}")
        self.device, self.max_tiles = pick_device(device), max_tiles
        backbone, head = from_pretrained(model, with_head=True, device=self.device)
        if not head.labels:
            raise CheckpointMismatch(f"expected a classifier whose classes have names, got {model}")
        self.multiple = backbone.size_multiple
        self.labels = tuple(sorted(head.labels, key=lambda label: label == CLEAN))  # clean last
        self.order = [head.labels.index(label) for label in self.labels]
        self.describer = Describer(backbone, head).to(self.device).eval()
        calibration = load_calibration(locate(model), self.describer.width, self.labels)
        self.calibration = calibration.to(self.device) if calibration else None

    @torch.inference_mode()
    def diagnose(self, image: Any) -> Diagnosis:
        """Diagnose one picture; see the function `diagnose`."""
        pixels, _ = read_picture(image)
        if len(pixels) != 1:
            raise InvalidImage(f"expected one picture to diagnose, got a batch of {len(pixels)}")
        boxes = plan_tiles(*pixels.shape[-2:], max_tiles=self.max_tiles)
        views = torch.cat([cut_view(pixels, box, self.multiple) for box in boxes])
        described = torch.cat([self.describer(view.to(self.device)) for view in views.split(8)])
        if self.calibration is None:
            logits, distance = self.describer.classify(described)[:, self.order], 0.0
        else:
            logits = self.calibration(described)
            distance = self.calibration.distance(described).mean().item()
        tiles = [self._read(row) for row in logits]
        probabilities, clean = self._read(weigh_views(views).to(logits) @ logits)
        if self.calibration is None:
            found_clean, unknown = clean > max(probabilities.values()), False
        else:
            found_clean = clean >= self.calibration.clean_threshold.item() and max(probabilities.values()) < LIKELY
            unknown = distance > self.calibration.unknown_threshold.item()
        return Diagnosis(
            probabilities,
            clean_probability=clean,
            clean=found_clean,
            unknown=unknown,
            calibrated=self.calibration is not None,
            map=tuple(Tile(box, *tile) for box, tile in zip(boxes, tiles, strict=True)),
        )

    def _read(self, logits: Tensor) -> tuple[dict[str, float], float]:
        values = logits.sigmoid() if self.calibration else logits.softmax(0)
        probabilities = dict(zip(self.labels, values.tolist(), strict=True))
        clean = probabilities.pop(CLEAN, 0.0)
        return probabilities, clean


def diagnose(image: Any, *, model: str | Path = PRETRAINED_PAIR, device: torch.device | str | None = None) -> Diagnosis:
    """Tell what is wrong with a picture, in the whole and in its parts.

    Args:
        image: One picture: a path, the bytes of a file, a PIL image, an array (H, W[, 3 or 4]) or a
            tensor ([1,] 3, H, W); floats in [0, 1], or integers of full range. Colour order is RGB.
        model: Name or folder of weights with a classifier head. The default needs no download and
            is calibrated; others give the probabilities of their head.
        device: Where to compute; default the fastest there is.

    Raises:
        InvalidImage: If it is not a readable picture.
        UnknownName: If there is no such model.
        CheckpointMismatch: If the model is damaged or has no classifier.
    """
    load = _bundled_diagnoser if model in list_weights() else Diagnoser
    return load(model, device=device).diagnose(image)


@functools.lru_cache(maxsize=2)
def _bundled_diagnoser(name: str, *, device: torch.device | str | None) -> Diagnoser:
    return Diagnoser(name, device=device)


def plan_tiles(height: int, width: int, *, max_tiles: int) -> list[tuple[int, int, int, int]]:
    """Divide a picture evenly into parts of at most `TILE_SIZE` pixels per side, larger ones if those were too many.

    Returns:
        Left, top, right and bottom of each, row by row.
    """
    rows, columns = -(-height // TILE_SIZE), -(-width // TILE_SIZE)
    while rows * columns > max_tiles:
        flat = height * columns <= width * rows  # parts are wider than high
        if rows > 1 and (flat or columns == 1):
            rows -= 1
        else:
            columns -= 1
    tops = [height * row // rows for row in range(rows + 1)]
    lefts = [width * column // columns for column in range(columns + 1)]
    return [(left, top, right, bottom) for top, bottom in zip(tops, tops[1:]) for left, right in zip(lefts, lefts[1:])]


def weigh_views(views: Tensor) -> Tensor:
    """Return how much each view, (N, 3, H, W), counts for the whole, in sum 1: as much as there is detail in it.

    An empty sky is neither sharp nor blurred.
    """
    grey = views.mean(1)
    detail = grey.diff(dim=1).abs().mean((1, 2)) + SLIGHTEST_DETAIL
    return detail / detail.sum()


def cut_view(pixels: Tensor, box: tuple[int, int, int, int], multiple: int) -> Tensor:
    """Cut the middle of a box out of a picture, (1, 3, H, W), equally large for all boxes of a picture.

    What lies beyond the picture is filled by reflection.
    """
    left, top, right, bottom = box
    rows, columns = (
        view_positions(length, (start + end) // 2, multiple)
        for length, start, end in ((pixels.shape[2], top, bottom), (pixels.shape[3], left, right))
    )
    return pixels[:, :, rows.to(pixels.device)[:, None], columns.to(pixels.device)]


def view_positions(length: int, centre: int, multiple: int) -> Tensor:
    """Return which pixels along a side a view around `centre` shows: a whole multiple of them."""
    seen = min(length, TILE_SIZE)
    start = min(max(centre - seen // 2, 0), length - seen) // 8 * 8  # blocks of JPEG keep their phase
    size = -(-max(seen, SMALLEST) // multiple) * multiple
    # Reflected without repeating the border, as often as it takes: period 2 * length - 2.
    position = (start + torch.arange(size)) % max(2 * length - 2, 1)
    return torch.minimum(position, (2 * length - 2 - position).abs())
