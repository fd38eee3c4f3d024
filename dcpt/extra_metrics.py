"""Metrics beside PSNR and SSIM, such as LPIPS and NIQE, from pyiqa (extra `metrics`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcpt.device import pick_device
from dcpt.errors import HubError, InvalidImage, MissingExtra
from dcpt.registry import unknown_name


@dataclass(frozen=True)
class ExtraMetric:
    """A metric of pyiqa, called as `dcpt.evaluation.evaluate` calls its metrics.

    Attributes:
        name: What pyiqa calls it.
        network: What pyiqa made.
        version: Of pyiqa; a part of the report's digest.
    """

    name: str
    network: Any
    version: str

    @property
    def lower_better(self) -> bool:
        """Whether a lower number means a better picture."""
        return self.network.lower_better

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Measure a picture, (1, 3, H, W) in [0, 1], against the clean one where the metric knows one."""
        try:
            return self.network(restored, gt) if self.network.metric_mode == "FR" else self.network(restored)
        except Exception as error:  # of many kinds; most are for pictures too small for a network
            height, width = restored.shape[-2:]
            raise InvalidImage(f"metric {self.name!r} cannot measure a picture of {width}x{height}: {error}") from None


def create_metrics(names: Iterable[str], *, device: torch.device | str | None = None) -> dict[str, ExtraMetric]:
    """Return metrics of pyiqa by name, for `evaluate`; pyiqa fetches the weights that they need.

    Args:
        names: As `pyiqa.list_models()` has them.
        device: Where they compute; default: the fastest there is.

    Raises:
        MissingExtra: If pyiqa is not installed, or cannot be used.
        UnknownName: If pyiqa has no metric of a name.
        HubError: If it cannot load one, for instance its weights.
    """
    try:
        import pyiqa
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch raises the latter
        raise MissingExtra(
            f"further metrics need pyiqa ({error}); install it with: pip install 'dcpt[metrics]'"
        ) from None
    known, place, metrics = pyiqa.list_models(), pick_device(device), {}
    for name in names:
        if name not in known:
            raise unknown_name("metric", name, known)
        try:
            with redirect_stdout(sys.stderr), refuse_pickles():  # what it prints must not get into JSON
                network = pyiqa.create_metric(name, device=place)
        except Exception as error:  # of downloads, damaged files, packages that only one metric needs
            raise HubError(f"cannot load metric {name!r}: {type(error).__name__}: {error}") from None
        metrics[name] = ExtraMetric(name, network, f"pyiqa {pyiqa.__version__}")
    return metrics


@contextmanager
def refuse_pickles() -> Iterator[None]:
    """Let no library run code from a weights file: it is what `weights_only=True` reads, or an error."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
