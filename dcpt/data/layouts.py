"""The published training and test sets of the all-in-one protocols, found as people have them on disk.

`SOURCES` is all there is to know: what each set is called, how its folders and files are named and
how many pictures it has. Folder names count without case, "-", "_" and spaces (`GOPRO_Large`,
`gopro-large`), below any number of other folders; symbolic links are followed. The names are those
of the official archives and of what AirNet, PromptIR, AdaIR, MoCE-IR, RAM, Restormer, NAFNet,
OneRestore and DCPT ask their users for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dcpt.data.folders import LabelledFolders, Pair, make_pairs
from dcpt.errors import InvalidData
from dcpt.image import FORMAT_OF_SUFFIX
from dcpt.recipe import load_recipe
from dcpt.registry import unknown_name

PUBLISHED = ("5d", "10d", "cdd11")
SPLITS = ("train", "test")
CAPTURE_GAP = 3  # DPDD's two photographs of a scene are at most so many shots apart


@dataclass(frozen=True)
class PublishedSet:
    """The pictures of a protocol in one split, labels in the recipe's order, pictures sorted by path.

    Attributes:
        name: "5d", "10d" or "cdd11".
        split: "train" or "test".
        root: The folder that was searched.
        pairs: Degraded pictures with clean ones, by label.
        clean: Clean pictures that we degrade ourselves, by label.
        incomplete: What is not as published, a line each: too few pictures or, in a test set, too
            many; degraded pictures without a clean one, which are left out.
    """

    name: str
    split: str
    root: Path
    pairs: dict[str, list[Pair]]
    clean: dict[str, list[Path]]
    incomplete: tuple[str, ...]

    def as_folders(self) -> LabelledFolders:
        """Return the set as data to train on; what is to be degraded is degraded on the fly."""
        made = {label: make_pairs(label, paths) for label, paths in self.clean.items()}
        return LabelledFolders(self.root, self.pairs | made)


class Split(NamedTuple):
    """A set in one split: its name, published number of pictures and possible places, of which the fullest counts."""

    name: str
    count: int
    places: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where the pictures of some labels come from; several labels share the clean pictures that we degrade.

    Attributes:
        lq: Names of the folder of degraded pictures in a place; "." is the place itself; none where we degrade.
        gt: The same of clean pictures.
        train: Its places are paths: `{a,b}` is either, `*` any letters, `?` any one, `**` any folders.
        test: The same.
        origin: Where the set is officially obtained.
        pairing: What the clean picture of a degraded one is called, see `clean_names`; "capture" is DPDD's.
    """

    labels: tuple[str, ...]
    lq: tuple[str, ...]
    gt: tuple[str, ...]
    train: Split
    test: Split
    origin: str
    pairing: str = "same"


SOURCES = (
    Source(
        ("rain",),
        lq=("rainy", "rain", "input", "."),
        gt=("norain", "gt", "clean", "target", "."),
        train=Split("Rain100L", 200, ("RainTrainL", "Rain100L/train/**", "Train/Derain")),
        test=Split("Rain100L", 100, ("Rain100L", "Rain100L/test/**")),
        origin="linked by AirNet and PromptIR as Train100L&Rain100L, by PReNet as RainTrainL and Rain100L",
        pairing="rain",
    ),
    Source(
        ("noise", "jpeg", "demosaic", "inpainting"),
        lq=(),
        gt=(".", "gt", "clean", "original_png", "original", "pristine_images"),
        train=Split("BSD400 and WED", 400 + 4744, ("{BSD400,WED,Waterloo*,exploration*}", "Train/Denoise")),
        test=Split("CBSD68", 68, ("{CBSD68,BSD68}",)),
        origin="Berkeley segmentation set, Waterloo exploration database; CBSD68-dataset on GitHub",
    ),
    Source(
        ("haze",),
        lq=("hazy", "haze", "input", "synthetic", "part?"),
        gt=("clear", "gt", "clear_images", "target", "original"),
        # The paper's count; the download of RESIDE-beta has 313,950, and all of them serve.
        train=Split("RESIDE OTS", 72135, ("OTS*", "RESIDE", "Train/Dehaze", "RESIDE-outdoor/train")),
        test=Split("SOTS outdoor", 500, ("*SOTS*/**/outdoor", "SOTS_outdoor", "test/Dehaze", "RESIDE-outdoor/test")),
        origin="the RESIDE site, OTS under RESIDE-beta, SOTS under RESIDE-standard",
        pairing="scene",
    ),
    Source(
        ("low_light",),
        lq=("low", "input"),
        gt=("high", "gt", "target"),
        train=Split("LOL v1", 485, ("our485", "{LOL,LOLv1,LOLdataset}/train", "Train/Enhance")),
        test=Split("LOL v1", 15, ("eval15", "{LOL,LOLv1,LOLdataset}/{test,eval}", "LOLv1_eval", "test/Enhance/LOL")),
        origin="the site of the BMVC 2018 paper on deep Retinex decomposition",
    ),
    Source(
        ("motion_blur",),
        lq=("blur", "input"),
        gt=("sharp", "target", "gt", "groundtruth"),
        train=Split("GoPro", 2103, ("{GOPRO_Large,GoPro}/train/**", "train/{GOPRO_Large,GoPro}", "Train/Deblur")),
        test=Split("GoPro", 1111, ("{GOPRO_Large,GoPro}/test/**", "test/**/{GOPRO_Large,GoPro}")),
        origin="the site of the CVPR 2017 paper on deep multi-scale deblurring, GOPRO_Large",
    ),
    Source(
        ("defocus_blur",),
        lq=("source", "inputC", "input"),
        gt=("target",),
        train=Split("DPDD", 350, ("train_c", "train/DPDD", "DPDD/train")),
        test=Split("DPDD", 76, ("test_c", "test/DPDD", "DPDD/test")),
        origin="defocus-deblurring-dual-pixel on GitHub, dd_dp_dataset_canon.zip",
        pairing="capture",
    ),
    Source(
        ("snow",),
        lq=("synthetic", "input"),
        gt=("gt", "target"),
        train=Split("Snow100K", 50000, ("all", "Snow100K/train", "Snow100K-training", "Snow100K")),
        test=Split("Snow100K", 50000, ("Snow100K-{S,M,L}",)),
        origin="the DesnowNet site, Snow100K-training and Snow100K-testset",
    ),
)
CDD11 = Source(  # a row for each label: its folder of degraded pictures has the label's name
    (),
    lq=(),
    gt=("clear",),
    train=Split("CDD-11", 1183, ("CDD*train*", "CDD*/train", "train")),
    test=Split("CDD-11", 200, ("CDD*test*", "CDD*/test", "test")),
    origin="linked by OneRestore on GitHub",
)


# A folder with pictures: its tidied path from the root's name on, such as "data/gopro/", its path, their names.
Folder = tuple[str, Path, list[str]]
# Pictures by place, folders below the one that `lq` or `gt` names, and name without extension.
Pictures = dict[tuple[str, str, str], Path]


class Found(NamedTuple):
    """What one place of a source has."""

    pairs: list[Pair]
    unmatched: list[Path]
    gt: list[Path]


def find_published(name: str, root: Path, *, split: str = "train") -> PublishedSet:
    """Find the published pictures of a protocol below one folder; none is opened.

    Args:
        name: "5d", "10d" or "cdd11"; labels and their order are those of the recipe.
        root: A folder that has the sets somewhere below it.
        split: "train" or "test".

    Raises:
        UnknownName: If there is no such protocol or split.
        InvalidData: If a set is missing; the message lists all that are.
    """
    if name not in PUBLISHED:
        raise unknown_name("published set", name, PUBLISHED)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if not root.is_dir():
        raise InvalidData(f"expected a folder with the published sets, found none at {root}")
    folders, labels = scan_tree(root), load_recipe(name).labels
    pairs, clean, missing, incomplete = {}, {}, [], []
    for source in list_sources(name, labels):
        published: Split = getattr(source, split)
        places = [read_place(source, place, folders) for place in published.places]
        found = max(places, key=lambda x: (len(x.pairs), len(x.unmatched) + len(x.gt)))
        pictures = found.pairs if source.lq else found.gt
        if not pictures:
            missing.append(describe_missing(source, published, found, root))
        incomplete += describe_gaps(source, published, found, exact=split == "test")
        (pairs if source.lq else clean).update({label: list(pictures) for label in source.labels})
    if missing:
        listed = " ".join(f"({number}) {line}" for number, line in enumerate(missing, 1))
        raise InvalidData(f"expected the {split} sets of {name} below {root}, missing are: {listed}")
    pairs, clean = ({label: x[label] for label in labels if label in x} for x in (pairs, clean))
    return PublishedSet(name, split, root, pairs, clean, tuple(incomplete))


def list_sources(name: str, labels: Sequence[str]) -> list[Source]:
    """Return the rows of the table for a protocol, each with those of its labels that the protocol has."""
    if name == "cdd11":
        return [replace(CDD11, labels=(label,), lq=(label,)) for label in labels]
    rows = [replace(row, labels=tuple(label for label in labels if label in row.labels)) for row in SOURCES]
    return [row for row in rows if row.labels]


def scan_tree(root: Path) -> list[Folder]:
    """List the folders that have pictures, in one walk; hidden ones and what macOS adds to archives are left out."""
    folders = []
    for path, below, files in os.walk(root, followlinks=True):
        below[:] = sorted(x for x in below if x[0] != "." and x != "__MACOSX" and not is_loop(Path(path, x)))
        pictures = sorted(x for x in files if x[0] != "." and os.path.splitext(x)[1].lower() in FORMAT_OF_SUFFIX)
        if pictures:
            parts = (Path(os.path.abspath(root)).name, *Path(path).relative_to(root).parts)
            folders.append(("".join(f"{tidy(part)}/" for part in parts), Path(path), pictures))
    return folders


def is_loop(folder: Path) -> bool:
    """Say whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.resolve() in {above.resolve() for above in folder.absolute().parents}


def tidy(name: str) -> str:
    """Return a folder's name without what spellings differ in."""
    return re.sub("[-_ ]", "", name.lower())


def folder_pattern(place: str, names: Sequence[str]) -> re.Pattern[str]:
    """Compile what matches the trail of a folder that has one of the names in a place, or lies below such a one."""
    signs = str.maketrans({"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"})
    parts = ("(?:[^/]+/)*?" if part == "**" else f"{tidy(part).translate(signs)}/" for part in place.split("/"))
    words = "|".join(tidy(name).translate(signs) for name in names if name != ".")
    optional = "?" if "." in names else ""
    # A name may be repeated, as in clear/clear_images/.
    return re.compile(f"(?P<home>(?:[^/]+/)*?{''.join(parts)})(?:(?:(?:{words})/)+(?P<below>.*)){optional}")


def collect(folders: Sequence[Folder], place: str, names: Sequence[str], prefix: str) -> Pictures:
    """List the pictures in the folders of these names; in the place itself (".") those whose names begin so."""
    pattern = folder_pattern(place, names)
    return {
        (match["home"], match["below"] or "", os.path.splitext(name)[0]): path / name
        for trail, path, pictures in folders
        if names and (match := pattern.fullmatch(trail))
        for name in pictures
        if match["below"] is not None or name.startswith(prefix)
    }


def read_place(source: Source, place: str, folders: Sequence[Folder]) -> Found:
    """Collect and pair what one place of a source has."""
    rain = source.pairing == "rain"  # its two kinds of pictures may share a folder
    lq = collect(folders, place, source.lq, "rain-" if rain else "")
    gt = collect(folders, place, source.gt, "norain-" if rain else "")
    renamed = source.pairing == "capture" and not {key[2] for key in lq} & {key[2] for key in gt}
    matched = match_captures(lq, gt) if renamed else match_names(lq, gt, source.pairing)
    matched.sort(key=lambda pair: pair.lq.as_posix())
    unmatched = [pair.lq for pair in matched if not pair.gt]
    return Found([pair for pair in matched if pair.gt], unmatched, sorted(gt.values(), key=Path.as_posix))


def clean_names(stem: str, pairing: str) -> tuple[str, ...]:
    """Return what the clean picture of a degraded one may be called, likeliest first, all without extension."""
    if pairing == "rain":  # rain-001 has norain-001, or its own name
        return f"no{stem}", stem
    return (stem, stem.partition("_")[0]) if pairing == "scene" else (stem,)  # 0001_0.8_0.2 has 0001


def match_names(lq: Pictures, gt: Pictures, pairing: str) -> list[Pair]:
    """Give each degraded picture the clean one of its place by name; `gt` is None where there is none.

    Folders within the folder of degraded pictures (GoPro's sequences) must be there for the clean
    ones too, unless these have no folders at all (OTS's part1 to part4).
    """
    flat = {home for home, _, _ in gt} - {home for home, below, _ in gt if below}
    pairs = []
    for (home, below, name), path in lq.items():
        keys = ((home, "" if home in flat else below, clean) for clean in clean_names(name, pairing))
        pairs.append(Pair(path, next((gt[key] for key in keys if key in gt), None)))
    return pairs


def match_captures(lq: Pictures, gt: Pictures) -> list[Pair]:
    """Pair DPDD's pictures, named by the camera's counter: the first source with the first target, and so on.

    That holds for whole sets: unless there are as many of both none is paired, nor are two far apart.
    """
    sources, targets = sorted(lq.values()), sorted(gt.values())
    if len(sources) != len(targets):
        return [Pair(path, None) for path in sources]
    shots = [[int("0" + re.sub(r"\D", "", path.stem)) for path in paths] for paths in (sources, targets)]
    return [Pair(x, y if abs(m - n) <= CAPTURE_GAP else None) for x, y, m, n in zip(sources, targets, *shots)]


def describe_gaps(source: Source, published: Split, found: Found, *, exact: bool) -> list[str]:
    """Say in a line each what is not as published; more pictures than that are wrong only if `exact`."""
    label, amount = ", ".join(source.labels), len(found.pairs if source.lq else found.gt)
    lines = []
    if amount < published.count:
        lines.append(f"{label}: {amount} of the {published.count} pictures of {published.name}")
    if amount > published.count and exact:
        lines.append(f"{label}: {amount} pictures where {published.name} has {published.count}; is it there twice?")
    if found.unmatched:
        names = ", ".join(path.name for path in found.unmatched[:3])
        lines.append(f"{label}: {len(found.unmatched)} of {published.name} without a clean picture, such as {names}")
    return lines


def describe_missing(source: Source, published: Split, found: Found, root: Path) -> str:
    """Say in one line which set is missing, what was looked for and what was found instead."""
    layout = published.places[0] + (f"/{{{source.lq[0]},{source.gt[0]}}}" if source.lq else "")
    line = f"{', '.join(source.labels)}: {published.name} as {layout} ({source.origin})"
    lq, gt = (
        f"{len(paths)} {kind} in {paths[0].parent.relative_to(root).as_posix()}/" if paths else f"no {kind}"
        for kind, paths in (("degraded", found.unmatched), ("clean", found.gt))
    )
    if found.unmatched or found.gt:
        line += f"; found {lq} and {gt}" + (" that do not match" if found.unmatched and found.gt else "")
    return line
