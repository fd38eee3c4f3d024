"""Training data of several kinds side by side: clean photographs, a folder per degradation, packed crops, shards."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dcpt.data.batches import Batches, Source
from dcpt.data.crops import PackedCrops, load_crops
from dcpt.data.folders import FolderPictures, LabelledFolders, has_labels, read_folders
from dcpt.data.shards import ShardedPictures, StreamedPictures, list_shards, names_shards
from dcpt.data.synthetic import SyntheticPictures
from dcpt.degradations import list_degradations
from dcpt.errors import InvalidSetting
from dcpt.recipe import CLEAN, Recipe, Stage

Part = PackedCrops | LabelledFolders | ShardedPictures


@dataclass(frozen=True)
class Mixture:
    """What a run is trained on.

    Attributes:
        parts: Clean photographs, folders per degradation and shards.
        weights: How often a picture is drawn from each part, relative to the others.
    """

    parts: tuple[Part, ...]
    weights: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that folders give, "clean" last."""
        found = {label for part in self.parts if isinstance(part, LabelledFolders) for label in part.labels}
        return tuple(sorted(found, key=lambda label: (label == CLEAN, label)))

    @property
    def synthesises(self) -> bool:
        """Whether some of it is clean photographs, degraded as the recipe says; shards may always hold some."""
        return not all(isinstance(part, LabelledFolders) for part in self.parts)

    @property
    def manifest_hash(self) -> str:
        """One hash of which pictures are in here; that of the part if there is only one."""
        if len(self.parts) == 1:
            return self.parts[0].manifest_hash
        lines = [f"{part.manifest_hash} {weight}" for part, weight in zip(self.parts, self.weights, strict=True)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def split(self, share: float) -> tuple[Mixture, Mixture | None]:
        """Hold out a share of every part; return the rest and what is held out, None if too little is there."""
        kept, held = zip(*(part.split(share) for part in self.parts), strict=True)
        found = [(part, weight) for part, weight in zip(held, self.weights, strict=True) if part is not None]
        rest = Mixture(kept, self.weights)
        return rest, Mixture(*map(tuple, zip(*found, strict=True))) if found else None


Data = str | Path | Part | Mixture


def load_data(data: Data | Sequence[Data], *, weights: Sequence[float] | None = None) -> Mixture:
    """Load what a run is to be trained on.

    Args:
        data: Paths or loaded data: folders of clean photographs, files of packed crops, folders with a
            folder per degradation, tar shards (files, `https://` or `hf://`, with braces if there are
            many). Without weights all folders of clean photographs count as one, and so do all shards.
        weights: How often a picture is drawn from each, relative to the others.

    Raises:
        InvalidSetting: If there is not one weight for each, or they are no positive numbers.
        InvalidData: As `read_folders`, `load_crops` and `list_shards`.
        MissingExtra: As `list_shards`.
    """
    if isinstance(data, Mixture):
        return data
    given = [data] if isinstance(data, str | Path | Part) else list(data)
    if not given or any(isinstance(entry, Mixture) for entry in given):
        raise InvalidSetting(f"expected paths or loaded parts as data, got {len(given)}, or a mixture among them")
    if weights is not None:
        if len(weights) != len(given) or not all(0 < weight < math.inf for weight in weights):
            raise InvalidSetting(f"expected a positive weight for each of {len(given)} data, got {list(weights)}")
        return Mixture(tuple(_load_part([entry]) for entry in given), tuple(weights))
    shards, folders = ([entry for entry in given if is_one(entry)] for is_one in (_is_shards, _is_plain_folder))
    parts = [_load_part([entry]) for entry in given if not (_is_shards(entry) or _is_plain_folder(entry))]
    parts += [_load_part(entries) for entries in (shards, folders) if entries]
    return Mixture(tuple(parts), (1.0,) * len(parts))


def _is_shards(entry: Data) -> bool:
    return isinstance(entry, (str, Path)) and names_shards(entry)


def _is_plain_folder(entry: Data) -> bool:
    if not isinstance(entry, (str, Path)) or names_shards(entry):
        return False
    return Path(entry).suffix != ".safetensors" and not has_labels(Path(entry))


def _load_part(entries: Sequence[Data]) -> Part:
    if not isinstance(entries[0], (str, Path)):
        return entries[0]
    if names_shards(entries[0]):
        return list_shards(entries)
    paths = [Path(entry) for entry in entries]
    return read_folders(paths[0]) if has_labels(paths[0]) else load_crops(paths)


def make_batches(
    data: Mixture,
    recipe: Recipe,
    stage: Stage,
    device: torch.device | str = "cpu",
    *,
    paired: bool,
    members: Sequence[int] | None = None,
    limited: bool = True,
) -> Batches:
    """Return the data stream of a stage.

    Args:
        data: What to draw from.
        recipe: Gives labels and seed.
        stage: Gives sizes and shares.
        device: Where batches are wanted. Photographs are degraded there, too, unless there are
            workers, which prepare everything on the CPU.
        paired: Whether every degraded picture needs its clean counterpart.
        members: Which pictures of every batch to make, by default all.
        limited: Whether too many unreadable pictures stop the stream.
    """
    place = "cpu" if stage.workers else device
    known = [name for name in recipe.degradations if name in list_degradations()]
    sources: list[Source] = []
    for part in data.parts:
        if isinstance(part, LabelledFolders):
            sources.append(FolderPictures(part, recipe, stage, paired=paired, limited=limited))
        elif isinstance(part, ShardedPictures):
            sources.append(StreamedPictures(part, recipe, stage, names=known))
        else:
            names = known if data.labels else recipe.degradations
            sources.append(SyntheticPictures(part.to(torch.device(place)), recipe, stage, names=names))
    return Batches(sources, data.weights, seed=recipe.seed, batch_size=stage.batch_size, members=members, device=place)
