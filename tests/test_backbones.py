"""The contract of all registered backbones, and NAFNet against the official network."""

import json

import fill
import numpy as np
import pytest
import torch
from conftest import GOLDEN, relative_error

from dcpt.backbones import create_backbone, list_backbones, register_backbone
from dcpt.backbones.nafnet import box_mean
from dcpt.checkpoint import published_names
from dcpt.errors import InvalidImage, InvalidSetting, UnknownName
from dcpt.heads import DegradationClassifier
from dcpt.pretraining import dcpt_pretrain_step

TEST_SIZED = [name for name in list_backbones() if name.endswith("_test")]


def stirred(name, **overrides):
    """A backbone whose every weight matters (fresh residual gains are zero)."""
    torch.manual_seed(0)
    backbone = create_backbone(name, **overrides)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return backbone.eval()


@pytest.mark.parametrize("name", TEST_SIZED)
def test_features_have_the_declared_channels_and_strides_finest_first(name):
    backbone = stirred(name)
    side = backbone.size_multiple * 4
    features = backbone(torch.rand(2, 3, side, 2 * side), hook=True)
    expected = [
        (2, channels, side // stride, 2 * side // stride)
        for channels, stride in zip(backbone.feature_channels, backbone.feature_strides, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected
    assert list(backbone.feature_strides) == sorted(backbone.feature_strides)


@pytest.mark.parametrize("name", TEST_SIZED)
def test_the_hook_computes_nothing_beyond_the_features(name):
    backbone = stirred(name)
    called = []
    backbone.ending.register_forward_hook(lambda *_: called.append(1))
    backbone(torch.rand(1, 3, 16, 16), hook=True)
    assert not called
    backbone(torch.rand(1, 3, 16, 16))
    assert called


@pytest.mark.parametrize("name", TEST_SIZED)
def test_every_parameter_gets_a_gradient_from_the_pretraining_step(name):
    backbone = stirred(name)
    head = DegradationClassifier(backbone.feature_channels, 3)
    x = torch.rand(2, 3, 32, 32)
    dcpt_pretrain_step(backbone, head, x, x.flip(3), torch.tensor([0, 2])).loss.backward()
    for module in (backbone, head):
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", TEST_SIZED)
def test_wrong_sizes_are_answered_with_the_multiple(name):
    backbone = create_backbone(name)
    with pytest.raises(InvalidImage, match=f"multiples of {backbone.size_multiple}, got 17x16"):
        backbone(torch.rand(1, 3, 17, 16))
    with pytest.raises(InvalidImage, match="RGB"):
        backbone(torch.rand(1, 1, 16, 16))


def test_every_family_has_a_test_sized_variant():
    assert {name.split("_")[0] for name in list_backbones()} == {name.split("_")[0] for name in TEST_SIZED}


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown backbone 'nafnet_smal'; did you mean 'nafnet_small'"):
        create_backbone("nafnet_smal")
    with pytest.raises(UnknownName, match="'widht'; did you mean 'width'"):
        create_backbone("nafnet", widht=32)


def test_a_name_cannot_be_registered_twice():
    def nafnet_test(**overrides):
        raise AssertionError

    with pytest.raises(ValueError, match="already registered"):
        register_backbone(nafnet_test)


@pytest.mark.parametrize("name, parameters", [("nafnet", 67_888_835)])
def test_parameter_counts_are_the_official_ones(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_backbone(name).parameters()) == parameters


def test_the_small_variant_fits_its_budget():
    assert sum(p.numel() for p in create_backbone("nafnet_small").parameters()) < 4_000_000


def test_box_mean_equals_the_loop():
    x = torch.rand(1, 2, 9, 7, dtype=torch.float64)
    window = 4
    inner = torch.stack([
        torch.stack([x[0, :, i : i + window, j : j + window].mean((1, 2)) for j in range(7 - window + 1)], dim=1)
        for i in range(9 - window + 1)
    ], dim=1)  # fmt: skip
    expected = torch.nn.functional.pad(inner[None], (1, 2, 1, 2), mode="replicate")
    assert torch.allclose(box_mean(x, window), expected)


def test_local_pooling_equals_global_pooling_up_to_the_window():
    x = torch.rand(1, 3, 32, 32)
    whole = stirred("nafnet_test")
    local = stirred("nafnet_test", pooling="local", pooling_window=32)
    narrow = stirred("nafnet_test", pooling="local", pooling_window=16)
    assert torch.equal(whole(x), local(x))
    assert not torch.allclose(whole(x), narrow(x))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(InvalidSetting, match="'lokal'"):
        create_backbone("nafnet_test", pooling="lokal")


@pytest.fixture(scope="module")
def golden():
    """The official NAFNet and head with their reference weights, and the reference outputs."""
    about = json.loads((GOLDEN / "nafnet.json").read_text())
    reference = np.load(GOLDEN / "nafnet.npz")
    backbone = create_backbone("nafnet").eval()
    weights = {name: torch.from_numpy(v) for name, v in fill.fill_state_dict(about["backbone_shapes"]).items()}
    backbone.load_state_dict(published_names(weights))
    head = DegradationClassifier(backbone.feature_channels, 5).eval()
    weights = {name: torch.from_numpy(v) for name, v in fill.fill_state_dict(about["head_shapes"]).items()}
    head.load_state_dict(weights)
    return backbone, head, about, reference


def test_nafnet_and_head_agree_with_the_official_ones(golden):
    backbone, head, about, reference = golden
    lq = torch.from_numpy(reference["lq"])
    with torch.inference_mode():
        assert relative_error(backbone(lq), reference["restored"]) < 1e-4
        features = backbone(lq, hook=True)
        assert [list(f.shape) for f in features] == about["feature_shapes_finest_first"]
        for index, feature in enumerate(features):
            assert relative_error(feature[:, :4], reference[f"feature{index}_head"]) < 1e-4
            moments = torch.stack((feature.mean(), feature.std()))
            assert relative_error(moments, reference[f"feature{index}_mean_std"].ravel()) < 1e-3
        assert relative_error(head(features), reference["logits"]) < 1e-4


def test_the_pretraining_step_agrees_with_the_official_one(golden):
    backbone, head, about, reference = golden
    gt, lq, label = (torch.from_numpy(reference[key]) for key in ("gt", "lq", "label"))
    output = dcpt_pretrain_step(backbone, head, lq, gt, label)
    output.loss.backward()
    expected = about["pretrain_step"]
    assert output.pixel_loss.item() == pytest.approx(expected["pixel_loss"], rel=1e-4)
    assert output.class_loss.item() == pytest.approx(expected["class_loss"], rel=1e-4)
    assert output.loss.item() == pytest.approx(expected["total"], rel=1e-4)
    for module, name in ((backbone, "backbone_grad_norm"), (head, "head_grad_norm")):
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]).item()
        assert norm == pytest.approx(expected[name], rel=1e-3)
