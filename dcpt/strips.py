"""Feature maps computed strip by strip, in memory or on disk: one mechanism for speed and for pictures of any size.

A network written with `map_rows` takes a tensor, or a `StoredMap` that never is on the device as a
whole; what it computes is the same. A convolution asks for the neighbouring rows it needs (its
halo); a statistic of the whole map, such as a mean, is the sum of what each strip adds to it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dcpt.errors import OutputError

_WHOLE: ContextVar[bool] = ContextVar("whole", default=False)
VALUES_AT_ONCE = 2**22  # 16 MiB of float32
SMALLEST_STRIP = 8  # rows


class StoredMap:
    """A map, (B, C, H, W), of which some rows at a time are on the device: kept in memory or in a temporary file.

    Args:
        shape: Its shape.
        dtype: Its type.
        storage: Which of both it is, and where maps made from it are kept.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype, storage: Storage) -> None:
        self.shape, self.ndim, self.storage = shape, len(shape), storage
        batch, channels, height, width = shape
        self.dtype, self._row_bytes = dtype, batch * channels * width * dtype.itemsize
        self._memory: Tensor | None = None
        if storage.take(height * self._row_bytes):
            self._memory = torch.empty((height, batch, width, channels), dtype=dtype)
        else:
            self._file = tempfile.TemporaryFile(dir=storage.folder)  # noqa: SIM115, it lives as long as the map

    def __del__(self) -> None:
        if self._memory is not None:
            self.storage.give_back(self.shape[2] * self._row_bytes)

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows, (B, C, stop - start, W), channels-last, on the device."""
        if self._memory is not None:
            rows = self._memory[start:stop]
        else:
            batch, channels, _, width = self.shape
            rows = torch.empty((stop - start, batch, width, channels), dtype=self.dtype)
            self._file.seek(start * self._row_bytes)
            self._file.readinto(as_bytes(rows))
        return rows.to(self.storage.device).permute(1, 3, 0, 2)

    def write(self, start: int, rows: Tensor) -> None:
        """Set rows, (B, C, rows, W), from `start` on.

        Raises:
            OutputError: If the disk is full.
        """
        rows = rows.permute(2, 0, 3, 1).to("cpu", self.dtype)
        if self._memory is not None:
            self._memory[start : start + len(rows)] = rows
            return
        try:
            self._file.seek(start * self._row_bytes)
            self._file.write(as_bytes(rows.contiguous()))
            self._file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OutputError(f"the exact mode needs more room in {self.storage.folder}; set TMPDIR") from None


Map: TypeAlias = Tensor | StoredMap


class Storage:
    """Where the maps of one pass are kept: in memory up to a limit, beyond that in temporary files.

    Args:
        device: Where strips are computed.
        memory: Bytes of maps to keep in memory.
        folder: Where to put the files; default a folder for large temporary files.
    """

    def __init__(self, device: torch.device, *, memory: int, folder: Path | None = None) -> None:
        self.device, self.folder = device, folder or large_temporary_folder()
        self._memory = memory

    def take(self, num_bytes: int) -> bool:
        """Set memory aside, if there is so much left."""
        fits = num_bytes <= self._memory
        self._memory -= num_bytes if fits else 0
        return fits

    def give_back(self, num_bytes: int) -> None:
        """Return memory that was set aside."""
        self._memory += num_bytes

    def store(self, x: Tensor) -> StoredMap:
        """Return a tensor, (B, C, H, W), as a stored map."""
        stored = StoredMap(x.shape, x.dtype, self)
        for start in range(0, x.shape[2], SMALLEST_STRIP):
            stored.write(start, x[:, :, start : start + SMALLEST_STRIP])
        return stored


def large_temporary_folder() -> Path:
    """Return the folder for temporary files that may be large: /tmp is memory on many machines."""
    lasting = Path("/var/tmp")
    return lasting if "TMPDIR" not in os.environ and os.access(lasting, os.W_OK) else Path(tempfile.gettempdir())


def as_bytes(rows: Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor."""
    return memoryview(rows.view(torch.uint8).numpy()).cast("B")


def map_rows(
    function: Callable[..., Tensor],
    *maps: Map,
    channels: int,
    halo: int = 0,
    multiple: int = 1,
    shift: int = 0,
    then: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
) -> Any:
    """Compute a map from others, strip by strip where that saves time or memory.

    Args:
        function: Given the same rows of each map, computes those of the result. It may change the
            number of rows by a fixed factor.
        *maps: Their heights are multiples of each other; one of a single row is given whole.
        channels: Channels of the widest intermediate result, by which strips are chosen.
        halo: So many rows of the first map that the result depends on above and below; a multiple
            of `multiple`. The rows that these spoil are cut off.
        multiple: Strips begin at multiples of this, counted in rows of the first map.
        shift: Strips begin this many rows further down, and the last one wraps around; without halo.
        then: Given rows of the result; returns rows to keep and what they add to statistics.

    Returns:
        The map, a tensor if all those given are; with `then` followed by the sums of the statistics.
    """
    height = maps[0].shape[2]
    storage = next((x.storage for x in maps if isinstance(x, StoredMap)), None)
    result: Map | None = None
    sums: list[Tensor] = []
    for start, stop in cut_strips(maps[0], channels, multiple=multiple, at_once=storage is None):
        above, below = min(halo, start), min(halo, height - stop)
        first, last = start - above + shift, stop + below + shift
        rows = function(*(read_rows(x, first, last, height) for x in maps))
        factor = Fraction(rows.shape[2], last - first)
        if above or below:
            rows = rows[:, :, int(above * factor) : int((above + stop - start) * factor)]
        if then is not None:
            rows, *statistics = then(rows)
            sums = [a + b for a, b in zip(sums, statistics, strict=True)] if sums else statistics
        if storage is None and stop - start == height:
            result = rows.roll(shift, 2) if shift else rows
            break
        if result is None:
            result = make_map(rows, int(height * factor), storage)
        write_rows(result, int((start + shift) * factor), rows)
    return (result, *sums) if then is not None else result


@contextmanager
def whole_maps() -> Iterator[None]:
    """Compute maps of tensors at once inside the block, for those who look at what enters a layer."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def average_rows(x: Map) -> Tensor:
    """Return the mean of a map over its pixels, (B, C, 1, 1)."""
    if isinstance(x, Tensor):
        return x.mean((2, 3), keepdim=True)
    strips = cut_strips(x, 2 * x.shape[1], at_once=False)
    return sum(x.read(*strip).sum((2, 3), keepdim=True) for strip in strips) / (x.shape[2] * x.shape[3])


def lay_out(x: Map) -> Map:
    """Return a map in the memory layout that the networks are fast on; rows that are read always have it."""
    return x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) else x


def cut_strips(x: Map, channels: int, *, multiple: int = 1, at_once: bool) -> Iterator[tuple[int, int]]:
    """Yield the first row of each strip of a map, and the one after its last.

    On the CPU, without gradients, intermediate results that stay in the cache and in memory already
    paged in save a third of the time of a large picture, and most of the memory.

    Args:
        x: The map.
        channels: Channels of the widest intermediate result.
        multiple: What the first rows are multiples of.
        at_once: Whether it may be one strip where that is faster: elsewhere.
    """
    batch, _, height, width = x.shape
    rows = max(SMALLEST_STRIP, VALUES_AT_ONCE // (batch * width * channels))
    if at_once and (_WHOLE.get() or x.device.type != "cpu" or torch.is_grad_enabled()):
        rows = height
    rows = max(rows // multiple, 1) * multiple
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def read_rows(x: Map, start: int, stop: int, height: int) -> Tensor:
    """Return the rows of a map that belong to rows `start` to `stop` of one of another height; beyond, it repeats."""
    own = x.shape[2]
    if isinstance(x, Tensor) and stop - start == height and start == 0:
        return x
    read = x.read if isinstance(x, StoredMap) else lambda first, last: x[:, :, first:last]
    if own == 1:
        return read(0, 1)
    start, stop = start * own // height, stop * own // height
    if stop <= own:
        return read(start, stop)
    if start >= own:
        return read(start - own, stop - own)
    return torch.cat((read(start, own), read(0, stop - own)), dim=2)


def write_rows(x: Map, start: int, rows: Tensor) -> None:
    """Set rows of a map from `start` on; beyond the last comes the first."""
    start %= x.shape[2]
    fitting = min(rows.shape[2], x.shape[2] - start)
    for place, part in ((start, rows[:, :, :fitting]), (0, rows[:, :, fitting:])):
        if isinstance(x, StoredMap) and part.shape[2]:
            x.write(place, part)
        elif part.shape[2]:
            x[:, :, place : place + part.shape[2]] = part


def make_map(rows: Tensor, height: int, storage: Storage | None) -> Map:
    """Return an empty map of so many rows like the given ones, in a storage or as a tensor."""
    shape = torch.Size((*rows.shape[:2], height, rows.shape[3]))
    if storage:
        return StoredMap(shape, rows.dtype, storage)
    return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
