"""Blocks that two or more papers truly share, written for channels-last data."""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.errors import InvalidSetting

Attention = Literal["softmax", "relu"]

# Depthwise convolutions run at half speed on channel counts that are no multiple of this.
CHANNEL_STEP = 16

VALUES_AT_ONCE = 2**22  # 16 MiB of float32


def use_channels_last(module: nn.Module) -> None:
    """Lay out the weights of all convolutions channels-last; `Module.to` fails on 5-D parameters."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)


def items_at_once(x: Tensor, num_values: int) -> int:
    """Return how many items to compute at once that have so many intermediate values each.

    On the CPU, without gradients, results that stay in the cache and in memory already paged in
    save a third of the time of a large picture, and most of the memory. Elsewhere it is all.

    Args:
        x: What is computed on.
        num_values: Values of the widest intermediate result per item.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return sys.maxsize
    return max(8, VALUES_AT_ONCE // max(1, num_values))


class Rows(NamedTuple):
    """A strip of a map: its own rows, those to give a 3x3 convolution, and which of its results are right."""

    own: slice
    halo: slice
    inner: slice


def row_strips(x: Tensor, channels: int) -> list[Rows]:
    """Cut a map into strips for intermediate results of so many channels; see `items_at_once`.

    Args:
        x: The map, (B, C, H, W).
        channels: Channels of the widest intermediate result.
    """
    batch, _, height, width = x.shape
    count = min(height, items_at_once(x, batch * width * channels))
    starts = range(0, height, count)
    return [
        Rows(slice(top, top + count), slice(max(0, top - 1), top + count + 1), slice(min(top, 1), min(top, 1) + count))
        for top in starts
    ]


def join_rows(strips: list[Tensor]) -> Tensor:
    """Put the strips of a map, each (B, C, rows, W), together again."""
    return torch.cat(strips, dim=2) if len(strips) > 1 else strips[0]


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

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the attention of `x` plus `residual`, both (B, C, H, W)."""
        batch, channels, height, width = x.shape
        strips = [self._look(x, rows) for rows in row_strips(x, 3 * channels)]
        similarity, q_squares, k_squares = (sum(parts) for parts in zip(*(strip[:3] for strip in strips)))
        v = torch.cat([strip[3] for strip in strips], dim=1) if len(strips) > 1 else strips[0][3]

        # Clamped before the root, whose gradient is infinite at zero: a black picture is all zeros.
        norms = [squares.clamp_min(1e-24).sqrt() for squares in (q_squares, k_squares)]  # (B, heads, C / heads)
        similarity = similarity * self.temperature / (norms[0][..., :, None] * norms[1][..., None, :])
        attention = similarity.softmax(-1) if self.activation == "softmax" else similarity.relu()
        project = self.project_out.weight.view(channels, self.num_heads, -1).transpose(0, 1)
        mix = (project @ attention).permute(0, 1, 3, 2).flatten(1, 2)  # (B, C, C)
        y = torch.baddbmm(residual.permute(0, 2, 3, 1).flatten(1, 2), v, mix)
        if self.project_out.bias is not None:
            y = y + self.project_out.bias
        return y.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _look(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what rows of the map add to similarity and squared norms, and their values, (B, pixels, C)."""
        qkv = self.qkv_dwconv(self.qkv(x[:, :, rows.halo]))[:, :, rows.inner]
        q, k, v = qkv.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, dim=-1)
        q, k = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k))  # (B, pixels, heads, C / heads)
        similarity = q.permute(0, 2, 3, 1) @ k.transpose(1, 2)
        return similarity, q.square().sum(1), k.square().sum(1), v


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

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.project_in.out_channels // 2 + self.gap
        parameters = (self.project_in.weight, self.project_in.bias, self.dwconv.weight, self.dwconv.bias)
        branches = list(zip(*map(self._halves, parameters), strict=True))
        project_out = F.pad(self.project_out.weight, (0, 0, 0, 0, 0, self.gap))

        def run(rows: Rows) -> Tensor:
            gate, value = (
                F.conv2d(F.conv2d(x[:, :, rows.halo], *inner), *outer, padding=1, groups=hidden)[:, :, rows.inner]
                for inner, outer in ((branch[:2], branch[2:]) for branch in branches)
            )
            return F.conv2d(F.gelu(gate) * value, project_out, self.project_out.bias)

        return join_rows([run(rows) for rows in row_strips(x, hidden)])

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

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1["body"](x), residual=x)
        return x + self.ffn(self.norm2["body"](x))


class PatchEmbedding(nn.Module):
    """The stem of Restormer and PromptIR: a 3x3 convolution from RGB."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Downsample(nn.Module):
    """Halve the sides and double the channels: 3x3 convolution, then pixel unshuffle."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=bias), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Double the sides and halve the channels: 3x3 convolution, then pixel shuffle."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=bias), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)
