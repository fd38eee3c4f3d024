"""Pictures that are degraded already: a folder per degradation, its name the label.

photos/
  haze/lq/*.jpg  haze/gt/*.jpg     pairs: a clean picture has the name of its degraded one, or
                                   the beginning of it before an underscore (0001.png, 0001_0.8.png)
  rain/*.png                       no clean pictures: enough to learn what rain looks like
  clean/*.jpg                      nothing wrong with them
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.data.crops import PackedCrops, find_photographs, load_crops
from dcpt.data.synthetic import Batch, step_seed
from dcpt.errors import DcptError, InvalidData
from dcpt.image import read_picture
from dcpt.recipe import CLEAN, Recipe, Stage
from dcpt.registry import unknown_name

UNREADABLE_SHARE = 0.2  # a run stops when more than this share of the pictures cannot be used


@dataclass(frozen=True)
class Pair:
    """A degraded picture, and its clean counterpart if there is one."""

    lq: Path
    gt: Path | None


@dataclass(frozen=True)
class LabelledFolders:
    """The pictures of a folder per degradation.

    Attributes:
        root: The folder of folders.
        pairs: Pictures by label, labels sorted.
        unmatched: Degraded pictures in `lq/` without a counterpart in `gt/`, which are left out.
    """

    root: Path
    pairs: dict[str, list[Pair]]
    unmatched: tuple[Path, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, "clean" last."""
        return tuple(sorted(self.pairs, key=lambda label: (label == CLEAN, label)))

    @property
    def manifest_hash(self) -> str:
        """One hash of names and sizes of all files; independent of where the folder lies."""
        files = [path for pairs in self.pairs.values() for pair in pairs for path in (pair.lq, pair.gt) if path]
        lines = {f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path in files}
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def has_labels(folder: Path) -> bool:
    """Say whether a folder has a folder per degradation, at least one of them with `lq/` in it."""
    return folder.is_dir() and any((child / "lq").is_dir() for child in folder.iterdir())


def read_folders(root: Path) -> LabelledFolders:
    """List the pictures of a folder per degradation; none is opened.

    Raises:
        InvalidData: If there are no such folders, or one has no pictures.
    """
    if not root.is_dir():
        raise InvalidData(f"expected a folder with a folder per degradation, found none at {root}")
    pairs: dict[str, list[Pair]] = {}
    unmatched: list[Path] = []
    for folder in sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")):
        if (folder / "lq").is_dir():
            found, lost = match_names(find_photographs([folder / "lq"]), find_counterparts(folder))
            unmatched += lost
        else:
            pictures = find_photographs([folder])
            found = [Pair(path, path if folder.name == CLEAN else None) for path in pictures]
        if not found:
            raise InvalidData(f"expected pictures in {folder}, or pairs in its lq/ and gt/, found none")
        pairs[folder.name] = found
    if not pairs:
        raise InvalidData(f"expected a folder per degradation in {root}, found no folders")
    return LabelledFolders(root, pairs, tuple(unmatched))


def find_counterparts(folder: Path) -> list[Path] | None:
    """Return the clean pictures of a folder, None if it is meant to have none."""
    return find_photographs([folder / "gt"]) if (folder / "gt").is_dir() else None


def match_names(lq: Sequence[Path], gt: Sequence[Path] | None) -> tuple[list[Pair], list[Path]]:
    """Pair degraded and clean pictures by name; return the pairs and the degraded ones left over."""
    if gt is None:
        return [Pair(path, None) for path in lq], []
    clean = {path.stem: path for path in gt}
    pairs, unmatched = [], []
    for path in lq:
        parts = path.stem.split("_")
        names = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))  # the longest beginning first
        counterpart = next((clean[name] for name in names if name in clean), None)
        if counterpart is None:
            unmatched.append(path)
        else:
            pairs.append(Pair(path, counterpart))
    return pairs, unmatched


def check_folders(data: LabelledFolders, *, progress: Callable[[list[Pair]], Iterable[Pair]] = list) -> dict[Path, str]:
    """Open every picture; return what is wrong with those that cannot serve, by path.

    Args:
        data: From `read_folders`.
        progress: Wraps the list of pairs, such as `tqdm`.
    """
    problems = {path: "has no counterpart in gt/" for path in data.unmatched}
    for pair in progress([pair for pairs in data.pairs.values() for pair in pairs]):
        try:
            read_pair(pair)
        except DcptError as error:
            problems[pair.lq] = str(error)
    return problems


def load_data(sources: Sequence[Path]) -> PackedCrops | LabelledFolders:
    """Load what a training command is given: a folder per degradation, or clean photographs to degrade.

    Raises:
        InvalidData: As `read_folders` and `load_crops`.
    """
    if len(sources) == 1 and has_labels(sources[0]):
        return read_folders(sources[0])
    return load_crops(sources)


def read_pair(pair: Pair) -> tuple[Tensor, Tensor | None]:
    """Read both pictures, each (1, 3, H, W) in [0, 1].

    Raises:
        InvalidImage: If one cannot be read.
        InvalidData: If their sizes differ.
    """
    lq, _ = read_picture(pair.lq)
    if pair.gt is None:
        return lq, None
    gt = lq if pair.gt == pair.lq else read_picture(pair.gt)[0]
    if gt.shape != lq.shape:
        sizes = " and ".join(f"{x.shape[-1]}x{x.shape[-2]}" for x in (lq, gt))
        raise InvalidData(f"expected {pair.lq} and {pair.gt} to be of one size, got {sizes}")
    return lq, gt


class FolderBatches:
    """The endless data stream of a folder per degradation; the batch of a step is a function of the step.

    Args:
        data: The pictures.
        recipe: Gives the labels, which must have all of the data's among them, and the seed.
        stage: Gives batch size, patch size and sampling weights.
        paired: Whether only pictures with a clean counterpart will do, as for restoration. Where
            they need not, a picture without one is given the clean picture of another.

    Raises:
        UnknownName: If the data have a label that the recipe has not.
        InvalidData: If there is no pair at all.
    """

    def __init__(self, data: LabelledFolders, recipe: Recipe, stage: Stage, *, paired: bool) -> None:
        for label in data.pairs:
            if label not in recipe.labels:
                raise unknown_name("label (a folder's name; the recipe lists them):", label, recipe.labels)
        self.seed, self.stage, self.labels = recipe.seed, stage, recipe.labels
        self.clean = [pair for pairs in data.pairs.values() for pair in pairs if pair.gt]
        if not self.clean:
            raise InvalidData(f"expected clean pictures in some gt/ or in clean/ of {data.root}, found none")
        self.pairs = {
            label: usable
            for label, pairs in data.pairs.items()
            if (usable := [pair for pair in pairs if pair.gt or not paired])
        }
        self.names = sorted(self.pairs)
        self.weights = torch.tensor([stage.sampling_weights.get(name, 1.0) for name in self.names])
        self.unreadable: set[Path] = set()

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        kinds = torch.multinomial(self.weights, self.stage.batch_size, replacement=True, generator=generator)
        names = [self.names[kind] for kind in kinds.tolist()]
        samples = [self._draw(self.pairs[name], generator) for name in names]
        lq, gt = (torch.cat(pictures) for pictures in zip(*samples, strict=True))
        return Batch(lq, gt, torch.tensor([self.labels.index(name) for name in names]))

    def _draw(self, pairs: Sequence[Pair], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        lq, gt = self._read_some(pairs, generator)
        if gt is None:
            _, clean = self._read_some(self.clean, generator)
            return self._cut((lq,), generator)[0], self._cut((clean,), generator)[0]
        return self._cut((lq, gt), generator)

    def _read_some(self, pairs: Sequence[Pair], generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Read a pair drawn at random; one that cannot be read is named once, and another drawn."""
        while True:
            pair = pairs[int(torch.randint(len(pairs), (), generator=generator))]
            try:
                return read_pair(pair)
            except DcptError as error:
                self._skip(pair, error)

    def _skip(self, pair: Pair, error: DcptError) -> None:
        if pair.lq not in self.unreadable:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        self.unreadable.add(pair.lq)
        total = sum(map(len, self.pairs.values()))
        if len(self.unreadable) > UNREADABLE_SHARE * total:
            raise InvalidData(f"{len(self.unreadable)} of {total} pictures cannot be used, the last one: {error}")

    def _cut(self, pictures: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Cut one random square out of all pictures, turned one of eight ways; the edges of small ones are repeated."""
        size = self.stage.patch_size
        height, width = pictures[0].shape[-2:]
        margin = max(0, size - height), max(0, size - width)
        top, left, turns, mirrored = (
            int(torch.randint(high, (), generator=generator))
            for high in (height + margin[0] - size + 1, width + margin[1] - size + 1, 4, 2)
        )
        patches = []
        for picture in pictures:
            whole = F.pad(picture, (0, margin[1], 0, margin[0]), mode="replicate") if any(margin) else picture
            patch = torch.rot90(whole[..., top : top + size, left : left + size], turns, (-2, -1))
            patches.append((patch.flip(-1) if mirrored else patch).contiguous())
        return tuple(patches)
