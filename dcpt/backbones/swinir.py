"""SwinIR: residual stages of windowed self-attention, every other layer with shifted windows.

Paper: Liang et al., "SwinIR: Image Restoration Using Swin Transformer", ICCVW 2021
(arXiv 2108.10257), without up-sampling. Own implementation from the paper; parameter names
are the authors', so that their checkpoints load. DCPT leaves out the relative position bias
and the mask for shifted windows; its network is the default, the options bring both back.
Deviation that does not change the arithmetic: a layer works on rows of windows, so that large
pictures are computed strip by strip; the vertical part of a shift is where the strips begin.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.backbones.base import Backbone, Hook, Output, register_backbone
from dcpt.errors import InvalidSetting
from dcpt.layers import use_channels_last
from dcpt.strips import Map, lay_out, map_rows

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K
MASKED = -100.0  # what the paper adds to the logits of pairs that must not see each other


class Windows:
    """How the tokens of some rows are grouped into square windows.

    Args:
        size: Side of a window.
        shift: The grid starts this many tokens further down and right, around the borders.
    """

    def __init__(self, size: int, shift: int) -> None:
        self.size, self.shift = size, shift

    def split(self, x: Tensor) -> Tensor:
        """Return the tokens of rows, (B, C, H, W), by window, (B * windows, size^2, C)."""
        y = x.roll(-self.shift, 3) if self.shift else x
        y = y.permute(0, 2, 3, 1).unflatten(2, (-1, self.size)).unflatten(1, (-1, self.size))
        return y.transpose(2, 3).reshape(-1, self.size**2, x.shape[1])

    def join(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Put the tokens back to rows of the shape of `like`."""
        batch, channels, height, width = like.shape
        y = tokens.view(batch, height // self.size, width // self.size, self.size, self.size, channels)
        y = y.transpose(2, 3).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return y.roll(self.shift, 3) if self.shift else y

    def mask(self, zones: Tensor, width: int) -> Tensor:
        """Return what is added to the attention logits of some rows, (windows, 1, size^2, size^2).

        Args:
            zones: Zones of these rows, (1, 1, H, 1), of `row_zones`.
            width: Columns.
        """
        columns = wrapped_zones(width, self.size, self.shift, device=zones.device).roll(self.shift)
        tokens = self.split(3 * zones + columns).view(-1, 1, self.size**2)
        return (tokens[..., None] != tokens[..., None, :]) * MASKED

    def row_zones(self, height: int, device: torch.device) -> Tensor:
        """Return the zone of each row, (1, 1, H, 1)."""
        return wrapped_zones(height, self.size, self.shift, device=device).roll(self.shift).view(1, 1, -1, 1)


def wrapped_zones(length: int, size: int, shift: int, *, device: torch.device) -> Tensor:
    """Return which of the tokens along a shifted side may see each other: those of one number, (length,)."""
    position = torch.arange(length, device=device)
    return (position >= length - size).long() + (position >= length - shift).long()


class WindowAttention(nn.Module):
    """Multi-head self-attention among the tokens of a window."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window_size: int, num_heads: int, *, relative_position_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position_bias:
            table = torch.zeros((2 * window_size - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            self.register_buffer("relative_position_index", relative_positions(window_size), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend; `x` is (windows, tokens, C), the mask (windows, 1, tokens, tokens)."""
        num_windows, tokens, channels = x.shape
        qkv = self.qkv(x).view(num_windows, tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (windows, heads, tokens, C / heads)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(mask))
        return self.proj(y.transpose(1, 2).reshape(num_windows, tokens, channels))

    def _bias(self, mask: Tensor | None) -> Tensor | None:
        """Return what is added to the attention logits: position bias, mask, both or None."""
        if self.relative_position_bias_table is None:
            return mask
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1).unsqueeze(0)  # (1, heads, tokens, tokens)
        return bias if mask is None else bias + mask


def relative_positions(window_size: int) -> Tensor:
    """Return which row of the bias table each pair of tokens of a window uses, (tokens, tokens)."""
    index = torch.arange(window_size**2)
    row, column = index // window_size, index % window_size
    offsets = [axis[:, None] - axis[None, :] + window_size - 1 for axis in (row, column)]
    return offsets[0] * (2 * window_size - 1) + offsets[1]


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinLayer(nn.Module):
    """Window attention, then the MLP, each behind a layer norm and with a residual."""

    def __init__(
        self,
        channels: int,
        window_size: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        relative_position_bias: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.attn = WindowAttention(channels, window_size, num_heads, relative_position_bias=relative_position_bias)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class SwinStage(nn.Module):
    """Swin layers and a 3x3 convolution with a residual around them (RSTB).

    Source: SwinIR, section 3.2.
    """

    def __init__(
        self, channels: int, depth: int, window_size: int, num_heads: int, *, shift_mask: bool, **settings: Any
    ) -> None:
        super().__init__()
        layers = (SwinLayer(channels, window_size, num_heads, **settings) for _ in range(depth))
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(layers)})
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.window_size, self.shift_mask = window_size, shift_mask

    def forward(self, x: Map) -> Map:
        y = x
        for index, layer in enumerate(self.residual_group["blocks"]):
            y = self._attend(layer, y, Windows(self.window_size, self.window_size // 2 * (index % 2)))
        return map_rows(lambda y, x: self.conv(y) + x, y, x, channels=2 * x.shape[1], halo=1)

    def _attend(self, layer: nn.Module, x: Map, windows: Windows) -> Map:
        def attend(x: Tensor, *zones: Tensor) -> Tensor:
            mask = windows.mask(zones[0], x.shape[3]).repeat(len(x), 1, 1, 1) if zones else None
            return windows.join(layer(windows.split(x), mask), like=x)

        maps = [x]
        if self.shift_mask and windows.shift:
            maps.append(windows.row_zones(x.shape[2], next(layer.parameters()).device))
        return map_rows(attend, *maps, channels=3 * x.shape[1], multiple=windows.size, shift=windows.shift)


class SwinIR(Backbone):
    """SwinIR for pictures of unchanged size, with a global residual.

    Args:
        embed_dim: Channels of the tokens, a multiple of every number of heads.
        depths: Layers per stage; the second half of the stages gives the features.
        num_heads: Attention heads per stage.
        window_size: Side of the attention windows in pixels.
        mlp_ratio: Hidden width of the MLPs relative to their input.
        relative_position_bias: Add a learnt bias by the offset of two tokens (published).
        shift_mask: Keep tokens from opposite borders of the picture apart (published).
        norm_eps: Epsilon of the layer norms.
    """

    block_types = (SwinStage,)
    live_maps = 5.5
    supports_stored_maps = True
    mean: Tensor

    def __init__(
        self,
        *,
        embed_dim: int = 180,
        depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        num_heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        window_size: int = 8,
        mlp_ratio: float = 2.0,
        relative_position_bias: bool = False,
        shift_mask: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads) or len(depths) < 2 or window_size < 2:
            raise InvalidSetting(
                "expected two or more stages with as many num_heads, and windows of at least 2 pixels, "
                f"got depths={depths}, num_heads={num_heads}, window_size={window_size}"
            )
        if any(heads < 1 or embed_dim % heads for heads in num_heads):
            raise InvalidSetting(f"expected embed_dim divisible by every num_heads, got {embed_dim} and {num_heads}")
        num_features = len(depths) // 2
        self.feature_channels = (embed_dim,) * num_features
        self.feature_strides = (1,) * num_features
        self.size_multiple = window_size
        self.silent_options = {"shift_mask": shift_mask, "norm_eps": norm_eps}
        self.silent_options |= {"num_heads": num_heads, "window_size": window_size}
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)

        settings = {"mlp_ratio": mlp_ratio, "relative_position_bias": relative_position_bias, "norm_eps": norm_eps}
        self.conv_first = nn.Conv2d(3, embed_dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim, eps=norm_eps)})
        self.layers = nn.ModuleList(
            SwinStage(embed_dim, depth, window_size, heads, shift_mask=shift_mask, **settings)
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_last = nn.Conv2d(embed_dim, 3, 3, padding=1)
        self.apply(initialise)
        use_channels_last(self)

    def forward(self, x: Tensor, hook: Hook = False) -> Output:
        self.check_input(x)
        x, channels = lay_out(x), self.feature_channels[0]
        shallow = map_rows(lambda x: self.conv_first(x - self.mean), x, channels=channels, halo=1)
        y = map_rows(lambda x: self._normalise(x, self.patch_embed["norm"]), shallow, channels=channels)
        features: list[Tensor] = []
        for stage in self.layers:
            y = stage(y)
            features = [y, *features][: len(self.feature_channels)]
        if hook is True:
            return features
        y = map_rows(self._add_deep, y, shallow, channels=2 * channels, halo=1)
        restored = map_rows(self._add_change, x, y, channels=channels, halo=1)
        return (restored, features) if hook else restored

    def _add_deep(self, y: Tensor, shallow: Tensor) -> Tensor:
        return self.conv_after_body(self._normalise(y, self.norm)) + shallow

    def _add_change(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - self.mean) + self.conv_last(y) + self.mean

    @staticmethod
    def _normalise(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def initialise(module: nn.Module) -> None:
    """Fill a linear layer with a truncated normal of standard deviation 0.02, as the paper's release does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


@register_backbone
def swinir(**overrides: Any) -> SwinIR:
    """The 11.5 M parameter SwinIR of the DCPT paper: no position bias, no shift mask."""
    return SwinIR(**overrides)


@register_backbone
def swinir_small(**overrides: Any) -> SwinIR:
    """A SwinIR of four stages of four layers and 60 channels, for modest hardware."""
    options = {"embed_dim": 60, "depths": (4, 4, 4, 4), "num_heads": (6, 6, 6, 6)}
    return SwinIR(**(options | overrides))


@register_backbone
def swinir_test(**overrides: Any) -> SwinIR:
    """A tiny SwinIR on which a test takes milliseconds."""
    options = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    return SwinIR(**(options | overrides))
