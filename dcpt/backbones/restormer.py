"""Restormer: a U-Net of transformer blocks whose attention runs between channels.

Paper: Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image
Restoration", CVPR 2022 (arXiv 2111.09881). Own implementation from the paper; parameter
names are the authors', so that their checkpoints load. The options hold what differs
between the published network and that of DCPT, whose settings are the defaults.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dcpt.backbones.base import Hook, Output, register_backbone
from dcpt.backbones.transformer import TransformerUNet
from dcpt.layers import Attention, Upsample, use_channels_last
from dcpt.strips import lay_out


class Restormer(TransformerUNet):
    """The Restormer U-Net of four levels with a global residual.

    Args:
        dim: Channels at full resolution; each level below has twice as many.
        num_blocks: Blocks per level, finest first; the last is the bottom.
        num_refinement_blocks: Blocks at full resolution after the decoder.
        num_heads: Attention heads per level.
        ffn_expansion: Hidden width of the feed-forward networks relative to their input.
        bias: Whether the convolutions have biases.
        norm_bias: Full layer norm ("WithBias") instead of the bias-free one.
        norm_eps: Epsilon of the layer norms (DCPT 1e-6, published 1e-5).
        attention: "relu" (DCPT) or "softmax" (published).
    """

    def __init__(
        self,
        *,
        dim: int = 48,
        num_blocks: tuple[int, ...] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        num_heads: tuple[int, ...] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        bias: bool = False,
        norm_bias: bool = False,
        norm_eps: float = 1e-6,
        attention: Attention = "relu",
    ) -> None:
        super().__init__(
            dim,
            num_blocks,
            num_heads,
            bias=bias,
            ffn_expansion=ffn_expansion,
            norm_bias=norm_bias,
            norm_eps=norm_eps,
            attention=attention,
        )
        self.feature_channels = (2 * dim, 2 * dim, 4 * dim)
        self.feature_strides = (1, 2, 4)
        self.silent_options = {"attention": attention, "norm_eps": norm_eps}
        self.up4_3 = Upsample(8 * dim, bias=bias)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = self._stage(4 * dim, 2)
        self.up3_2 = Upsample(4 * dim, bias=bias)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = self._stage(2 * dim, 1)
        self.up2_1 = Upsample(2 * dim, bias=bias)
        self.decoder_level1 = self._stage(2 * dim, 0)
        self.refinement = self._stage(2 * dim, 0, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)
        self.apply(initialise)
        use_channels_last(self)

    def forward(self, x: Tensor, hook: Hook = False) -> Output:
        self.check_input(x)
        x = lay_out(x)
        encoded1, encoded2, encoded3, y = self.encode(x)
        decoded3 = self.decoder_level3(self.up4_3(y, encoded3, self.reduce_chan_level3))
        decoded2 = self.decoder_level2(self.up3_2(decoded3, encoded2, self.reduce_chan_level2))
        decoded1 = self.decoder_level1(self.up2_1(decoded2, encoded1))
        features = [decoded1, decoded2, decoded3]
        if hook is True:
            return features
        restored = self.finish(decoded1, x)
        return (restored, features) if hook else restored


def initialise(module: nn.Module) -> None:
    """Fill a convolution with a truncated normal of standard deviation 0.02, as DCPT does."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@register_backbone
def restormer(**overrides: Any) -> Restormer:
    """The 26.1 M parameter Restormer of the DCPT paper: ReLU attention, bias-free norm."""
    return Restormer(**overrides)


@register_backbone
def restormer_small(**overrides: Any) -> Restormer:
    """A Restormer of half the width and about half the depth, for modest hardware."""
    options = {"dim": 24, "num_blocks": (2, 3, 3, 4), "num_refinement_blocks": 2}
    return Restormer(**(options | overrides))


@register_backbone
def restormer_test(**overrides: Any) -> Restormer:
    """A tiny Restormer on which a test takes milliseconds."""
    options = {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}
    return Restormer(**(options | overrides))
