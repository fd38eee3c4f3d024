"""PSNR and SSIM as the DCPT test protocol defines them, per image, in float64."""

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


def ssim(restored: Tensor, gt: Tensor) -> Tensor:
    """Structural similarity of each picture, (B,): mean over RGB and the valid region.

    Gaussian window 11x11 of sigma 1.5, K1 = 0.01, K2 = 0.03. Equal to scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.

    Args:
        restored: (B, C, H, W), in [0, 1]; both sides at least 11.
        gt: Same shape and range.

    Source: Wang et al., IEEE TIP 2004.
    """
    _check_pair(restored, gt)
    if min(gt.shape[-2:]) < 11:
        raise InvalidImage(f"expected sides of at least 11 pixels for SSIM, got {tuple(gt.shape[-2:])}")
    batch, channels = gt.shape[:2]
    x, y = (picture.double().flatten(0, 1).unsqueeze(1) for picture in (restored, gt))  # (B*C, 1, H, W)
    moments = _gaussian_mean(torch.cat((x, y, x * x, y * y, x * y), dim=1))
    mean_x, mean_y, square_x, square_y, product = moments.split(1, dim=1)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean((1, 2, 3)).view(batch, channels).mean(1)


def _gaussian_mean(x: Tensor) -> Tensor:
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(x.shape[1], 1, -1)
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
