"""The same gradients, made in parts, with less memory, or compiled."""

import copy

import pytest
import torch
from test_training import RECIPE, STAGE, final_state

import dcpt
from dcpt.backbones import create_backbone, list_backbones
from dcpt.data.batches import Batch
from dcpt.data.crops import pack_crops
from dcpt.errors import InvalidSetting
from dcpt.finetuning import finetune, finetune_step
from dcpt.gradients import faster_backbone, make_backward
from dcpt.pretraining import draw_visible, make_head, masked_step, pretrain
from dcpt.recipe import Stage


@pytest.fixture
def crops(photo_folder):
    return pack_crops([photo_folder], crop_size=64)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    lq, gt = torch.rand(2, 5, 3, 32, 32, generator=generator)
    return Batch(lq, gt, torch.zeros(5, dtype=torch.int64), torch.arange(5))


def gradients_of(backbone, batch, stage, compute=None):
    model = torch.nn.ModuleDict({"backbone": backbone})
    with faster_backbone(model, stage):
        metrics = make_backward(model, stage, compute or (lambda b: finetune_step(backbone, b.lq, b.gt)))(batch)
    return metrics, [parameter.grad for parameter in backbone.parameters()]


@pytest.mark.parametrize("parts", [2, 5, 9])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(parts, batch):
    torch.manual_seed(0)
    backbone = create_backbone("nafnet_test")
    metrics, whole = gradients_of(backbone, batch, Stage())
    again, apart = gradients_of(copy.deepcopy(backbone), batch, Stage(gradient_accumulation_steps=parts))
    torch.testing.assert_close(apart, whole, rtol=1e-4, atol=1e-6)
    assert again["loss"].item() == pytest.approx(metrics["loss"].item(), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in list_backbones() if name.endswith("_test")])
def test_blocks_computed_twice_give_the_same_gradients(name, batch):
    torch.manual_seed(0)
    backbone = create_backbone(name)
    head = make_head(RECIPE, backbone)
    visible = draw_visible(batch.lq, batch.seed)

    def compute(batch):  # which puts hooks on the blocks
        return masked_step(backbone, head, batch.lq, batch.gt, batch.label, visible)

    plain = [x.clone() for x in gradients_of(backbone, batch, Stage(), compute)[1]]
    backbone.zero_grad()
    torch.testing.assert_close(gradients_of(backbone, batch, Stage(gradient_checkpointing=True), compute)[1], plain)
    assert not any("forward" in vars(module) for module in backbone.modules())


def test_gradient_checkpointing_needs_to_know_the_blocks(batch):
    class Plain(torch.nn.Conv2d):
        pass

    with pytest.raises(InvalidSetting, match="block_types"):
        gradients_of(Plain(3, 3, 3), batch, Stage(gradient_checkpointing=True))


def test_the_backbone_is_compiled_if_asked_and_only_for_the_run(crops, tmp_path, monkeypatch):
    compiled = []

    def compile(self):
        compiled.append(self)
        self._compiled_call_impl = self._call_impl

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    network = create_backbone("nafnet_test")
    finetune(network, crops, tmp_path, recipe=RECIPE, torch_compile=True, device="cpu")
    assert compiled == [network] and network._compiled_call_impl is None
    with pytest.raises(InvalidSetting, match="torch_compile=false"):
        pretrain(None, crops, tmp_path / "masked", recipe=RECIPE, mode="masked", torch_compile=True)


class OwnNetwork(torch.nn.Module):
    """Only the contract: three attributes and `hook=True`."""

    feature_channels, feature_strides, size_multiple = (4,), (1,), 1

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x, hook=False):
        features = self.first(x)
        return [features] if hook else x + self.last(features)


def test_a_network_of_ones_own_is_trained_in_place(crops, tmp_path):
    network = OwnNetwork()
    before = copy.deepcopy(network.state_dict())
    pair = dcpt.pretrain(network, crops, tmp_path / "pair", recipe=RECIPE, device="cpu")
    averaged = final_state(tmp_path / "pair")["ema"]
    assert all(torch.equal(x, averaged[f"backbone.{name}"]) for name, x in network.state_dict().items())
    assert not torch.equal(network.last.weight, before["last.weight"])
    restorer = OwnNetwork()
    dcpt.finetune(restorer, crops, tmp_path / "run", recipe=RECIPE, start=pair, device="cpu", steps=STAGE.steps)
    assert torch.isfinite(restorer(torch.rand(1, 3, 8, 8))).all()


def test_what_is_no_backbone_is_refused(crops, tmp_path):
    with pytest.raises(InvalidSetting, match="none of feature_strides, size_multiple"):
        network = torch.nn.Identity()
        network.feature_channels = (3,)
        pretrain(network, crops, tmp_path, recipe=RECIPE)
    with pytest.raises(InvalidSetting, match="a network, a name or None as backbone, got a Recipe"):
        pretrain(RECIPE, crops, tmp_path)
