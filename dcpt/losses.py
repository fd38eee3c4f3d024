"""The three losses of the method, each written once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def l1_loss(restored: Tensor, gt: Tensor) -> Tensor:
    """Mean absolute difference of two batches of pictures (same shape and range), a scalar."""
    return F.l1_loss(restored, gt)


def cross_entropy_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy, a scalar.

    Args:
        logits: Unnormalised scores, (B, num_classes).
        label: Class index per sample, (B,), int64.
    """
    return F.cross_entropy(logits, label)


def focal_loss(logits: Tensor, label: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean cross-entropy with easy samples weighted down by (1 - p)^gamma, a scalar.

    Args:
        logits: Unnormalised scores, (B, num_classes).
        label: Class index per sample, (B,), int64.
        gamma: Focusing exponent; 0 gives the plain cross-entropy.

    Source: Lin et al., ICCV 2017, eq. 4, without class weights.
    """
    log_p = F.log_softmax(logits.float(), dim=1).gather(1, label[:, None]).squeeze(1)
    return torch.mean((1 - log_p.exp()) ** gamma * -log_p)
