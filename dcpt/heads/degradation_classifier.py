"""The head that tells from a backbone's features which degradation a picture has.

Paper: Hu et al., "Universal Image Restoration Pre-training via Degradation
Classification", ICLR 2025 (arXiv 2501.15510), section 3. Own implementation; parameter
names are the authors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.errors import InvalidSetting
from dcpt.layers import ChannelLayerNorm

Norm = Literal["layer", "batch"]


class NormalizedConv(nn.Conv2d):
    """A bias-free convolution followed by a norm of its own."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: Norm) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = ChannelLayerNorm(out_channels) if norm == "layer" else nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution, wider inside."""

    def __init__(self, channels: int, hidden: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = NormalizedConv(channels, hidden, 1, norm)
        self.conv2 = NormalizedConv(hidden, hidden, 3, norm)
        self.conv3 = NormalizedConv(hidden, channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        y = F.relu(self.conv2(y))
        return F.relu(self.conv3(y) + x)


class DegradationClassifier(nn.Module):
    """Classify degradations from feature maps, finest first; the picture itself is never seen.

    Args:
        feature_channels: Channels of each feature map, finest first (`backbone.feature_channels`).
        num_classes: Number of degradations told apart.
        expansion: Hidden width of a bottleneck relative to its feature; 2 in the paper
            (49 M parameters for the official NAFNet), less for a light head.
        norm: "layer" (the paper) or "batch", which learns in far fewer steps; for short trainings.
        labels: Names of the classes in the order of the logits, if they have names.

    Raises:
        InvalidSetting: If there are fewer than two classes, not as many labels, or no width.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        num_classes: int,
        *,
        expansion: float = 2.0,
        norm: Norm = "layer",
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if num_classes < 2 or expansion <= 0:
            raise InvalidSetting(f"expected num_classes >= 2 and expansion > 0, got {num_classes} and {expansion}")
        if norm not in get_args(Norm):
            raise InvalidSetting(f"expected norm to be one of {get_args(Norm)}, got {norm!r}")
        if labels and len(labels) != num_classes:
            raise InvalidSetting(f"expected {num_classes} labels, got {len(labels)}: {', '.join(labels)}")
        self.feature_channels = tuple(feature_channels)
        self.num_classes = num_classes
        self.expansion = expansion
        self.norm = norm
        self.labels = tuple(labels)

        def bottlenecks(channels: int) -> nn.Sequential:
            hidden = max(1, round(expansion * channels))
            return nn.Sequential(Bottleneck(channels, hidden, norm), Bottleneck(channels, hidden, norm))

        widths = [*self.feature_channels, self.feature_channels[-1]]
        self.mixing_weights = nn.Parameter(torch.ones(len(self.feature_channels)))
        self.bottleneck_layers = nn.ModuleList(bottlenecks(d) for d in self.feature_channels)
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(d, d_next, 1, bias=False), nn.MaxPool2d(2), nn.ReLU())
            for d, d_next in zip(widths, widths[1:])
        )
        self.last_stage = bottlenecks(widths[-1])
        self.fc = nn.Linear(widths[-1], num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits, (B, num_classes).

        Args:
            features: The backbone's feature maps, finest first, each (B, C_i, H_i, W_i). A map
                that is larger than its place in the pyramid is shrunk by nearest neighbour.
        """
        mixing = self.mixing_weights.softmax(0)
        x: Tensor | None = None
        for weight, feature, bottlenecks, downsample in zip(
            mixing, features, self.bottleneck_layers, self.downsample_layers, strict=True
        ):
            x = weight * feature if x is None else x + weight * fit(feature, x.shape[-2:])
            x = downsample(bottlenecks(x))
        return self.fc(self.last_stage(x).mean((2, 3)))


def fit(feature: Tensor, size: torch.Size) -> Tensor:
    """Shrink a feature map to `size` (height, width) unless it already fits."""
    return feature if feature.shape[-2:] == size else F.interpolate(feature, size=size, mode="nearest")
