"""Pictures that are degraded already: a folder per degradation, its name the label.

photos/
  haze/lq/*.jpg  haze/gt/*.jpg     pairs: a clean picture has the name of its degraded one, or
                                   the beginning of it before an underscore (0001.png, 0001_0.8.png)
  snow/*_lq.png  snow/*_gt.png     the same in one folder
  rain/*.png                       no clean pictures: enough to learn what rain looks like
  noise/clean/*.jpg                clean pictures, to be degraded on the fly by the registered degradation
  clean/*.jpg                      nothing wrong with them
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.data.batches import Sample
from dcpt.data.crops import find_photographs
from dcpt.data.synthetic import MARGIN
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.degradations.base import uniform
from dcpt.errors import DcptError, InvalidData
from dcpt.image import read_picture
from dcpt.recipe import CLEAN, Recipe, Stage
from dcpt.registry import unknown_name

Picture = tuple["Pair", Tensor, Tensor | None]  # a pair, and both of it read

UNREADABLE_SHARE = 0.2  # a run stops when more than this share of the pictures cannot be used


@dataclass(frozen=True)
class Pair:
    """A degraded picture, and its clean counterpart if there is one.

    Attributes:
        lq: The degraded picture.
        gt: The clean one; the same file for a clean picture.
        made: Whether it is clean and to be degraded on the fly.
    """

    lq: Path
    gt: Path | None
    made: bool = False


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

    def split(self, share: float) -> tuple[LabelledFolders, LabelledFolders | None]:
        """Hold out a share of every label; return the rest and what is held out, None if too little is there.

        Which pictures are held out follows from their names, whatever else is added.
        """
        kept, held = {}, {}
        for label, pairs in self.pairs.items():
            scenes: dict[Path, list[Pair]] = {}
            for pair in sorted(pairs, key=lambda pair: hashlib.sha256((pair.gt or pair.lq).name.encode()).digest()):
                scenes.setdefault(pair.gt or pair.lq, []).append(pair)
            count, chosen = round(share * len(pairs)), []
            for scene in scenes.values():  # whole, for the pictures of a scene are alike
                if len(chosen) < count and len(chosen) + len(scene) < len(pairs):
                    chosen += scene
            kept[label] = [pair for pair in pairs if pair not in set(chosen)]
            if chosen:
                held[label] = chosen
        if not any(pair.gt for pairs in held.values() for pair in pairs):
            return self, None
        return replace(self, pairs=kept), replace(self, pairs=held, unmatched=())


def has_labels(folder: Path) -> bool:
    """Say whether a folder has a folder per degradation: `clean/` among them, or in one `lq/`, `clean/` or pairs."""
    if not folder.is_dir() or (folder / CLEAN).is_dir():
        return folder.is_dir()
    children = [child for child in folder.iterdir() if child.is_dir()]
    return any((child / "lq").is_dir() or (child / "clean").is_dir() or any(child.glob("*_lq.*")) for child in children)


def read_folders(root: Path) -> LabelledFolders:
    """List the pictures of a folder per degradation; none is opened.

    Raises:
        InvalidData: If there are no such folders, or one has no pictures.
        UnknownName: If clean pictures are to be degraded by a degradation that is not registered.
    """
    if not root.is_dir():
        raise InvalidData(f"expected a folder with a folder per degradation, found none at {root}")
    pairs: dict[str, list[Pair]] = {}
    unmatched: list[Path] = []
    for folder in sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")):
        found, lost = read_label(folder)
        if not found:
            raise InvalidData(f"expected pictures in {folder}, or pairs in its lq/ and gt/, found none")
        pairs[folder.name] = found
        unmatched += lost
    if not pairs:
        raise InvalidData(f"expected a folder per degradation in {root}, found no folders")
    return LabelledFolders(root, pairs, tuple(unmatched))


def read_label(folder: Path) -> tuple[list[Pair], list[Path]]:
    """List the pictures of one degradation; return them and those in `lq/` without a counterpart."""
    label, lq, clean = folder.name, folder / "lq", folder / "clean"
    if not lq.is_dir() and not clean.is_dir():
        return match_endings(find_photographs([folder]), label)
    pairs, unmatched = [], []
    if lq.is_dir():
        pairs, unmatched = match_names(find_photographs([lq]), find_counterparts(folder))
    if clean.is_dir():
        pairs += make_pairs(label, find_photographs([clean]))
    return pairs, unmatched


def match_endings(pictures: Sequence[Path], label: str) -> tuple[list[Pair], list[Path]]:
    """Pair pictures of one folder whose names end in _lq and _gt, if any do; else they have no counterparts."""
    degraded = {path.with_name(path.stem.removesuffix("_lq")): path for path in pictures if path.stem.endswith("_lq")}
    if not degraded:
        return [Pair(path, path if label == CLEAN else None) for path in pictures], []
    clean = {path.with_name(path.stem.removesuffix("_gt")): path for path in pictures if path.stem.endswith("_gt")}
    pairs = [Pair(path, clean[name]) for name, path in degraded.items() if name in clean]
    return pairs, [path for name, path in degraded.items() if name not in clean]


def make_pairs(label: str, clean: Sequence[Path]) -> list[Pair]:
    """Return pairs of clean pictures that are to be degraded on the fly.

    Raises:
        UnknownName: If the degradation is not registered.
    """
    if label not in list_degradations():
        raise unknown_name("degradation", label, list_degradations())
    return [Pair(path, path, made=True) for path in clean]


def find_counterparts(folder: Path) -> list[Path] | None:
    """Return the clean pictures of a folder, None if it is meant to have none."""
    return find_photographs([folder / "gt"]) if (folder / "gt").is_dir() else None


def match_names(lq: Sequence[Path], gt: Sequence[Path] | None) -> tuple[list[Pair], list[Path]]:
    """Pair degraded and clean pictures by name; return the pairs and the degraded ones left over.

    Where clean pictures lie in several folders, as sequences do, a degraded one's is in the folder of
    the same name.
    """
    if gt is None:
        return [Pair(path, None) for path in lq], []
    nested = len({path.parent for path in gt}) > 1

    def place(path: Path) -> str:
        return path.parent.name if nested else ""

    clean = {(place(path), path.stem): path for path in gt}
    pairs, unmatched = [], []
    for path in lq:
        parts = path.stem.split("_")
        keys = ((place(path), "_".join(parts[:count])) for count in range(len(parts), 0, -1))  # the longest first
        counterpart = next((clean[key] for key in keys if key in clean), None)
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


def cut_patches(pictures: tuple[Tensor, ...], size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Cut one random square out of all pictures, turned one of eight ways; the edges of small ones are repeated.

    Args:
        pictures: Pictures of one size, each (1, 3, H, W).
        size: Side of the square in pixels.
        generator: Source of all randomness, on the CPU.
    """
    height, width = pictures[0].shape[-2:]
    missing = max(0, size - height), max(0, size - width)
    top, left, turns, mirrored = (
        int(torch.randint(high, (), generator=generator))
        for high in (height + missing[0] - size + 1, width + missing[1] - size + 1, 4, 2)
    )
    patches = []
    for picture in pictures:
        whole = F.pad(picture, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else picture
        patch = torch.rot90(whole[..., top : top + size, left : left + size], turns, (-2, -1))
        patches.append((patch.flip(-1) if mirrored else patch).contiguous())
    return tuple(patches)


class FolderPictures:
    """Patches of the pictures of a folder per degradation.

    Args:
        data: The pictures.
        recipe: Gives the labels, which must have all of the data's among them.
        stage: Gives patch size and sampling weights.
        paired: Whether only pictures with a clean counterpart will do, as for restoration. Where
            they need not, a picture without one is given the clean picture of another.
        limited: Whether it is an error that too many pictures cannot be used, and not just that none can.

    Raises:
        UnknownName: If the data have a label that the recipe has not.
        InvalidData: If there is no pair at all.
    """

    def __init__(
        self, data: LabelledFolders, recipe: Recipe, stage: Stage, *, paired: bool, limited: bool = True
    ) -> None:
        for label in data.pairs:
            if label not in recipe.labels:
                raise unknown_name("label (a folder's name; the recipe lists them):", label, recipe.labels)
        self.patch_size, self.labels = stage.patch_size, recipe.labels
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
        self.limited = limited

    def draw(self, number: int, seed: int) -> Sample:
        """Cut a patch out of a picture that can be read.

        Raises:
            InvalidData: If too many cannot.
        """
        generator = torch.Generator().manual_seed(seed)
        skipped: dict[str, str] = {}
        name, (pair, lq, gt) = self._draw_label(generator, skipped)
        if pair.made:
            (gt,) = cut_patches((lq,), self.patch_size + 2 * MARGIN, generator)
            lq = apply_degradations(gt, {name: uniform(generator, 1)}, generator)
            lq, gt = (x[..., MARGIN:-MARGIN, MARGIN:-MARGIN] for x in ((lq * 255).round() / 255, gt))
        elif gt is None:
            _, _, clean = self._read_some(self.clean, generator, skipped) or self._refuse(skipped)
            lq, gt = (cut_patches((picture,), self.patch_size, generator)[0] for picture in (lq, clean))
        else:
            lq, gt = cut_patches((lq, gt), self.patch_size, generator)
        return Sample(lq, gt, self.labels.index(name), skipped)

    def _draw_label(self, generator: torch.Generator, skipped: dict[str, str]) -> tuple[str, Picture]:
        """Draw a label and read one of its pictures; where none of them can be read, draw another label."""
        weights = self.weights.clone()
        while weights.any():
            kind = int(torch.multinomial(weights, 1, generator=generator))
            picture = self._read_some(self.pairs[self.names[kind]], generator, skipped)
            if picture:
                return self.names[kind], picture
            weights[kind] = 0
        return self._refuse(skipped)

    def _read_some(self, pairs: Sequence[Pair], generator: torch.Generator, skipped: dict[str, str]) -> Picture | None:
        """Read pairs in random order until one can be read; note the others. None if none can."""
        for index in torch.randperm(len(pairs), generator=generator).tolist():
            try:
                return pairs[index], *read_pair(pairs[index])
            except DcptError as error:
                skipped[str(pairs[index].lq)] = str(error)
                self._count(pairs[index], error)
        return None

    def _refuse(self, skipped: dict[str, str]) -> NoReturn:
        raise InvalidData(f"none of {len(skipped)} pictures can be used, the last one: {[*skipped.values()][-1]}")

    def _count(self, pair: Pair, error: DcptError) -> None:
        self.unreadable.add(pair.lq)
        total = sum(map(len, self.pairs.values()))
        if self.limited and len(self.unreadable) > UNREADABLE_SHARE * total:
            raise InvalidData(
                f"{len(self.unreadable)} of {total} pictures cannot be used ('dcpt data check' names them), "
                f"the last one: {error}"
            )
