"""What a model is evaluated on: pictures with and without degradation, by label, made or read one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dcpt.data.crops import find_photographs
from dcpt.data.folders import LabelledFolders, Pair, read_folders, read_pair
from dcpt.data.layouts import PUBLISHED, PublishedSet, find_published
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.errors import InvalidData
from dcpt.image import read_picture
from dcpt.protocols import PROTOCOLS, Protocol, find_protocol, to_8bit
from dcpt.recipe import CLEAN, load_recipe
from dcpt.registry import unknown_name
from dcpt.report import NOISE_25

SYNTHETIC = ("synthetic-10d", "synthetic-5d", "synthetic-cdd11")
BENCHMARKS = (*PUBLISHED, *SYNTHETIC)
SYNTHETIC_VERSION = 1  # any change to the degradations or to how they are drawn makes another
SYNTHETIC_SIZE = 256
MIXTURE_SHARE = 0.7  # of the severity, for each degradation of a mixture
_MIXTURE_SEEDS = 50  # thousands before the first seed of a mixture
_GOLDEN_RATIO = 0.6180339887
_CDD_NAMES = {"low": "low_light"}  # what CDD-11 calls otherwise


@dataclass(frozen=True)
class Case:
    """One picture of a benchmark.

    Attributes:
        label: Its degradation.
        name: What it is called, unique within the label.
        load: Gives the degraded and the clean picture, each (1, 3, H, W), in [0, 1] or, as some
            protocols have noise, beyond.
    """

    label: str
    name: str
    load: Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Benchmark:
    """A named list of cases and how they are measured.

    Attributes:
        name: Such as "5d" or "synthetic-10d".
        data: Name of the set of pictures.
        description: What determines the numbers besides model and pictures, in words.
        protocol: How pictures are cut and results measured.
        cases: The pictures, by label.
    """

    name: str
    data: str
    description: str
    protocol: Protocol
    cases: tuple[Case, ...]


def synthetic_labels(name: str) -> list[str]:
    """Return the labels of a frozen synthetic benchmark.

    Raises:
        UnknownName: If there is no such benchmark.
    """
    labels = {
        "synthetic-10d": [*list_degradations(), NOISE_25, CLEAN],
        "synthetic-5d": ["rain", NOISE_25, "haze", "low_light", "motion_blur", CLEAN],
        "synthetic-cdd11": [*load_recipe("cdd11").labels, CLEAN],
    }
    if name not in labels:
        raise unknown_name("benchmark", name, labels)
    return labels[name]


def load_benchmark(
    name: str, data: Path | None = None, *, protocol: str = "dcpt", limit: int | None = None
) -> Benchmark:
    """Return a benchmark by name, or the pairs of a folder as one.

    Args:
        name: "5d", "10d", "cdd11", "synthetic-10d", "synthetic-5d", "synthetic-cdd11", or the path of
            a folder with a folder per degradation.
        data: Folder of the published test sets, or of clean pictures.
        protocol: "dcpt" or "airnet"; the synthetic benchmarks have only the first.
        limit: Use only so many pictures of each degradation.

    Raises:
        UnknownName: If there is no such benchmark or protocol.
        InvalidData: If pictures are missing, or no folder is given where one is needed.

    Warns:
        UserWarning: For every published set that is incomplete.
    """
    chosen = find_protocol(protocol)
    if name not in BENCHMARKS and Path(name).is_dir():
        return folder_benchmark(read_folders(Path(name)), chosen, limit=limit)
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    if data is None:
        raise InvalidData(f"expected a folder of pictures for {name}; name it with --data")
    if name in PUBLISHED:
        found = find_published(name, data, split="test")
        for line in found.incomplete:
            warnings.warn(f"incomplete: {line}", stacklevel=2)
        # The test of CDD-11 measures the float output in both families.
        return published_benchmark(found, replace(chosen, rounded=chosen.rounded and name != "cdd11"), limit=limit)
    return synthetic_benchmark(name, load_clean_pictures(data, limit=limit), data=data.name)


def synthetic_benchmark(name: str, pictures: Sequence[Tensor], *, data: str = "") -> Benchmark:
    """Return a frozen synthetic benchmark over clean pictures.

    It needs nothing but these: each is degraded at a fixed seed, severities spread evenly over
    [0, 1] from picture to picture. Input and output are rounded to 8 bits; PSNR and SSIM follow
    the `dcpt` protocol. Any change to the degradations changes the benchmark, so it has a version.

    Args:
        name: "synthetic-10d", "synthetic-5d" or "synthetic-cdd11".
        pictures: From `load_clean_pictures`.
        data: Name of the set they are.

    Raises:
        UnknownName: If there is no such benchmark.
    """
    description = f"{name}, version {SYNTHETIC_VERSION}: {SYNTHETIC_SIZE}x{SYNTHETIC_SIZE} centre crops, "
    description += "8-bit input and output, RGB"
    cases = [
        Case(label, str(index), partial(_degraded_pair, gt, label, index))
        for label in synthetic_labels(name)
        for index, gt in enumerate(pictures)
    ]
    return Benchmark(name, data, description, PROTOCOLS["dcpt"], tuple(cases))


def _degraded_pair(gt: Tensor, label: str, index: int) -> tuple[Tensor, Tensor]:
    return degrade_frozen(gt, label, index), gt


def load_clean_pictures(folder: Path, *, size: int = SYNTHETIC_SIZE, limit: int | None = None) -> list[Tensor]:
    """Read the centre crops of all pictures below a folder, each (1, 3, size, size) in [0, 1].

    Raises:
        InvalidData: If there is none, or one is smaller than the crop.
        InvalidImage: If one cannot be read.
    """
    crops = []
    for path in find_photographs([folder])[:limit]:
        pixels, _ = read_picture(path)
        height, width = pixels.shape[-2:]
        if min(height, width) < size:
            raise InvalidData(f"expected pictures of at least {size}x{size}, got {width}x{height} in {path}")
        top, left = (height - size) // 2, (width - size) // 2
        crops.append(pixels[..., top : top + size, left : left + size])
    if not crops:
        raise InvalidData(f"expected clean pictures in {folder}, found none")
    return crops


def degrade_frozen(gt: Tensor, label: str, index: int) -> Tensor:
    """Degrade the benchmark's picture number `index`, always in the same way; in whole grey levels."""
    if label == CLEAN:
        return to_8bit(gt)
    severity = (index + 1) * _GOLDEN_RATIO % 1
    if label == NOISE_25:
        chain, seed = {"noise": 24 / 49}, 1000 * list_degradations().index("noise") + index
    elif label in list_degradations():
        chain, seed = {label: severity}, 1000 * list_degradations().index(label) + index
    else:
        names = [_CDD_NAMES.get(part, part) for part in label.split("_")]
        chain = {name: severity * (MIXTURE_SHARE if len(names) > 1 else 1) for name in names}
        seed = 1000 * (_MIXTURE_SEEDS + load_recipe("cdd11").labels.index(label)) + index
    return to_8bit(apply_degradations(gt, chain, torch.Generator(gt.device).manual_seed(seed)))


def published_benchmark(found: PublishedSet, protocol: Protocol, *, limit: int | None = None) -> Benchmark:
    """Return the benchmark of a paper's table.

    Args:
        found: Its test sets.
        protocol: How to cut and measure.
        limit: Use only so many pictures of each label.

    Noise has sigma 25 and is made as the protocol says; where the table's other test pictures are
    not published, as with JPEG, mosaics and scratches, they are made as in `synthetic-10d`.
    """
    cases = []
    for label in dict.fromkeys((*found.pairs, *found.clean)):
        for pair in found.pairs.get(label, [])[:limit]:
            cases.append(Case(label, _name(pair.lq, found.root), partial(_read_case, pair, protocol)))
        for index, path in enumerate(found.clean.get(label, [])[:limit]):
            cases.append(Case(label, _name(path, found.root), partial(_make_case, path, label, index, protocol)))
    return Benchmark(found.name, found.root.name, describe(found.name, protocol), protocol, tuple(cases))


def folder_benchmark(data: LabelledFolders, protocol: Protocol, *, limit: int | None = None) -> Benchmark:
    """Return all pairs of a folder per degradation as a benchmark."""
    cases = [
        Case(label, _name(pair.lq, data.root), partial(_read_case, pair, protocol))
        for label in data.labels
        for pair in [pair for pair in data.pairs[label] if pair.gt][:limit]
    ]
    if not cases:
        raise InvalidData(f"expected degraded pictures with clean ones in {data.root}, found none")
    return Benchmark("pairs", data.root.name, describe("pairs", protocol), protocol, tuple(cases))


def describe(name: str, protocol: Protocol) -> str:
    """Say in words how a benchmark is measured."""
    size = f"centre crops to multiples of {protocol.crop_multiple}" if protocol.crop_multiple > 1 else "whole pictures"
    output = "8-bit output" if protocol.rounded else "float output"
    return f"{name}, protocol {protocol.name}: {size}, {output}, RGB, {protocol.ssim_window} SSIM"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read_case(pair: Pair, protocol: Protocol) -> tuple[Tensor, Tensor]:
    lq, gt = read_pair(pair)
    return protocol.fit(lq), protocol.fit(gt)


def _make_case(path: Path, label: str, index: int, protocol: Protocol) -> tuple[Tensor, Tensor]:
    gt = protocol.fit(read_picture(path)[0])
    return (protocol.add_noise(gt, 25) if label == "noise" else degrade_frozen(gt, label, index)), gt
