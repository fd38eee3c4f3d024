"""Checkpoints of every family and dialect: recognised, refused by name, written, read again."""

import json
import pickle
import re
import shutil
import warnings

import fill
import numpy as np
import pytest
import torch
from conftest import GOLDEN, relative_error
from safetensors.torch import load_file

import dcpt
from dcpt.backbones import create_backbone
from dcpt.conversion import export_checkpoint, load_checkpoint, read_checkpoint
from dcpt.errors import CheckpointMismatch, InvalidSetting, UnknownName

# Test-sized networks that the published code of each family can compute, and the official ones of DCPT.
PUBLISHED = {
    "nafnet": {},
    "restormer": {"attention": "softmax", "norm_eps": 1e-5, "norm_bias": True},
    "swinir": {"relative_position_bias": True, "shift_mask": True},
}
OFFICIAL = {"nafnet": {}, "restormer": {}, "swinir": {"num_heads": (6, 6), "window_size": 8}}
TRANSFORMERS = ("promptir", "restormer")

pytestmark = pytest.mark.filterwarnings("ignore:the weights in .* do not tell")


def network(family, **options):
    torch.manual_seed(1)
    backbone = create_backbone(f"{family}_test", **options).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return backbone


@pytest.fixture
def x():
    return torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def same_picture(a, b, x):
    return relative_error(a(x), b(x)) < 1e-6


def mask_dcpt_names(family, state):
    """MaskDCPT's names by the table in the method's description."""
    renamed = {}
    for name, tensor in state.items():
        if family == "nafnet":
            name = re.sub(r"^((?:en|de)coders\.\d|middle_blks)\.", r"\1.blocks.", name)
        else:
            name = re.sub(r"^((?:en|de)coder_level\d|latent|refinement)\.", r"\1.blocks.", name)
            name = re.sub(r"\.norm(\d)\.body\.", r".norm\1.", name)
            name = re.sub(r"^((?:down|up)\d_\d)\.body\.0\.", r"\1.conv.", name)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("case", ["nafnet", "promptir", "restormer", "restormer_softmax_withbias", "swinir"])
def test_the_names_and_shapes_of_the_official_files_come_out_again(case, tmp_path):
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())["backbone_shapes"]
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "in.pth")
    checkpoint = read_checkpoint(tmp_path / "in.pth")
    assert (checkpoint.family, checkpoint.dialect) == (case.split("_")[0], "dcpt")
    export_checkpoint(checkpoint.build(), tmp_path / "out.safetensors", dialect="dcpt")
    assert {name: list(t.shape) for name, t in load_file(tmp_path / "out.safetensors").items()} == shapes


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_file_gives_the_same_picture_and_options(family, suffix, tmp_path, x):
    backbone = network(family, **PUBLISHED[family])
    export_checkpoint(backbone, tmp_path / f"out{suffix}", dialect="published")
    checkpoint = read_checkpoint(tmp_path / f"out{suffix}")
    assert (checkpoint.family, checkpoint.dialect) == (family, "published")
    assert same_picture(checkpoint.build(), backbone, x)


@pytest.mark.parametrize("family", OFFICIAL)
def test_a_dcpt_file_gives_the_same_picture(family, tmp_path, x):
    backbone = network(family, **OFFICIAL[family])
    export_checkpoint(backbone, tmp_path / "out.pth", dialect="dcpt")
    assert read_checkpoint(tmp_path / "out.pth").dialect == "dcpt"
    assert same_picture(load_checkpoint(tmp_path / "out.pth"), backbone, x.repeat(1, 1, 1, 2)[..., :16, :32])


@pytest.mark.parametrize("family", ["nafnet", *TRANSFORMERS])
def test_a_maskdcpt_file_gives_the_same_picture(family, tmp_path, x):
    options = {"norm_eps": 1e-5} | ({"bias": True} if family in TRANSFORMERS else {})
    backbone = network(family, **options)
    torch.save({"params_ema": mask_dcpt_names(family, backbone.state_dict())}, tmp_path / "in.pth")
    assert read_checkpoint(tmp_path / "in.pth").dialect == "maskdcpt"
    assert same_picture(load_checkpoint(tmp_path / "in.pth"), backbone, x)


@pytest.mark.parametrize("options", [{}, {"relative_position_bias": True, "num_heads": (3, 2), "window_size": 2}])
def test_the_options_of_a_swinir_are_read_off_its_tables(options, tmp_path):
    backbone = network("swinir", shift_mask=True, **options)
    export_checkpoint(backbone, tmp_path / "out.safetensors")
    silent = load_checkpoint(tmp_path / "out.safetensors").silent_options
    assert silent == {name: tuple(v) if name == "num_heads" else v for name, v in backbone.silent_options.items()}


@pytest.mark.parametrize("container", ["params", "params_ema", "state_dict"])
@pytest.mark.parametrize("prefix", ["module.", "net.", "model.", "module.net."])
def test_containers_and_prefixes_are_seen_through(container, prefix, tmp_path, x):
    backbone = network("nafnet")
    state = {f"{prefix}{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save({container: state, "epoch": 3}, tmp_path / "in.ckpt")
    assert same_picture(load_checkpoint(tmp_path / "in.ckpt"), backbone, x)


def test_averaged_weights_are_preferred(tmp_path, x):
    backbone, other = network("nafnet"), create_backbone("nafnet_test")
    torch.save({"params": other.state_dict(), "params_ema": backbone.state_dict()}, tmp_path / "in.pth")
    assert same_picture(load_checkpoint(tmp_path / "in.pth"), backbone, x)


def test_half_precision_files_are_computed_in_single(tmp_path):
    state = {name: tensor.half() for name, tensor in network("nafnet").state_dict().items()}
    torch.save(state, tmp_path / "in.bin")
    assert {p.dtype for p in load_checkpoint(tmp_path / "in.bin").parameters()} == {torch.float32}


def test_the_unused_convolutions_of_published_promptir_are_dropped(tmp_path, x):
    backbone = network("promptir")
    unused = {f"net.chnl_reduce{i}.weight": torch.zeros(1) for i in (1, 2, 3)}
    unused |= {f"net.reduce_noise_channel_{i}.weight": torch.zeros(1) for i in (1, 2, 3)}
    state = {f"net.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save({"state_dict": state | unused}, tmp_path / "model.ckpt")
    assert read_checkpoint(tmp_path / "model.ckpt").dialect == "published"
    assert same_picture(load_checkpoint(tmp_path / "model.ckpt"), backbone, x)


def test_what_the_weights_do_not_tell_is_assumed_with_a_warning_or_given(tmp_path, x):
    backbone = network("restormer", attention="softmax")
    export_checkpoint(backbone, tmp_path / "in.pth", dialect="dcpt")
    with pytest.warns(UserWarning, match="attention and norm_eps; assumed attention='relu', norm_eps=1e-06"):
        assumed = load_checkpoint(tmp_path / "in.pth")
    assert not same_picture(assumed, backbone, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = dcpt.from_pretrained(tmp_path / "in.pth", attention="softmax", norm_eps=1e-6)
    assert same_picture(given, backbone, x)


def test_options_that_contradict_the_weights_or_do_not_exist_are_refused(tmp_path):
    export_checkpoint(network("restormer"), tmp_path / "in.pth", dialect="dcpt")
    with pytest.raises(CheckpointMismatch, match="has dim=8, got dim=16"):
        load_checkpoint(tmp_path / "in.pth", dim=16)
    with pytest.raises(UnknownName, match="'atention'; did you mean 'attention'"):
        load_checkpoint(tmp_path / "in.pth", atention="softmax")
    with pytest.raises(InvalidSetting, match="no options beside nafnet-small-10d"):
        dcpt.from_pretrained("nafnet-small-10d", pooling="local")


@pytest.mark.parametrize(
    "family, options, dialect, reason",
    [
        ("restormer", {}, "published", "attention='softmax', this one attention='relu'"),
        ("restormer", {"attention": "softmax"}, "published", "norm_eps=1e-05, this one norm_eps=1e-06"),
        ("swinir", {"relative_position_bias": True}, "published", "shift_mask=True, this one shift_mask=False"),
        ("swinir", {"relative_position_bias": True}, "dcpt", "relative_position_bias=False"),
        ("nafnet", {"pooling": "local"}, "published", "pooling='global', this one pooling='local'"),
        ("promptir", {}, "published", "dim=48, this one dim=12"),
        ("promptir", {"norm_eps": 1e-6}, "dcpt", "norm_eps=1e-05"),
    ],
)
def test_a_network_that_the_other_code_would_compute_differently_is_not_exported(
    family, options, dialect, reason, tmp_path
):
    with pytest.raises(CheckpointMismatch, match=reason):
        export_checkpoint(network(family, **options), tmp_path / "out.pth", dialect=dialect)
    assert not list(tmp_path.iterdir())


def test_exports_have_the_names_and_shapes_of_the_published_networks(tmp_path):
    # From the authors' releases: totals with the unused convolutions of PromptIR (35.59 M in its paper's code),
    # index tables and masks of SwinIR for its 64x64 training pictures.
    with torch.device("meta"):
        sizes = {"restormer": PUBLISHED["restormer"], "swinir": PUBLISHED["swinir"], "promptir": {}, "nafnet": {}}
        backbones = {name: create_backbone(name, **options) for name, options in sizes.items()}
    exported = {}
    for name, backbone in backbones.items():
        export_checkpoint(backbone.to_empty(device="cpu"), tmp_path / f"{name}.safetensors")
        exported[name] = {k: tuple(t.shape) for k, t in load_file(tmp_path / f"{name}.safetensors").items()}
    assert sum(torch.Size(shape).numel() for shape in exported["promptir"].values()) == 35_592_263
    assert sum(torch.Size(shape).numel() for shape in exported["restormer"].values()) == 26_126_644
    swinir = exported["swinir"]
    block = "layers.5.residual_group.blocks.1."
    assert swinir[f"{block}attn_mask"] == (64, 64, 64)
    assert swinir[f"{block}attn.relative_position_index"] == (64, 64)
    assert swinir[f"{block}attn.relative_position_bias_table"] == (225, 6)
    assert "layers.5.residual_group.blocks.0.attn_mask" not in swinir
    assert exported["nafnet"]["decoders.3.0.beta"] == (1, 64, 1, 1)
    assert exported["restormer"]["encoder_level1.0.norm1.body.bias"] == (48,)


def test_exports_open_in_spandrel(tmp_path, x):
    pytest.importorskip("torchvision", reason="spandrel needs torchvision", exc_type=ImportError)
    spandrel = pytest.importorskip("spandrel", exc_type=ImportError)
    for family in ("nafnet", "swinir"):
        options = PUBLISHED[family] | ({"num_heads": (6, 6), "window_size": 8} if family == "swinir" else {})
        backbone = network(family, **options)
        export_checkpoint(backbone, tmp_path / f"{family}.pth")
        theirs = spandrel.ModelLoader().load_from_file(tmp_path / f"{family}.pth").model.eval()
        assert same_picture(theirs, backbone, torch.rand(1, 3, 32, 32))


def official_weights(case):
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())["backbone_shapes"]
    return {name: torch.from_numpy(value) for name, value in fill.fill_state_dict(shapes).items()}


# What the published names are, given those of DCPT: the table in the method's description, read backwards.
PUBLISHED_NAMES = {
    "nafnet": (r"^decoder(\d)\.", r"decoders.\1."),
    "promptir": (r"^", "net."),
    "restormer_softmax_withbias": (r"^((?:en|de)coder_level\d|latent|refinement)\.body\.", r"\1."),
    "swinir": (r"^(?:encode_layers\.|decode_layers)(\d)\.", None),
}


@pytest.mark.parametrize("case", PUBLISHED_NAMES)
def test_the_reference_weights_under_published_names_give_the_reference_picture(case, tmp_path):
    pattern, replacement = PUBLISHED_NAMES[case]

    def published(name):
        if replacement is None:  # SwinIR's stages are numbered through
            return re.sub(pattern, lambda m: f"layers.{int(m[1]) + 3 * m[0].startswith('decode')}.", name)
        return re.sub(pattern, replacement, name)

    options = {"restormer_softmax_withbias": {"norm_eps": 1e-6}, "swinir": {"shift_mask": False}}.get(case, {})
    torch.save({"params": {published(n): t for n, t in official_weights(case).items()}}, tmp_path / "in.pth")
    assert case == "promptir" or read_checkpoint(tmp_path / "in.pth").dialect == "published"
    reference = np.load(GOLDEN / f"{case}.npz")
    backbone = load_checkpoint(tmp_path / "in.pth", **options)
    with torch.inference_mode():
        assert relative_error(backbone(torch.from_numpy(reference["lq"])), reference["restored"]) < 1e-4


def malformed(kind):
    """A NAFNet checkpoint that is wrong in a way no training program would produce."""
    state = network("nafnet").state_dict()
    weight = state["intro.weight"]
    if kind == "cycle":
        state = {}
        state["params"] = state
        return state
    return {
        "numbered names": {1: weight, None: weight},
        "scalar": state | {"intro.weight": torch.tensor(1.0)},
        "no decoders": {n: t for n, t in state.items() if not n.startswith("decoders.")},
        "extra level": state | {"decoders.2.0.beta": torch.zeros(1, 8, 1, 1)},
        "far level": state | {"encoders.20.0.beta": torch.zeros(1, 8, 1, 1)},
        "many blocks": state | {"middle_blks.3000.beta": torch.zeros(1, 32, 1, 1)},
        "sparse": state | {"intro.weight": weight.to_sparse()},
        "complex": state | {"intro.weight": weight.to(torch.complex64)},
        "twice": state | {"decoder0.0.beta": torch.zeros(1, 16, 1, 1)},
        "almost unused": state | {"layers.0.attn_mask": torch.zeros(1)},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "numbered names", "cycle", "scalar", "no decoders", "extra level", "far level", "many blocks", "sparse",
        "complex", "twice", "almost unused",
    ],
)  # fmt: skip
def test_malformed_files_are_refused_in_one_line(kind, tmp_path):
    torch.save(malformed(kind), tmp_path / "bad.pth")
    with pytest.raises(CheckpointMismatch, match=re.escape(str(tmp_path / "bad.pth"))) as refusal:
        load_checkpoint(tmp_path / "bad.pth")
    assert "\n" not in str(refusal.value)


def test_swinir_for_jpeg_is_refused_for_its_range(tmp_path):
    backbone = network("swinir", window_size=7, **PUBLISHED["swinir"])
    with pytest.raises(CheckpointMismatch, match=r"window 7, work in \[0, 255\]"):
        export_checkpoint(backbone, tmp_path / "out.pth")
    torch.save(backbone.state_dict(), tmp_path / "in.pth")
    with pytest.raises(CheckpointMismatch, match=r"window 7, work in \[0, 255\]"):
        load_checkpoint(tmp_path / "in.pth")


def test_paths_are_told_from_names(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "run.pt")
    assert dcpt.from_pretrained(tmp_path / "run.pt").variant == "nafnet_test"
    export_checkpoint(network("nafnet"), tmp_path / "weights.PTH")
    assert dcpt.from_pretrained(tmp_path / "weights.PTH").variant == "nafnet"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointMismatch, match="expected a model folder with a valid config.json"):
        dcpt.from_pretrained(tmp_path / "empty")
    (tmp_path / "weights.onnx").write_bytes(b"")
    with pytest.raises(CheckpointMismatch, match="expected a file ending in"):
        dcpt.from_pretrained(tmp_path / "weights.onnx")


class Poison:
    def __reduce__(self):
        return (print, ("executed",))


def damage(state, path, kind):
    """Write a damaged version of a checkpoint; return what the refusal must say."""
    if kind == "missing":
        del state["middle_blks.0.conv1.weight"]
        message = "missing middle_blks.0.conv1.weight"
    elif kind == "extra":
        state["extra.weight"] = torch.zeros(1)
        message = "unexpected extra.weight"
    elif kind == "shape":
        state["ending.bias"] = torch.zeros(4)
        message = r"ending.bias is \(4,\) instead of \(3,\)"
    elif kind == "nan":
        state["intro.weight"][0] = float("nan")
        message = "intro.weight has values that are not finite"
    elif kind == "family":
        state = {"layer1.0.conv1.weight": torch.zeros(8, 8, 3, 3), "fc.bias": torch.zeros(10)}
        message = "expected a checkpoint of one of nafnet, promptir, restormer, swinir"
    elif kind == "no tensors":
        state = {"epoch": 3}
        message = "expected named tensors in .*, got epoch"
    torch.save({"params": state}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
        message = "cannot read weights from"
    elif kind == "empty":
        path.write_bytes(b"")
        message = "cannot read weights from|refused"
    elif kind == "poisoned":
        path.write_bytes(pickle.dumps({"params": Poison()}))
        message = "refused .*could run code"
    elif kind == "poisoned archive":
        torch.save({"params": state, "extra": Poison()}, path)
        message = "refused .*could run code"
    return message


@pytest.mark.parametrize(
    "kind",
    [
        "missing", "extra", "shape", "nan", "family", "no tensors",
        "truncated", "empty", "poisoned", "poisoned archive",
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_name_in_one_line(kind, tmp_path, capsys):
    path = tmp_path / "bad.pth"
    message = damage(network("nafnet").state_dict(), path, kind)
    with pytest.raises(CheckpointMismatch, match=message) as refusal:
        load_checkpoint(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["intro.weight", "encoders.0.0.conv1.weight", "ending.weight"])
def test_a_missing_tensor_is_named_even_if_options_hang_on_it(name, tmp_path):
    state = network("nafnet").state_dict()
    del state[name]
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointMismatch, match=name):
        load_checkpoint(tmp_path / "bad.pth")


def test_safetensors_damage_is_refused(tmp_path):
    export_checkpoint(network("nafnet"), tmp_path / "bad.safetensors")
    content = (tmp_path / "bad.safetensors").read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(content[:-10])
    with pytest.raises(CheckpointMismatch, match="cannot read weights"):
        load_checkpoint(tmp_path / "bad.safetensors")


def test_missing_files_and_strange_suffixes_are_refused(tmp_path):
    with pytest.raises(CheckpointMismatch, match="nowhere.pth"):
        dcpt.from_pretrained(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointMismatch, match="expected a file ending in .pth"):
        load_checkpoint(tmp_path / "weights.onnx")
    with pytest.raises(InvalidSetting, match="expected a file ending in .pth"):
        export_checkpoint(network("nafnet"), tmp_path / "weights.onnx")
    with pytest.raises(InvalidSetting, match="'published' or 'dcpt'"):
        export_checkpoint(network("nafnet"), tmp_path / "weights.pth", dialect="maskdcpt")
