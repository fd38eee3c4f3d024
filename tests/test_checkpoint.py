"""Model folders: written whole, loaded strictly, damage named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcpt.backbones import create_backbone
from dcpt.backbones.nafnet import NAFNet
from dcpt.checkpoint import load_model, save_model, write_tensors
from dcpt.errors import CheckpointMismatch, InvalidSetting, OutputError, UnknownName
from dcpt.files import atomic_path
from dcpt.heads import DegradationClassifier
from dcpt.hub import from_pretrained


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def test_a_model_comes_back_as_it_was_saved(folder, tmp_path, picture):
    backbone, head, config = load_model(folder)
    save_model(tmp_path / "again", backbone, head)
    again, again_head, again_config = load_model(tmp_path / "again")
    x = picture.unsqueeze(0)
    assert torch.equal(backbone(x), again(x))
    assert torch.equal(head(backbone(x, hook=True)), again_head(again(x, hook=True)))
    assert config == again_config and not again.training


def test_half_precision_files_are_half_as_large_and_load_as_float32(folder, tmp_path):
    backbone, _, _ = load_model(folder)
    save_model(tmp_path / "half", backbone, dtype=torch.float16)
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.75 * sizes[0]
    assert {p.dtype for p in load_model(tmp_path / "half")[0].parameters()} == {torch.float32}


def damage(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("intro.bias"), "missing intro.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({"intro.bias": torch.zeros(9)}), r"intro.bias is \(9,\) instead of \(8,\)"),
        (lambda t: t["intro.bias"].fill_(float("nan")), "intro.bias has values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, message):
    damage(folder, change)
    with pytest.raises(CheckpointMismatch, match=message):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "head.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{half"])
def test_missing_and_damaged_files_are_refused(folder, name, content):
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(CheckpointMismatch):
        load_model(folder)


@pytest.mark.parametrize("config", ["[]", "null", '{"variant": ["x"]}', '{"variant": "nafnet_test", "overrides": 5}'])
def test_malformed_configs_are_refused(folder, config):
    (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointMismatch, match="valid config.json"):
        load_model(folder)


@pytest.mark.parametrize("options", [{"num_classes": 3}, {"num_classes": 3, "norm": "batch"}])
def test_heads_without_labels_and_with_batch_norm_come_back(folder, tmp_path, options):
    backbone, _, _ = load_model(folder)
    head = DegradationClassifier(backbone.feature_channels, **options)
    for norm in (m for m in head.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.num_batches_tracked.fill_(100_000)  # more than float16 can count
    save_model(tmp_path / "saved", backbone, head, dtype=torch.float16)
    again = load_model(tmp_path / "saved")[1]
    assert again.num_classes == 3 and again.norm == head.norm and again.labels == ()


def test_a_backbone_without_a_name_is_not_saved_for_others(tmp_path):
    with pytest.raises(CheckpointMismatch, match="register_backbone"):
        NAFNet(width=8).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_backbone_without_a_name_comes_back_into_one_like_it(tmp_path):
    trained, fresh = NAFNet(width=8), NAFNet(width=8)
    save_model(tmp_path, trained)
    with pytest.raises(CheckpointMismatch, match="unregistered network"):
        load_model(tmp_path)
    assert load_model(tmp_path, backbone=fresh)[0] is fresh
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), trained.parameters()))
    with pytest.raises(CheckpointMismatch, match="do not fit"):
        load_model(tmp_path, backbone=NAFNet(width=4))


def test_a_config_of_an_unknown_network_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"variant": "vit"}))
    with pytest.raises(CheckpointMismatch, match="unknown backbone 'vit'"):
        load_model(folder)


def test_unknown_weights_and_missing_heads_are_named(folder, tmp_path):
    with pytest.raises(UnknownName, match="'nafnet-smal-10d'; did you mean 'nafnet-small-10d'"):
        from_pretrained("nafnet-smal-10d")
    backbone, _, _ = load_model(folder)
    save_model(tmp_path / "headless", backbone)
    with pytest.raises(CheckpointMismatch, match="has none"):
        from_pretrained(tmp_path / "headless", with_head=True)


def test_a_failing_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(b"new, half")
        raise ZeroDivisionError
    with pytest.raises(OutputError, match="cannot write"), atomic_path(target) as temporary:
        raise OSError(28, "No space left on device")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_nothing_can_be_written_below_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "file" / "x"):
        pass


def test_details_that_cannot_be_kept_leave_the_folder_as_it_was(tmp_path):
    create_backbone("nafnet_test", norm_eps=1e-3).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = create_backbone("nafnet_test")
    with pytest.raises(InvalidSetting, match="plain data"):
        other.save_pretrained(tmp_path, data=tmp_path)
    with pytest.raises(InvalidSetting, match="other details than overrides, variant"):
        other.save_pretrained(tmp_path, variant="nafnet", overrides={})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_of_a_strange_type_are_refused(dtype, tmp_path):
    backbone = create_backbone("nafnet_test")
    backbone.save_pretrained(tmp_path)
    state = {name: value.to(dtype) for name, value in backbone.state_dict().items()}
    write_tensors(tmp_path / "model.safetensors", state)
    with pytest.raises(CheckpointMismatch, match="has values of type torch"):
        load_model(tmp_path)


def test_a_config_that_asks_for_too_much_is_refused_before_it_is_built(tmp_path):
    create_backbone("nafnet_test").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"variant": "nafnet_test", "overrides": {"width": 100000000}}')
    with pytest.raises(CheckpointMismatch, match="do not fit NAFNet: intro.weight is"):
        load_model(tmp_path)
