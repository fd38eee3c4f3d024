"""The U-Net of transformer blocks that Restormer and PromptIR have in common: its encoder.

Paper: Zamir et al., CVPR 2022 (arXiv 2111.09881), figure 2; PromptIR changes the decoder only.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dcpt.backbones.base import Backbone
from dcpt.layers import Downsample, PatchEmbedding, TransformerBlock
from dcpt.strips import Map, map_rows


class TransformerUNet(Backbone):
    """Three encoder levels and the bottom; a subclass adds its decoder, with its end `refinement` and `output`.

    Args:
        dim: Channels at full resolution; each level below has twice as many.
        num_blocks: Blocks per level, finest first; the last is the bottom.
        num_heads: Attention heads per level.
        bias: Whether the convolutions have biases.
        **settings: The other options of every `TransformerBlock`.
    """

    size_multiple = 8
    block_types = (TransformerBlock,)
    supports_stored_maps = True
    refinement: nn.Module
    output: nn.Module

    def __init__(
        self, dim: int, num_blocks: tuple[int, ...], num_heads: tuple[int, ...], *, bias: bool, **settings: Any
    ) -> None:
        super().__init__()
        self._num_blocks, self._num_heads = num_blocks, num_heads
        self._settings = settings | {"bias": bias}
        self.patch_embed = PatchEmbedding(dim, bias=bias)
        self.encoder_level1 = self._stage(dim, 0)
        self.down1_2 = Downsample(dim, bias=bias)
        self.encoder_level2 = self._stage(2 * dim, 1)
        self.down2_3 = Downsample(2 * dim, bias=bias)
        self.encoder_level3 = self._stage(4 * dim, 2)
        self.down3_4 = Downsample(4 * dim, bias=bias)
        self.latent = self._stage(8 * dim, 3)

    def _block(self, channels: int, level: int) -> TransformerBlock:
        return TransformerBlock(channels, self._num_heads[level], **self._settings)

    def _stage(self, channels: int, level: int, count: int | None = None) -> nn.Sequential:
        count = self._num_blocks[level] if count is None else count
        return nn.Sequential(*(self._block(channels, level) for _ in range(count)))

    def encode(self, x: Map) -> tuple[Map, Map, Map, Map]:
        """Return the maps of the three encoder levels, finest first, and that of the bottom."""
        encoded1 = self.encoder_level1(self.patch_embed(x))
        encoded2 = self.encoder_level2(self.down1_2(encoded1))
        encoded3 = self.encoder_level3(self.down2_3(encoded2))
        return encoded1, encoded2, encoded3, self.latent(self.down3_4(encoded3))

    def finish(self, y: Map, x: Map) -> Map:
        """Return the picture: the refined map of the decoder, made a change of the input `x`."""
        y = self.refinement(y)
        return map_rows(lambda y, x: self.output(y) + x, y, x, channels=y.shape[1], halo=1)
