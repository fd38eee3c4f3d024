"""The two families of test protocols that papers use; numbers of one must not be compared with the other's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcpt.metrics import psnr, ssim
from dcpt.registry import unknown_name

NOISE_SEED = 0  # of numpy's legacy generator, anew for each picture


@dataclass(frozen=True)
class Protocol:
    """How pictures are cut, noise is made and results are measured.

    Attributes:
        name: "dcpt" or "airnet".
        crop_multiple: Pictures are cut to multiples of this around their centre; 1 keeps them whole.
        rounded: Whether the restored picture is rounded to 8 bits before it is measured; else only clipped.
        clipped_noise: Whether noisy pictures are clipped and cut down to 8 bits, as a file; else they
            are floats that leave [0, 1].
        ssim_window: "gaussian" (11x11, sigma 1.5) or "uniform" (7x7, scikit-image's default).

    Source: the DCPT release for "dcpt"; AirNet's for "airnet", which PromptIR, AdaIR and MoCE-IR follow.
    """

    name: str
    crop_multiple: int
    rounded: bool
    clipped_noise: bool
    ssim_window: str

    def fit(self, picture: Tensor) -> Tensor:
        """Cut a picture, (..., H, W), as the protocol has it."""
        height, width = (length - length % self.crop_multiple for length in picture.shape[-2:])
        top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
        return picture[..., top : top + height, left : left + width]

    def add_noise(self, gt: Tensor, sigma: float) -> Tensor:
        """Return the noisy picture of a test set, (1, 3, H, W).

        Args:
            gt: The clean picture, (1, 3, H, W), in [0, 1], already cut.
            sigma: Standard deviation in grey levels of 255.
        """
        shape = (*gt.shape[-2:], gt.shape[1])  # drawn in the order of an array with the colours last
        noise = torch.from_numpy(np.random.RandomState(NOISE_SEED).normal(0, sigma / 255, shape))
        noisy = gt.double() + noise.permute(2, 0, 1)[None]
        if self.clipped_noise:
            noisy = (noisy * 255).clamp(0, 255).floor() / 255
        return noisy.float()

    def finish(self, restored: Tensor) -> Tensor:
        """Return a restored picture as it is measured, in [0, 1]."""
        return to_8bit(restored) if self.rounded else restored.clamp(0, 1)

    def score(self, restored: Tensor, gt: Tensor) -> tuple[float, float]:
        """Return PSNR in dB and SSIM of one picture, (1, 3, H, W), after `finish`."""
        return psnr(restored, gt).item(), ssim(restored, gt, window=self.ssim_window).item()


PROTOCOLS = {
    "dcpt": Protocol("dcpt", 1, rounded=True, clipped_noise=False, ssim_window="gaussian"),
    "airnet": Protocol("airnet", 16, rounded=False, clipped_noise=True, ssim_window="uniform"),
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        UnknownName: If there is none.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def to_8bit(x: Tensor) -> Tensor:
    """Round to whole grey levels of 255, as a file does."""
    return (x.clamp(0, 1) * 255).round() / 255
