"""PSNR and SSIM as the test protocols define them, per image, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.errors import InvalidImage


def psnr(restored: Tensor, gt: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, (B,); infinite for equal pictures.

    Args:
        restored: (B, C, H, W), in [0, 1].
        gt: Same shape and range.
    """
    _check_pair(restored, gt)
    mse = (restored.double() - gt.double()).square().mean((1, 2, 3))
    return -10 * torch.log10(mse)


def ssim(restored: Tensor, gt: Tensor, *, window: str = "gaussian") -> Tensor:
    """Structural similarity of each picture, (B,): mean over its channels and the valid region.

    K1 = 0.01, K2 = 0.03. With the Gaussian window equal to scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`, with the
    uniform one to `structural_similarity` as it is.

    Args:
        restored: (B, C, H, W), in [0, 1]; both sides at least as large as the window.
        gt: Same shape and range.
        window: "gaussian", 11x11 of sigma 1.5, or "uniform", 7x7 with the variances of a sample.

    Source: Wang et al., IEEE TIP 2004.
    """
    _check_pair(restored, gt)
    weights = _gaussian_window() if window == "gaussian" else torch.full((7,), 1 / 7, dtype=torch.float64)
    if min(gt.shape[-2:]) < len(weights):
        raise InvalidImage(f"expected sides of at least {len(weights)} pixels for SSIM, got {tuple(gt.shape[-2:])}")
    batch, channels = gt.shape[:2]
    x, y = (picture.double().flatten(0, 1).unsqueeze(1) for picture in (restored, gt))  # (B*C, 1, H, W)
    moments = _local_means(torch.cat((x, y, x * x, y * y, x * y), dim=1), weights.to(x))
    mean_x, mean_y, square_x, square_y, product = moments.split(1, dim=1)
    variance_x, variance_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    if window == "uniform":
        sample = len(weights) ** 2 / (len(weights) ** 2 - 1)
        variance_x, variance_y, covariance = (sample * value for value in (variance_x, variance_y, covariance))
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean((1, 2, 3)).view(batch, channels).mean(1)


def luma(picture: Tensor) -> Tensor:
    """Return the brightness of RGB pictures in [0, 1], (B, 3, H, W) -> (B, 1, H, W), from 16/255 to 235/255.

    Source: ITU-R BT.601, as MATLAB's `rgb2ycbcr` has it and the super-resolution papers measure on.
    """
    weights = picture.new_tensor([65.481, 128.553, 24.966], dtype=torch.float64).view(1, 3, 1, 1)
    return ((picture.double() * weights).sum(1, keepdim=True) + 16) / 255


def _gaussian_window() -> Tensor:
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    return window / window.sum()


def _local_means(x: Tensor, weights: Tensor) -> Tensor:
    window = weights.expand(x.shape[1], 1, -1)
    x = F.conv2d(x, window.unsqueeze(3), groups=x.shape[1])
    return F.conv2d(x, window.unsqueeze(2), groups=x.shape[1])


def _check_pair(restored: Tensor, gt: Tensor) -> None:
    if restored.shape != gt.shape or gt.ndim != 4:
        raise InvalidImage(
            f"expected two batches (B, C, H, W) of one shape, got {tuple(restored.shape)} and {tuple(gt.shape)}"
        )


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the share of right answers in [0, 1], a scalar without a graph.

    Args:
        logits: Scores, (B, num_classes).
        label: Class index per sample, (B,), int64.
    """
    return (logits.detach().argmax(1) == label).float().mean()
