"""Blocks that two or more papers truly share, written for channels-last data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.errors import InvalidSetting
from dcpt.strips import Map, map_rows

Attention = Literal["softmax", "relu"]

# Depthwise convolutions run at half speed on channel counts that are no multiple of this.
CHANNEL_STEP = 16


def use_channels_last(module: nn.Module) -> None:
    """Lay out the weights of all convolutions channels-last; `Module.to` fails on 5-D parameters."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, for (B, C, H, W) maps.

    On channels-last data the two permutations are free and PyTorch's fused kernel runs on
    contiguous rows; composing mean, variance and square root instead is up to 17x slower.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class BiasFreeLayerNorm(nn.Module):
    """Division by the standard deviation over the channels; the mean stays in.

    Source: Restormer's bias-free variant (Mohan et al., ICLR 2020).
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        if torch.is_grad_enabled():
            mean = x.mean(-1, keepdim=True)
            variance = (x - mean).square().mean(-1, keepdim=True)  # 10x faster than Tensor.var
            return (x * torch.rsqrt(variance + self.eps) * self.weight).permute(0, 3, 1, 2)
        # The fused norm's statistics have no gradients, but are three times faster.
        y, _, rstd = torch.native_layer_norm(x, self.weight.shape, None, None, self.eps)
        return torch.mul(x, rstd, out=y).mul_(self.weight).permute(0, 3, 1, 2)


class TransposedAttention(nn.Module):
    """Self-attention between channels instead of pixels: its cost is linear in the pixels (MDTA).

    Queries and keys are normalised over all pixels. That scales the rows and columns of the
    small (C, C) map, so it is done there. The map and the output projection are both linear
    in the values, so their product is applied in one pass.

    Source: Restormer, section 3.1.

    Args:
        channels: Channels of the map.
        num_heads: Groups of channels attended to separately; a divisor of `channels`.
        activation: What turns similarities to weights: "softmax" (the paper) or "relu" (DCPT).
        bias: Whether the convolutions have biases.
    """

    def __init__(self, channels: int, num_heads: int, *, activation: Attention, bias: bool) -> None:
        super().__init__()
        if activation not in get_args(Attention):
            raise InvalidSetting(f"expected attention to be one of {get_args(Attention)}, got {activation!r}")
        if num_heads < 1 or channels % num_heads:
            raise InvalidSetting(f"expected channels divisible by the {num_heads} heads, got {channels}")
        self.num_heads = num_heads
        self.activation = activation
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Map, norm: Callable[[Tensor], Tensor]) -> Map:
        """Return `x` plus the attention of its normalised rows, (B, C, H, W)."""
        channels = x.shape[1]
        v, similarity, q_squares, k_squares = map_rows(
            lambda x: self.qkv_dwconv(self.qkv(norm(x))), x, channels=3 * channels, halo=1, then=self._compare
        )
        # Clamped before the root, whose gradient is infinite at zero: a black picture is all zeros.
        norms = [squares.clamp_min(1e-24).sqrt() for squares in (q_squares, k_squares)]  # (B, heads, C / heads)
        similarity = similarity * self.temperature / (norms[0][..., :, None] * norms[1][..., None, :])
        attention = similarity.softmax(-1) if self.activation == "softmax" else similarity.relu()
        project = self.project_out.weight.view(channels, self.num_heads, -1).transpose(0, 1)
        mix = (project @ attention).permute(0, 1, 3, 2).flatten(1, 2)  # (B, C, C)

        def attend(x: Tensor, v: Tensor) -> Tensor:
            y = torch.baddbmm(*(rows.permute(0, 2, 3, 1).flatten(1, 2) for rows in (x, v)), mix)
            if self.project_out.bias is not None:
                y = y + self.project_out.bias
            return y.view(len(x), *x.shape[2:], channels).permute(0, 3, 1, 2)

        return map_rows(attend, x, v, channels=channels)

    def _compare(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the values of some rows, and what these add to similarity and squared norms."""
        q, k, v = qkv.chunk(3, dim=1)
        q, k = (
            part.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (self.num_heads, -1)) for part in (q, k)
        )  # (B, pixels, heads, C / heads)
        similarity = q.permute(0, 2, 3, 1) @ k.transpose(1, 2)
        return v, similarity, q.square().sum(1), k.square().sum(1)


class GatedFeedForward(nn.Module):
    """Two depthwise branches, one gating the other through GELU (GDFN).

    Each branch runs with its channels zero-padded to a multiple of 16; the padding stays zero
    through the gate and changes nothing.

    Source: Restormer, section 3.2.
    """

    def __init__(self, channels: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.gap = -hidden % CHANNEL_STEP
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Map, norm: Callable[[Tensor], Tensor]) -> Map:
        """Return `x` plus what becomes of its normalised rows, (B, C, H, W)."""
        hidden = self.project_in.out_channels // 2 + self.gap
        parameters = (self.project_in.weight, self.project_in.bias, self.dwconv.weight, self.dwconv.bias)
        branches = list(zip(*map(self._halves, parameters), strict=True))
        project_out = F.pad(self.project_out.weight, (0, 0, 0, 0, 0, self.gap))

        def run(x: Tensor) -> Tensor:
            y = norm(x)
            gate, value = (
                F.conv2d(F.conv2d(y, *inner), *outer, padding=1, groups=hidden)
                for inner, outer in ((branch[:2], branch[2:]) for branch in branches)
            )
            return x + F.conv2d(F.gelu(gate) * value, project_out, self.project_out.bias)

        return map_rows(run, x, channels=hidden, halo=1)

    def _halves(self, parameter: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return both halves of the first axis, zeros appended."""
        if parameter is None:
            return None, None
        return tuple(F.pad(half, (0, 0) * (half.ndim - 1) + (0, self.gap)) for half in parameter.chunk(2))


class TransformerBlock(nn.Module):
    """Transposed attention, then the gated feed-forward network, each with a residual.

    Source: Restormer, figure 2.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        ffn_expansion: float,
        bias: bool,
        norm_bias: bool,
        norm_eps: float,
        attention: Attention,
    ) -> None:
        super().__init__()
        norm = ChannelLayerNorm if norm_bias else BiasFreeLayerNorm
        self.norm1 = nn.ModuleDict({"body": norm(channels, eps=norm_eps)})
        self.attn = TransposedAttention(channels, num_heads, activation=attention, bias=bias)
        self.norm2 = nn.ModuleDict({"body": norm(channels, eps=norm_eps)})
        self.ffn = GatedFeedForward(channels, int(channels * ffn_expansion), bias=bias)

    def forward(self, x: Map) -> Map:
        return self.ffn(self.attn(x, self.norm1["body"]), self.norm2["body"])


class PatchEmbedding(nn.Module):
    """The stem of Restormer and PromptIR: a 3x3 convolution from RGB."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 3, padding=1, bias=bias)

    def forward(self, x: Map) -> Map:
        return map_rows(self.proj, x, channels=self.proj.out_channels, halo=1)


class Downsample(nn.Module):
    """Halve the sides and double the channels: 3x3 convolution, then pixel unshuffle."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=bias), nn.PixelUnshuffle(2))

    def forward(self, x: Map) -> Map:
        return map_rows(self.body, x, channels=x.shape[1], halo=2, multiple=2)


class Upsample(nn.Module):
    """Double the sides and halve the channels: 3x3 convolution, then pixel shuffle."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=bias), nn.PixelShuffle(2))

    def forward(self, x: Map, skip: Map, reduce: Callable[[Tensor], Tensor] | None = None) -> Map:
        """Return `x` enlarged, followed by the channels of `skip`; then made fewer, if wanted."""

        def join(x: Tensor, skip: Tensor) -> Tensor:
            y = torch.cat((self.body(x), skip), dim=1)
            return reduce(y) if reduce else y

        return map_rows(join, x, skip, channels=4 * x.shape[1], halo=1)
