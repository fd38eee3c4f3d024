"""Pictures streamed from tar shards, on disk, behind https:// or on the Hub, as webdataset names what is in them.

train-0000.tar
  0001.jpg                                a clean photograph, to be degraded on the fly as the recipe says
  0002.lq.png  0002.gt.png  0002.cls      a pair, and the name of its degradation (in .cls, .txt or .label.txt)

Consecutive pictures of a run come from one shard, which is read whole; every process and worker
keeps one in memory, its pictures still compressed.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dcpt.data.batches import Sample, picture_seed
from dcpt.data.folders import UNREADABLE_SHARE, cut_patches
from dcpt.data.synthetic import MARGIN, Synthesis
from dcpt.errors import InvalidData, InvalidImage, MissingExtra
from dcpt.image import FORMAT_OF_SUFFIX, read_picture
from dcpt.recipe import Recipe, Stage
from dcpt.registry import unknown_name
from dcpt.repository import first_line

BLOCK = 4096  # consecutive pictures of a run that come from one shard
ENOUGH = 200  # pictures to have tried before the share that cannot be used means anything
LABEL_KEYS = ("cls", "txt", "label.txt")


@dataclass(frozen=True)
class ShardedPictures:
    """The pictures in some tar shards; none is opened before it is needed.

    Attributes:
        urls: Their paths and addresses, sorted. What lies behind them must not change during a run;
            on the Hub, `hf://datasets/ORG/NAME@REVISION/...` makes sure of it.
    """

    urls: tuple[str, ...]

    @property
    def manifest_hash(self) -> str:
        """One hash of the shards' file names alone, for nothing is fetched: the same wherever they lie."""
        names = [url.partition("?")[0].rpartition("/")[2] for url in self.urls]
        return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()

    def split(self, share: float) -> tuple[ShardedPictures, ShardedPictures | None]:
        """Hold out the last shards, whole; return the rest and what is held out, None if too little is there."""
        count = round(share * len(self.urls))
        if not 0 < count < len(self.urls):
            return self, None
        return ShardedPictures(self.urls[:-count]), ShardedPictures(self.urls[-count:])


def names_shards(entry: str | Path) -> bool:
    """Say whether this is an address, or a path that ends in .tar or has .tar and braces."""
    text = restore_address(entry)
    return "://" in text or text.endswith(".tar") or (".tar" in text and "{" in text)


def restore_address(entry: str | Path) -> str:
    """Return a path or address as text, with the slash that `Path` takes from hf:// and https://."""
    text = entry if isinstance(entry, str) and "://" in entry else Path(entry).as_posix()
    return re.sub(r"^(hf|https?):/(?!/)", r"\1://", text)


def list_shards(entries: Sequence[str | Path]) -> ShardedPictures:
    """List the shards that paths and addresses name, such as `hf://datasets/ORG/NAME/train-{0000..0099}.tar`.

    Raises:
        InvalidData: If one names no tar files, or none that are on this machine.
        MissingExtra: If webdataset is not installed.
    """
    urls: set[str] = set()
    for text in map(restore_address, entries):
        try:
            urls.update(import_webdataset().shardlists.expand_urls(text))
        except (AssertionError, ValueError) as error:  # an unknown ${variable}, an open brace
            raise InvalidData(f"expected tar files, such as train-{{0000..0099}}.tar, got {text}: {error}") from None
    for url in urls:
        if ".tar" not in url or not (re.match("(hf|https?)://", url) or Path(url).is_file()):
            raise InvalidData(
                f"expected tar files, such as hf://datasets/ORG/NAME/train-{{0..9}}.tar, found none at {url}"
            )
    return ShardedPictures(tuple(sorted(urls)))


def import_webdataset() -> Any:
    """Return the package, or raise MissingExtra."""
    try:
        import webdataset
    except ImportError:
        raise MissingExtra("tar shards need webdataset; install it with: pip install 'dcpt[stream]'") from None
    return webdataset


def read_shard(url: str) -> list[dict[str, Any]]:
    """Read a whole shard; return the files of each picture by what follows the first dot of their names.

    Raises:
        InvalidData: If it cannot be fetched, or is no tar file of pictures.
        MissingExtra: If webdataset is not installed.
    """
    reader = import_webdataset().tariterators
    try:
        content = fetch(url)
    except Exception as error:  # the Hub's client lets errors of its HTTP library through, which are of many kinds
        raise InvalidData(
            f"cannot fetch the shard {url} ({first_line(error)}); check address, access and connection, "
            "then repeat the command to go on"
        ) from None
    try:
        pictures = list(reader.group_by_keys(reader.tar_file_expander([{"url": url, "stream": io.BytesIO(content)}])))
    except Exception as error:  # tarfile, zlib and webdataset raise each their own kinds
        reason = re.split("\n| @ ", str(error.args[0]))[0]  # without what webdataset adds
        raise InvalidData(
            f"expected a whole tar file, got something else in {url} ({reason}); replace it and repeat the command"
        ) from None
    if not pictures:
        raise InvalidData(f"expected pictures in the shard {url}, found none; replace it and repeat the command")
    return pictures


def fetch(url: str) -> bytes:
    """Return the content of a file on this machine, on the Hub or behind HTTP; what is cut off is tried again."""
    # Not with webdataset.gopen: it needs the program curl, waits forever for a server that stalls,
    # and sends the Hub an invalid token where the user has none.
    if url.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        with HfFileSystem().open(url, block_size=0) as file:  # 0: one stream instead of blocks
            return file.read()
    if url.startswith("http"):
        from huggingface_hub import constants
        from huggingface_hub.utils import http_backoff

        answer = http_backoff("GET", url, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        return answer.raise_for_status().content
    return Path(url).read_bytes()


def find_pictures(files: Mapping[str, Any]) -> list[bytes]:
    """Return the clean photograph among the files of one name, or the degraded and the clean picture.

    Raises:
        InvalidData: If there is something else.
    """
    keys = [key for key in files if f".{key.rpartition('.')[2]}" in FORMAT_OF_SUFFIX]
    by_role = {key.rpartition(".")[0]: files[key] for key in keys}
    if len(keys) == 1 and "lq" not in by_role:
        return [files[keys[0]]]
    if len(keys) == 2 and set(by_role) == {"lq", "gt"}:
        return [by_role["lq"], by_role["gt"]]
    raise InvalidData(f"expected one picture, or one as lq and one as gt, got {' and '.join(keys) or 'none'}")


class StreamedPictures:
    """Patches of the pictures in shards, all made on the CPU.

    Each shard has its turn once before any comes again, in an order that follows from the recipe's
    seed; within a shard, pictures are drawn alike.

    Args:
        data: The shards.
        recipe: Gives the labels and the seed.
        stage: Gives patch size and, for clean photographs, what `Synthesis` needs.
        names: The degradations to make of clean photographs.
    """

    def __init__(self, data: ShardedPictures, recipe: Recipe, stage: Stage, *, names: Sequence[str]) -> None:
        self.urls, self.recipe, self.stage, self.names = data.urls, recipe, stage, names
        self.url, self.pictures = "", []
        self.tried = self.unusable = 0

    def draw(self, number: int, seed: int) -> Sample:
        """Cut a patch out of a picture that can be used.

        Raises:
            InvalidData: If the shard cannot be read, or too many of its pictures cannot be used.
            InvalidSetting: If there is a clean photograph and no degradation to make.
            UnknownName: If a pair has a label that the recipe has not.
        """
        pictures = self._open(number // BLOCK)
        generator = torch.Generator().manual_seed(seed)
        skipped: dict[str, str] = {}
        while True:
            files = pictures[int(torch.randint(len(pictures), (), generator=generator))]
            name = f"{files['__url__']}/{files['__key__']}"
            self.tried += 1
            try:
                return replace(self._make(files, name, generator, seed), skipped=skipped)
            except (InvalidData, InvalidImage) as error:
                skipped[name] = f"{name}: {error}"
                self._count(skipped[name])

    def _open(self, block: int) -> list[dict[str, Any]]:
        turn, place = divmod(block, len(self.urls))
        # Of another seed than any picture has, lest equal bits tie shards to what is drawn from them.
        order = torch.Generator().manual_seed(picture_seed(self.recipe.seed, turn) ^ 0x3C6EF35F)
        url = self.urls[int(torch.randperm(len(self.urls), generator=order)[place])]
        if url != self.url:
            self.url, self.pictures = "", []  # before the next one is there, too
            self.url, self.pictures = url, read_shard(url)
        return self.pictures

    def _make(self, files: Mapping[str, Any], name: str, generator: torch.Generator, seed: int) -> Sample:
        pictures = tuple(read_picture(content)[0] for content in find_pictures(files))
        size, labels = self.stage.patch_size, self.recipe.labels
        if len(pictures) == 1:
            synthesis = Synthesis(self.recipe, self.stage, names=self.names)  # pairs alone need none
            return synthesis(*cut_patches(pictures, size + 2 * MARGIN, generator), generator, seed)
        if pictures[0].shape != pictures[1].shape:
            sizes = " and ".join(f"{x.shape[-1]}x{x.shape[-2]}" for x in pictures)
            raise InvalidData(f"expected lq and gt to be of one size, got {sizes}")
        text = next((files[key] for key in LABEL_KEYS if key in files), None)
        if text is None:
            raise InvalidData(f"expected the degradation's name in {' or '.join(LABEL_KEYS)}, found none of them")
        label = text.decode(errors="replace").strip()
        if label not in labels:
            raise unknown_name(f"label (of {name}; the recipe lists them):", label, labels)
        return Sample(*cut_patches(pictures, size, generator), labels.index(label))

    def _count(self, reason: str) -> None:
        self.unusable += 1
        if self.unusable > UNREADABLE_SHARE * max(self.tried, ENOUGH):
            raise InvalidData(
                f"{self.unusable} of {self.tried} pictures drawn from shards cannot be used, the last one {reason}"
            )
