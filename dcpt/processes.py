"""The processes that train one network together, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dcpt.device import pick_device
from dcpt.errors import DcptError, InvalidSetting, MissingExtra


class Processes:
    """One process that trains alone; also what several have in common.

    Attributes:
        rank: Number of this process among all.
        count: How many there are.
        device: Where this one computes.
    """

    rank = 0
    count = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> range:
        """Return which pictures of a batch are this process's.

        Raises:
            InvalidSetting: If they cannot be shared out evenly.
        """
        if batch_size % self.count:
            raise InvalidSetting(f"expected a batch_size that {self.count} processes can share, got {batch_size}")
        return range(self.rank, batch_size, self.count)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over all processes."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by those of the main process."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something that may fail in one process: then it fails in all, and none waits for ever.

        Raises:
            DcptError: What the block raises here; elsewhere, that another process failed.
        """
        problem: DcptError | None = None
        try:
            yield
        except DcptError as error:
            problem = error
        if self.any(problem is not None):
            raise problem or DcptError("another process failed, and says why")

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the plain data of all processes as one list, the same in each."""
        return values

    def wait(self) -> None:
        """Go on when all processes have come here."""


class SeveralProcesses(Processes):
    """Processes started by torchrun or accelerate; every one calls every method in the same order.

    Gradients are averaged after the backward pass, in one message: unlike DistributedDataParallel,
    that asks nothing of the step, which may run the network twice, leave parts of it frozen or scale
    the gradient of each picture.
    """

    def __init__(self, device: str | None) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise MissingExtra(
                "training in several processes needs accelerate; install it with: pip install 'dcpt[train]'"
            ) from None
        state = PartialState(cpu=device == "cpu")
        super().__init__(state.device)
        self.rank, self.count = state.process_index, state.num_processes
        self.wait = state.wait_for_everyone

    def average(self, tensors: Sequence[Tensor]) -> None:
        from accelerate.utils import reduce

        exchange(tensors, partial(reduce, reduction="mean"))

    def spread(self, tensors: Sequence[Tensor]) -> None:
        from accelerate.utils import broadcast

        exchange(tensors, broadcast)

    def any(self, flag: bool) -> bool:
        from accelerate.utils import reduce

        return bool(reduce(torch.tensor(float(flag), device=self.device), reduction="sum"))

    def gather(self, values: list[Any]) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object(values)


@torch.no_grad()
def exchange(tensors: Sequence[Tensor], send: Callable[[Tensor], Tensor]) -> None:
    """Replace tensors by what comes back when they are sent as one."""
    if not tensors:
        return
    flat = send(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def join_processes(device: torch.device | str | None) -> Processes:
    """Return the processes this one is started with; where none are, itself alone.

    Args:
        device: Where to compute; None picks the fastest. With several processes it names the kind only.

    Raises:
        InvalidSetting: If the device is unknown or absent.
        MissingExtra: If there are several and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return SeveralProcesses(None if device is None else torch.device(device).type)
    return Processes(pick_device(device))
