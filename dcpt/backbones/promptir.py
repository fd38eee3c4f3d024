"""PromptIR: a Restormer whose decoder is told by learnt prompts what to remove.

Paper: Potlapalli et al., "PromptIR: Prompting for All-in-One Blind Image Restoration",
NeurIPS 2023 (arXiv 2306.13090). Own implementation from the paper; parameter names are
the authors', so that their checkpoints load. Deviation: six convolutions that published
checkpoints carry but that no computation uses are left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.backbones.base import Hook, Output, register_backbone
from dcpt.backbones.transformer import TransformerUNet
from dcpt.layers import Upsample, use_channels_last
from dcpt.strips import Map, average_rows, lay_out, map_rows


class PromptGenerator(nn.Module):
    """Mix the components of a learnt prompt by the content of a feature map.

    Source: PromptIR, section 3.1 (prompt generation module).

    Args:
        channels: Channels of the prompt.
        size: Side of its components in pixels; they are resized to the feature map.
        feature_channels: Channels of the feature map.
        num_components: Components mixed.
    """

    def __init__(self, channels: int, size: int, feature_channels: int, num_components: int, *, bias: bool) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, num_components, channels, size, size))
        self.linear_layer = nn.Linear(feature_channels, num_components)
        self.conv3x3 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def forward(self, x: Map) -> Map:
        """Return the map, (B, C, H, W), followed by the channels of its prompt."""
        height, width = x.shape[2:]
        shares = self.linear_layer(average_rows(x).flatten(1)).softmax(1)
        prompt = torch.einsum("bn,nchw->bchw", shares, self.prompt_param[0])
        prompt = F.interpolate(prompt, (prompt.shape[2], width), mode="bilinear")
        # Row by row the share of each row of the prompt: its resized rows can then be computed strip by strip.
        identity = torch.eye(prompt.shape[2], dtype=prompt.dtype, device=prompt.device)
        blend = F.interpolate(identity[None, :, :, None], (height, 1), mode="bilinear")

        def append(x: Tensor, blend: Tensor) -> Tensor:
            rows = torch.einsum("bcpw,ph->bchw", prompt, blend[0, :, :, 0])
            return torch.cat((x, self.conv3x3(rows.contiguous(memory_format=torch.channels_last))), dim=1)

        return map_rows(append, x, blend, channels=x.shape[1] + prompt.shape[1], halo=1)


class PromptIR(TransformerUNet):
    """The PromptIR U-Net of four levels with prompts in the decoder and a global residual.

    Args:
        dim: Channels at full resolution, a multiple of 3; each level below has twice as many,
            and the prompts have 4/3, 8/3 and 20/3 times as many.
        num_blocks: Blocks per level, finest first; the last is the bottom.
        num_refinement_blocks: Blocks at full resolution after the decoder.
        num_heads: Attention heads per level.
        ffn_expansion: Hidden width of the feed-forward networks relative to their input.
        num_components: Components of each prompt.
        prompt_sizes: Sides of the prompts in pixels, finest first.
        bias: Whether the convolutions have biases (MaskDCPT).
        norm_eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        *,
        dim: int = 48,
        num_blocks: tuple[int, ...] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        num_heads: tuple[int, ...] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        num_components: int = 5,
        prompt_sizes: tuple[int, ...] = (64, 32, 16),
        bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            dim,
            num_blocks,
            num_heads,
            bias=bias,
            ffn_expansion=ffn_expansion,
            norm_bias=True,
            norm_eps=norm_eps,
            attention="softmax",
        )
        self.feature_channels = (2 * dim, 4 * dim, 4 * dim)
        self.feature_strides = (2, 4, 8)
        self.silent_options = {"norm_eps": norm_eps}
        prompts = [dim * 4 // 3, dim * 8 // 3, dim * 20 // 3]

        def prompt(level: int, channels: int) -> PromptGenerator:
            return PromptGenerator(prompts[level], prompt_sizes[level], channels, num_components, bias=bias)

        self.prompt3 = prompt(2, 8 * dim)
        self.noise_level3 = self._block(8 * dim + prompts[2], 2)
        self.reduce_noise_level3 = nn.Conv2d(8 * dim + prompts[2], 4 * dim, 1, bias=bias)
        self.up4_3 = Upsample(4 * dim, bias=bias)
        self.reduce_chan_level3 = nn.Conv2d(6 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = self._stage(4 * dim, 2)

        self.prompt2 = prompt(1, 4 * dim)
        self.noise_level2 = self._block(4 * dim + prompts[1], 2)
        self.reduce_noise_level2 = nn.Conv2d(4 * dim + prompts[1], 4 * dim, 1, bias=bias)
        self.up3_2 = Upsample(4 * dim, bias=bias)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = self._stage(2 * dim, 1)

        self.prompt1 = prompt(0, 2 * dim)
        self.noise_level1 = self._block(2 * dim + prompts[0], 2)
        self.reduce_noise_level1 = nn.Conv2d(2 * dim + prompts[0], 2 * dim, 1, bias=bias)
        self.up2_1 = Upsample(2 * dim, bias=bias)
        self.decoder_level1 = self._stage(2 * dim, 0)
        self.refinement = self._stage(2 * dim, 0, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)
        use_channels_last(self)

    def forward(self, x: Tensor, hook: Hook = False) -> Output:
        self.check_input(x)
        x = lay_out(x)
        encoded1, encoded2, encoded3, y = self.encode(x)
        prompted3 = self._reduce(self.noise_level3(self.prompt3(y)), self.reduce_noise_level3)
        y = self.decoder_level3(self.up4_3(prompted3, encoded3, self.reduce_chan_level3))
        prompted2 = self._reduce(self.noise_level2(self.prompt2(y)), self.reduce_noise_level2)
        y = self.decoder_level2(self.up3_2(prompted2, encoded2, self.reduce_chan_level2))
        prompted1 = self._reduce(self.noise_level1(self.prompt1(y)), self.reduce_noise_level1)
        features = [prompted1, prompted2, prompted3]
        if hook is True:
            return features
        restored = self.finish(self.decoder_level1(self.up2_1(prompted1, encoded1)), x)
        return (restored, features) if hook else restored

    @staticmethod
    def _reduce(x: Map, reduce: nn.Conv2d) -> Map:
        return map_rows(reduce, x, channels=x.shape[1])


@register_backbone
def promptir(**overrides: Any) -> PromptIR:
    """The 35.4 M parameter PromptIR of its paper and of the DCPT paper."""
    return PromptIR(**overrides)


@register_backbone
def promptir_small(**overrides: Any) -> PromptIR:
    """A PromptIR of half the width and about half the depth, for modest hardware."""
    options = {"dim": 24, "num_blocks": (2, 3, 3, 4), "num_refinement_blocks": 2}
    return PromptIR(**(options | overrides))


@register_backbone
def promptir_test(**overrides: Any) -> PromptIR:
    """A tiny PromptIR on which a test takes milliseconds."""
    options = {"dim": 12, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "prompt_sizes": (8, 4, 2)}
    return PromptIR(**(options | overrides))
