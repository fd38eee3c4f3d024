"""NAFNet: a U-Net of blocks without nonlinear activations.

Paper: Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022
(arXiv 2204.04676); local pooling (TLSC): Chu et al., ECCV 2022 (arXiv 2112.04491).
Own implementation from the papers; parameter names are the authors', so that their
checkpoints load. Deviations, none of which changes the arithmetic: the layer norm is
PyTorch's fused one and data runs channels-last.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.backbones.base import Backbone, Hook, Output, register_backbone
from dcpt.errors import InvalidSetting
from dcpt.layers import ChannelLayerNorm
from dcpt.strips import Map, average_rows, lay_out, map_rows

Pooling = Literal["global", "local"]


def box_mean(x: Tensor, window: int) -> Tensor:
    """Return the mean over a sliding `window` x `window` box, edges replicated to full size.

    A side not longer than the window is averaged whole. Sums are taken along one axis at a
    time: the cost grows with the side of the window, not with its area. Source: TLSC, section 3.
    """
    height, width = x.shape[-2:]
    k_h, k_w = min(window, height), min(window, width)
    x = F.avg_pool2d(x, (k_h, 1), stride=1)
    x = F.avg_pool2d(x, (1, k_w), stride=1)
    gap_h, gap_w = k_h - 1, k_w - 1
    return F.pad(x, (gap_w // 2, gap_w - gap_w // 2, gap_h // 2, gap_h - gap_h // 2), mode="replicate")


class ChannelPool(nn.Module):
    """The spatial mean in the channel attention, over the whole map or a local window."""

    def __init__(self, window: int | None) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Map) -> Tensor:
        if self.window is None or self.window >= max(x.shape[-2:]):
            return average_rows(x)
        return box_mean(x, self.window)


def simple_gate(x: Tensor) -> Tensor:
    """Multiply the two halves of the channels: (B, 2C, H, W) -> (B, C, H, W)."""
    a, b = x.chunk(2, dim=1)
    return a * b


class NAFBlock(nn.Module):
    """Gated depthwise convolution with channel attention, then a gated pointwise MLP.

    Source: NAFNet, figure 3c.
    """

    def __init__(self, channels: int, *, norm_eps: float, pooling_window: int | None) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels, eps=norm_eps)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = nn.Sequential(ChannelPool(pooling_window), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = ChannelLayerNorm(channels, eps=norm_eps)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        # Zero residual gains: every block starts as the identity.
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Map) -> Map:
        channels = 2 * x.shape[1]
        y = map_rows(self._mix, x, channels=channels, halo=1)
        return map_rows(self._transform, x, y, self.sca(y), channels=channels)

    def _mix(self, x: Tensor) -> Tensor:
        return simple_gate(self.conv2(self.conv1(self.norm1(x))))

    def _transform(self, x: Tensor, y: Tensor, attention: Tensor) -> Tensor:
        x = torch.addcmul(x, self.conv3(y * attention), self.beta)
        y = simple_gate(self.conv4(self.norm2(x)))
        return torch.addcmul(x, self.conv5(y), self.gamma)


class NAFNet(Backbone):
    """The NAFNet U-Net with a global residual.

    Args:
        width: Channels at full resolution; each level below has twice as many.
        encoder_blocks: Blocks per encoder level, finest first.
        middle_blocks: Blocks at the bottom.
        decoder_blocks: Blocks per decoder level, coarsest first.
        pooling: Channel attention from the mean of the whole picture ("global", the paper)
            or of a window around each pixel ("local", TLSC: for pictures much larger than
            the training crops).
        pooling_window: Side of that window in pixels at full resolution; 1.5 times the
            training crop. Up to this picture size both poolings are equal.
        norm_eps: Epsilon of the layer norms (1e-6; MaskDCPT 1e-5).
    """

    block_types = (NAFBlock,)
    live_maps = 5.5

    def __init__(
        self,
        *,
        width: int = 64,
        encoder_blocks: tuple[int, ...] = (1, 1, 1, 28),
        middle_blocks: int = 1,
        decoder_blocks: tuple[int, ...] = (1, 1, 1, 1),
        pooling: Pooling = "global",
        pooling_window: int = 192,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise InvalidSetting(f"expected pooling to be one of {get_args(Pooling)}, got {pooling!r}")
        depth = len(encoder_blocks)
        self.feature_channels = tuple(width * 2**level for level in range(depth))
        self.feature_strides = tuple(2**level for level in range(depth))
        self.size_multiple = 2**depth
        self.supports_stored_maps = pooling == "global"
        self.silent_options = {"pooling": pooling, "pooling_window": pooling_window, "norm_eps": norm_eps}

        def stage(level: int, num_blocks: int) -> nn.Sequential:
            window = pooling_window // 2**level if pooling == "local" else None
            return nn.Sequential(
                *(NAFBlock(width * 2**level, norm_eps=norm_eps, pooling_window=window) for _ in range(num_blocks))
            )

        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoders = nn.ModuleList(stage(level, n) for level, n in enumerate(encoder_blocks))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in self.feature_channels)
        self.middle_blks = stage(depth, middle_blocks)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2))
            for c in reversed(self.feature_channels)
        )
        self.decoders = nn.ModuleList(
            stage(level, n) for level, n in zip(reversed(range(depth)), decoder_blocks, strict=True)
        )
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, hook: Hook = False) -> Output:
        self.check_input(x)
        x = lay_out(x)
        y = map_rows(self.intro, x, channels=self.intro.out_channels, halo=1)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y = encoder(y)
            skips.append(y)
            y = map_rows(down, y, channels=down.in_channels, multiple=2)
        y = self.middle_blks(y)
        features: list[Tensor] = []
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            # The skip first: a sum takes its memory layout, and pixel shuffle loses channels-last on CUDA.
            y = map_rows(lambda y, skip, up=up: skip + up(y), y, skips.pop(), channels=2 * y.shape[1])
            y = decoder(y)
            features.insert(0, y)
        if hook is True:
            return features
        restored = map_rows(lambda y, x: self.ending(y) + x, y, x, channels=y.shape[1], halo=1)
        return (restored, features) if hook else restored


@register_backbone
def nafnet(**overrides: Any) -> NAFNet:
    """The official 67.9 M parameter NAFNet of the DCPT paper (width 64, 36 blocks)."""
    return NAFNet(**overrides)


@register_backbone
def nafnet_small(**overrides: Any) -> NAFNet:
    """A 1.7 M parameter NAFNet for laptops: the bundled weights are of this variant."""
    options = {"width": 24, "encoder_blocks": (1, 2, 4), "middle_blocks": 4, "decoder_blocks": (2, 2, 1)}
    return NAFNet(**(options | overrides))


@register_backbone
def nafnet_test(**overrides: Any) -> NAFNet:
    """A tiny NAFNet (width 8, two levels) on which a test takes milliseconds."""
    options = {"width": 8, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1)}
    return NAFNet(**(options | overrides))
