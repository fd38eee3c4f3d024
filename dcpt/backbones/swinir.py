"""SwinIR: residual stages of windowed self-attention, every other layer with shifted windows.

Paper: Liang et al., "SwinIR: Image Restoration Using Swin Transformer", ICCVW 2021
(arXiv 2108.10257), without up-sampling. Own implementation from the paper; parameter names
are the authors', so that their checkpoints load. DCPT leaves out the relative position bias
and the mask for shifted windows; its network is the default, the options bring both back.
Deviation that does not change the arithmetic: tokens are put in the order of the windows, and
back, by one gather each instead of a roll and a transposition.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcpt.backbones.base import Backbone, Hook, Output, register_backbone
from dcpt.errors import InvalidSetting
from dcpt.layers import items_at_once, use_channels_last

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K
MASKED = -100.0  # what the paper adds to the logits of pairs that must not see each other


class Windows:
    """How the tokens of a picture, row by row, are grouped into square windows.

    Args:
        height: Rows of tokens, a multiple of `size`.
        width: Columns of tokens, likewise.
        size: Side of a window.
        shift: The grid starts this many tokens further down and right, around the borders.
        masked: Keep tokens that only the wrap brought together from seeing each other.
        device: Where the tokens are.
    """

    def __init__(self, height: int, width: int, size: int, *, shift: int, masked: bool, device: torch.device) -> None:
        index = torch.arange(height * width, device=device).view(height, width).roll((-shift, -shift), (0, 1))
        self.order = self._group(index, size)
        self.inverse = torch.argsort(self.order)
        self.mask = self._mask(height, width, size, shift, device) if masked and shift else None

    @staticmethod
    def _group(plane: Tensor, size: int) -> Tensor:
        rows = plane.unflatten(0, (-1, size)).unflatten(2, (-1, size))  # (H/s, s, W/s, s)
        return rows.transpose(1, 2).flatten()

    def _mask(self, height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
        """Return what is added to the attention logits, (windows, 1, size^2, size^2)."""
        row, column = (
            (torch.arange(length, device=device) >= length - size).long()
            + (torch.arange(length, device=device) >= length - shift).long()
            for length in (height, width)
        )
        region = self._group(3 * row[:, None] + column, size).view(-1, 1, size * size)
        return (region[..., None] != region[..., None, :]) * MASKED


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

    def __init__(self, channels: int, depth: int, window_size: int, num_heads: int, **settings: Any) -> None:
        super().__init__()
        layers = (SwinLayer(channels, window_size, num_heads, **settings) for _ in range(depth))
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(layers)})
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.window_size = window_size

    def forward(self, x: Tensor, grids: tuple[Windows, Windows]) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H*W, C), a view of channels-last data
        at_once = items_at_once(x, self.window_size**2 * 3 * channels)
        for index, layer in enumerate(self.residual_group["blocks"]):
            windows = grids[index % 2]
            groups = tokens.index_select(1, windows.order).view(-1, self.window_size**2, channels).split(at_once)
            masks = [None] * len(groups)
            if windows.mask is not None:
                masks = windows.mask.repeat(batch, 1, 1, 1).split(at_once)
            tokens = torch.cat([layer(group, mask) for group, mask in zip(groups, masks, strict=True)])
            tokens = tokens.view(batch, -1, channels).index_select(1, windows.inverse)
        return self.conv(tokens.view(batch, height, width, channels).permute(0, 3, 1, 2)) + x


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
        self.size_multiple = self.window_size = window_size
        self.shift_mask = shift_mask
        self.silent_options = {"shift_mask": shift_mask, "norm_eps": norm_eps}
        self.silent_options |= {"num_heads": num_heads, "window_size": window_size}
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)

        settings = {"mlp_ratio": mlp_ratio, "relative_position_bias": relative_position_bias, "norm_eps": norm_eps}
        self.conv_first = nn.Conv2d(3, embed_dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim, eps=norm_eps)})
        self.layers = nn.ModuleList(
            SwinStage(embed_dim, depth, window_size, heads, **settings)
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_last = nn.Conv2d(embed_dim, 3, 3, padding=1)
        self.apply(initialise)
        use_channels_last(self)

    def forward(self, x: Tensor, hook: Hook = False) -> Output:
        self.check_input(x)
        height, width = x.shape[-2:]
        grids = tuple(
            Windows(height, width, self.window_size, shift=shift, masked=self.shift_mask, device=x.device)
            for shift in (0, self.window_size // 2)
        )
        x = (x - self.mean).contiguous(memory_format=torch.channels_last)
        shallow = self.conv_first(x)
        y = self._normalise(shallow, self.patch_embed["norm"])
        features: list[Tensor] = []
        for stage in self.layers:
            y = stage(y, grids)
            features = [y, *features][: len(self.feature_channels)]
        if hook is True:
            return features
        y = self.conv_after_body(self._normalise(y, self.norm)) + shallow
        restored = x + self.conv_last(y) + self.mean
        return (restored, features) if hook else restored

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
