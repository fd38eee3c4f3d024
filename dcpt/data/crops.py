"""Clean photographs as one packed array of equal crops, and fast random patches from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from dcpt.checkpoint import write_tensors
from dcpt.errors import DcptError, InvalidData
from dcpt.image import FORMAT_OF_SUFFIX, open_image


@dataclass(frozen=True)
class PackedCrops:
    """Equal square crops of clean photographs.

    Attributes:
        pixels: (N, S, S, 3), uint8, RGB.
        files: sha256 of each source file by its path below the folders: the data manifest.
    """

    pixels: Tensor
    files: dict[str, str]

    @property
    def manifest_hash(self) -> str:
        """One hash of which photographs are in here; independent of paths and order."""
        return hashlib.sha256("\n".join(sorted(self.files.values())).encode()).hexdigest()

    def to(self, device: torch.device) -> PackedCrops:
        """Return the crops on another device, so that patches are cut there."""
        return PackedCrops(self.pixels.to(device), self.files)

    def split(self, share: float) -> tuple[PackedCrops, PackedCrops | None]:
        """Hold out the last crops; return the rest and what is held out, None if too little is there.

        Crops of one photograph lie together, so that at most one photograph is in both.
        """
        count = round(share * len(self.pixels))
        if not 0 < count < len(self.pixels):
            return self, None
        return replace(self, pixels=self.pixels[:-count]), replace(self, pixels=self.pixels[-count:])

    def save(self, path: Path) -> None:
        """Write all crops and the manifest to one safetensors file, atomically."""
        write_tensors(path, {"pixels": self.pixels}, {"files": json.dumps(self.files)})


def pack_crops(folders: Sequence[Path], *, crop_size: int = 256, min_detail: float = 4.0) -> PackedCrops:
    """Cut every photograph below the folders into square crops, at full and at half size.

    Args:
        folders: Folders of clean photographs, searched recursively.
        crop_size: Side of a crop in pixels; smaller photographs are left out.
        min_detail: Crops whose grey levels spread less than this (standard deviation, of 255)
            are left out: there is nothing to learn from an empty sky.

    Raises:
        InvalidData: If a folder is missing or no photograph is large enough.
    """
    crops, files = [], {}
    for path in find_photographs(folders):
        try:
            picture = open_image(path).convert("RGB")
        except DcptError:
            continue
        half = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.LANCZOS)
        cuts = [c for p in (picture, half) for c in cut(np.asarray(p), crop_size) if c.std() >= min_detail]
        if cuts:
            crops += cuts
            files[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    if not crops:
        raise InvalidData(
            f"expected photographs of at least {crop_size}x{crop_size} pixels below "
            f"{', '.join(map(str, folders))}, found none"
        )
    common = os.path.commonpath(folders)
    files = {Path(os.path.relpath(path, common)).as_posix(): digest for path, digest in files.items()}
    return PackedCrops(torch.from_numpy(np.stack(crops)), dict(sorted(files.items())))


def load_crops(sources: Sequence[Path], *, crop_size: int = 256) -> PackedCrops:
    """Load one packed file (.safetensors), or pack folders of photographs in memory.

    Raises:
        InvalidData: If the file is not one that `PackedCrops.save` wrote, or as `pack_crops`.
    """
    if len(sources) != 1 or sources[0].suffix != ".safetensors":
        return pack_crops(sources, crop_size=crop_size)
    try:
        with safe_open(sources[0], framework="pt") as file:
            return PackedCrops(file.get_tensor("pixels"), json.loads(file.metadata()["files"]))
    except Exception as error:  # safetensors raises its own kinds, KeyError, OSError ...
        raise InvalidData(f"expected a file written by 'dcpt pack', got {sources[0]}: {error}") from None


def find_photographs(folders: Sequence[Path]) -> list[Path]:
    """List the picture files below the folders, sorted by name, so that the order is everywhere the same."""
    for folder in folders:
        if not folder.is_dir():
            raise InvalidData(f"expected a folder of photographs, found none at {folder}")
    paths = {path for folder in folders for path in folder.rglob("*")}
    found = [path for path in paths if path.suffix.lower() in FORMAT_OF_SUFFIX and path.is_file()]
    return sorted(found, key=lambda path: (path.name, str(path)))


def cut(pixels: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut (H, W, 3) into squares that cover it: evenly spaced, overlapping where they must."""
    height, width = pixels.shape[:2]
    return [
        pixels[top : top + size, left : left + size]
        for top in positions(height, size)
        for left in positions(width, size)
    ]


def positions(length: int, size: int) -> list[int]:
    """Return the starts of the fewest windows of `size` that cover `length`; none if it is shorter."""
    if length < size:
        return []
    return np.linspace(0, length - size, -(-length // size)).round().astype(int).tolist()


def sample_patches(crops: PackedCrops, batch_size: int, patch_size: int, generator: torch.Generator) -> Tensor:
    """Cut random patches and turn each to one of the eight orientations of a square.

    All of it is three index operations on the device of the crops, so that a GPU feeds itself.

    Args:
        crops: Where to cut, on the device of the generator.
        batch_size: Number of patches.
        patch_size: Side of a patch in pixels, at most that of the crops.
        generator: Source of all randomness.

    Returns:
        Patches, (B, 3, P, P), float32 in [0, 1], channels-last.

    Raises:
        InvalidData: If the crops are smaller than the patches.
    """
    count, size = crops.pixels.shape[:2]
    if size < patch_size:
        raise InvalidData(f"expected crops of at least {patch_size} pixels, got {size}; pack larger ones")

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch_size, 1), generator=generator, device=generator.device)

    offset = torch.arange(patch_size, device=generator.device)
    index, top, left = draw(count), draw(size - patch_size + 1), draw(size - patch_size + 1)
    rows = top + torch.where(draw(2) == 1, offset.flip(0), offset)
    columns = left + torch.where(draw(2) == 1, offset.flip(0), offset)
    patches = crops.pixels[index[:, :, None], rows[:, :, None], columns[:, None, :]]
    turned = draw(2).view(-1, 1, 1, 1) == 1
    patches = torch.where(turned, patches.transpose(1, 2), patches)
    return patches.permute(0, 3, 1, 2).float() / 255
