"""The names that the world gives to the weights of one network, and what can be read off them.

Each family of networks has three dialects: that of the published network, that of DCPT and that
of MaskDCPT. The names in this package are the published ones. Where two options have the same
weights, names say nothing about what the network computes; such options are assumed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dcpt.backbones.swinir import Windows, relative_positions

Dialect = Literal["published", "dcpt", "maskdcpt"]
State = Mapping[str, Tensor]
Options = dict[str, Any]


def rename(state: State, *rules: tuple[str, str]) -> dict[str, Tensor]:
    """Return the state dict with regular expressions replaced in its names, one after the other.

    Raises:
        ValueError: If two tensors would have one name.
    """
    renamed: dict[str, Tensor] = {}
    for old, tensor in state.items():
        name = old
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise ValueError(f"{name} is there twice, once as {old}")
        renamed[name] = tensor
    return renamed


def count(names: Iterable[str], prefix: str) -> int:
    """Return how many modules are numbered behind a prefix, from 0 without a gap."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
    numbers = {int(match[1]) for match in map(pattern.match, names) if match}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def count_blocks(names: Iterable[str], prefixes: Iterable[str]) -> tuple[int, ...]:
    """Return how many blocks every stage has.

    Raises:
        ValueError: If a stage has none: a network could be so, but more likely its file is not whole.
    """
    counts = {prefix: count(names, prefix) for prefix in prefixes}
    empty = [prefix for prefix, number in counts.items() if not number]
    if empty:
        raise ValueError(f"blocks in every stage, found none called {empty[0]}0")
    return tuple(counts.values())


class Family:
    """The checkpoints of one network, here without any dialects; each network has a subclass.

    Attributes:
        markers: Beginnings of names that together tell the family, whatever the dialect.
        dcpt_sign: Pattern that only the names of DCPT begin with.
        unused: Pattern of names of tensors that follow from the options or that nothing uses.
        uncertain: Assumed options that really differ between checkpoints in one dialect.
        published: Options with the one value that the published network can compute.
        dcpt: Options with the one value that the network of DCPT can compute.
    """

    markers: ClassVar[tuple[str, ...]]
    dcpt_sign: ClassVar[str] = r"$^"
    unused: ClassVar[str] = r"$^"
    uncertain: ClassVar[frozenset[str]] = frozenset()
    published: ClassVar[Options] = {}
    dcpt: ClassVar[Options] = {}

    def read_dialect(self, state: State) -> Dialect:
        """Return the dialect of a state dict of this family."""
        if any(re.search(r"(?<!residual_group)\.blocks\.\d", name) for name in state):
            return "maskdcpt"
        return "dcpt" if any(re.match(self.dcpt_sign, name) for name in state) else "published"

    def to_published(self, state: State) -> dict[str, Tensor]:
        """Return the state dict with published names, whatever dialect it has."""
        raise NotImplementedError

    def to_dcpt(self, state: State) -> dict[str, Tensor]:
        """Return a state dict with published names under those of DCPT."""
        return dict(state)

    def read_options(self, state: State) -> Options:
        """Return the constructor options that published names and shapes tell.

        Raises:
            KeyError: If a name that tells one is missing.
        ValueError: If shapes contradict each other.
        """
        raise NotImplementedError

    def assume_options(self, dialect: Dialect, options: Options) -> Options:
        """Return the options that they do not tell, as networks of the dialect usually have them."""
        raise NotImplementedError

    def is_unused(self, name: str) -> bool:
        """Say whether a published name is of a tensor that no computation here needs."""
        return re.fullmatch(self.unused, name) is not None

    def complete(self, state: State, options: Options) -> dict[str, Tensor]:
        """Return the state dict with those tensors, which the published code wants."""
        return dict(state)


class NAFNetFamily(Family):
    """NAFNet; DCPT calls its decoder levels `decoder0`, `decoder1` ..."""

    markers = ("intro.", "middle_blks.")
    dcpt_sign = r"decoder\d"
    uncertain = frozenset({"pooling"})
    published: ClassVar[Options] = {"pooling": "global", "norm_eps": 1e-6}
    dcpt: ClassVar[Options] = {"norm_eps": 1e-6}

    def to_published(self, state: State) -> dict[str, Tensor]:
        return rename(
            state,
            (r"^(encoder|decoder)s?\.?(\d+)\.(?:blocks\.)?", r"\1s.\2."),
            (r"^middle_blks\.blocks\.", "middle_blks."),
        )

    def to_dcpt(self, state: State) -> dict[str, Tensor]:
        return rename(state, (r"^decoders\.(\d+)\.", r"decoder\1."))

    def read_options(self, state: State) -> Options:
        levels = range(count(state, "downs."))
        return {
            "width": len(state["intro.weight"]),
            "encoder_blocks": count_blocks(state, (f"encoders.{level}." for level in levels)),
            "middle_blocks": count(state, "middle_blks."),
            "decoder_blocks": count_blocks(state, (f"decoders.{level}." for level in levels)),
        }

    def assume_options(self, dialect: Dialect, options: Options) -> Options:
        return {"pooling": "global", "norm_eps": 1e-5 if dialect == "maskdcpt" else 1e-6}


class RestormerFamily(Family):
    """Restormer; DCPT wraps its stages in `body`, MaskDCPT in `blocks`."""

    markers = ("patch_embed.", "latent.")
    dcpt_sign = r"(encoder_level1|latent|refinement)\.body\."
    uncertain = frozenset({"attention", "norm_eps"})
    published: ClassVar[Options] = {"attention": "softmax", "norm_eps": 1e-5, "bias": False}
    dcpt: ClassVar[Options] = {"norm_eps": 1e-6, "bias": False}
    stages: ClassVar[str] = r"^((?:en|de)coder_level\d|latent|refinement)\."
    widest: ClassVar[str] = "latent.0"  # the block whose widths tell the expansion most exactly

    def to_published(self, state: State) -> dict[str, Tensor]:
        return rename(
            state,
            (self.stages + r"(?:body|blocks)\.", r"\1."),
            (r"\.norm(\d)\.(weight|bias)$", r".norm\1.body.\2"),
            (r"^(down|up)(\d_\d)\.conv\.", r"\1\2.body.0."),
        )

    def to_dcpt(self, state: State) -> dict[str, Tensor]:
        return rename(state, (self.stages, r"\1.body."))

    def read_options(self, state: State) -> Options:
        levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
        dim = len(state["patch_embed.proj.weight"])
        return {
            "dim": dim,
            "num_blocks": count_blocks(state, (f"{level}." for level in levels)),
            "num_refinement_blocks": count(state, "refinement."),
            "num_heads": tuple(len(state[f"{level}.0.attn.temperature"]) for level in levels),
            "ffn_expansion": roundest_factor(*state[f"{self.widest}.ffn.project_out.weight"].shape[1::-1]),
            "bias": "latent.0.attn.qkv.bias" in state,
            "norm_bias": "latent.0.norm1.body.bias" in state,
        }

    def assume_options(self, dialect: Dialect, options: Options) -> Options:
        attention = "softmax" if dialect == "published" else "relu"
        return {"attention": attention, "norm_eps": 1e-6 if dialect == "dcpt" else 1e-5}


def roundest_factor(product: int, factor: int) -> float:
    """Return the shortest decimal number x with int(x * factor) == product."""
    candidates = (round((product + 0.5) / factor, digits) for digits in range(1, 16))
    return next(x for x in candidates if int(x * factor) == product)


class PromptIRFamily(RestormerFamily):
    """PromptIR; published checkpoints carry six convolutions that nothing uses."""

    markers = ("patch_embed.", "latent.", "prompt1.")
    unused = r"(chnl_reduce|reduce_noise_channel_)[123]\.(weight|bias)"
    uncertain = frozenset()
    published: ClassVar[Options] = {
        "norm_eps": 1e-5, "bias": False, "dim": 48, "num_components": 5, "prompt_sizes": (64, 32, 16),
    }  # fmt: skip
    widest = "noise_level3"
    dcpt: ClassVar[Options] = published

    def read_dialect(self, state: State) -> Dialect:
        dialect = super().read_dialect(state)
        has_unused = any(re.match(self.unused, name) for name in state)
        return "dcpt" if dialect == "published" and not has_unused else dialect

    def to_dcpt(self, state: State) -> dict[str, Tensor]:
        return dict(state)

    def read_options(self, state: State) -> Options:
        prompts = [state[f"prompt{level}.prompt_param"].shape for level in (1, 2, 3)]
        options = super().read_options(state) | {
            "num_components": prompts[0][1],
            "prompt_sizes": tuple(shape[-1] for shape in prompts),
        }
        del options["norm_bias"]
        return options

    def assume_options(self, dialect: Dialect, options: Options) -> Options:
        return {"norm_eps": 1e-5}

    def complete(self, state: State, options: Options) -> dict[str, Tensor]:
        shapes = {
            "chnl_reduce1": (64, 64), "chnl_reduce2": (128, 128), "chnl_reduce3": (256, 320),
            "reduce_noise_channel_1": (48, 112), "reduce_noise_channel_2": (96, 224),
            "reduce_noise_channel_3": (192, 448),
        }  # fmt: skip
        return dict(state) | {f"{name}.weight": torch.zeros(*shape, 1, 1) for name, shape in shapes.items()}


class SwinIRFamily(Family):
    """SwinIR; DCPT calls the two halves of its stages `encode_layers.{i}` and `decode_layers{i}`."""

    markers = ("conv_first.", "conv_after_body.", "patch_embed.")
    dcpt_sign = r"(encode_layers\.|decode_layers)\d"
    unused = r"layers\.\d+\.residual_group\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)"
    uncertain = frozenset({"shift_mask", "num_heads", "window_size"})
    jpeg_window: ClassVar[int] = 7
    published: ClassVar[Options] = {"shift_mask": True, "norm_eps": 1e-5}
    dcpt: ClassVar[Options] = {"shift_mask": False, "relative_position_bias": False, "norm_eps": 1e-5}

    def to_published(self, state: State) -> dict[str, Tensor]:
        half = count(state, "encode_layers.")
        halves = half, len({match[0] for match in map(re.compile(r"decode_layers\d+").match, state) if match})
        if not 0 <= halves[1] - halves[0] <= 1:
            raise ValueError(f"as many encode_layers as decode_layers, got {halves[0]} and {halves[1]}")
        last = tuple((rf"^decode_layers{stage}\.", f"layers.{half + stage}.") for stage in range(half + 1))
        return rename(state, (r"^encode_layers\.", "layers."), *last)

    def to_dcpt(self, state: State) -> dict[str, Tensor]:
        stages = count(state, "layers.")
        half = stages // 2
        last = tuple((rf"^layers\.{half + stage}\.", f"decode_layers{stage}.") for stage in range(stages - half))
        return rename(state, *last, (r"^layers\.", "encode_layers."))

    def read_options(self, state: State) -> Options:
        embed_dim = len(state["conv_first.weight"])
        blocks = [f"layers.{stage}.residual_group.blocks." for stage in range(count(state, "layers."))]
        options: Options = {
            "embed_dim": embed_dim,
            "depths": count_blocks(state, blocks),
            "mlp_ratio": roundest_factor(*state["layers.0.residual_group.blocks.0.mlp.fc1.weight"].shape),
            "relative_position_bias": any(name.endswith(".relative_position_bias_table") for name in state),
        }
        if options["relative_position_bias"]:
            tables = [state[f"{prefix}0.attn.relative_position_bias_table"].shape for prefix in blocks]
            options["num_heads"] = tuple(heads for _, heads in tables)
            options["window_size"] = (math.isqrt(tables[0][0]) + 1) // 2
        if any(name.endswith(".attn_mask") for name in state):
            options["shift_mask"] = True
        if options.get("window_size") == self.jpeg_window:
            raise ValueError("a network for values in [0, 1]; SwinIR's JPEG networks, of window 7, work in [0, 255]")
        return options

    def assume_options(self, dialect: Dialect, options: Options) -> Options:
        assumed = {"shift_mask": dialect == "published", "norm_eps": 1e-5, "window_size": 8}
        return assumed | {"num_heads": (6,) * len(options["depths"])}

    def complete(self, state: State, options: Options) -> dict[str, Tensor]:
        # A bias of zero is none; tables and masks are in every published file, the masks for 64x64 pixels.
        size, heads = options["window_size"], options["num_heads"]
        windows = Windows(size, size // 2)
        zones = windows.row_zones(8 * size, torch.device("cpu")).roll(-windows.shift, 2)
        mask = windows.mask(zones, 8 * size)[:, 0]
        complete = dict(state)
        for stage, depth in enumerate(options["depths"]):
            for layer in range(depth):
                block = f"layers.{stage}.residual_group.blocks.{layer}."
                complete.setdefault(
                    f"{block}attn.relative_position_bias_table", torch.zeros((2 * size - 1) ** 2, heads[stage])
                )
                complete[f"{block}attn.relative_position_index"] = relative_positions(size)
                if layer % 2:
                    complete[f"{block}attn_mask"] = mask.clone()
        return complete


# PromptIR before Restormer, whose names are among its own.
FAMILIES: dict[str, Family] = {
    "nafnet": NAFNetFamily(),
    "promptir": PromptIRFamily(),
    "restormer": RestormerFamily(),
    "swinir": SwinIRFamily(),
}


def recognise_family(state: State) -> str | None:
    """Return the family whose markers are all among the names, or None."""
    for name, family in FAMILIES.items():
        if all(any(key.startswith(marker) for key in state) for marker in family.markers):
            return name
    return None
