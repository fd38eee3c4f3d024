"""The step's variants, the losses, and the head on its own."""

import math

import pytest
import torch

from dcpt.backbones import create_backbone, list_backbones
from dcpt.errors import InvalidImage, InvalidSetting
from dcpt.finetuning import guided_step
from dcpt.heads import DegradationClassifier
from dcpt.losses import cross_entropy_loss, focal_loss, l1_loss
from dcpt.pretraining import dcpt_pretrain_step, draw_visible, head_step, masked_blocks, masked_step


@pytest.fixture
def pair():
    torch.manual_seed(0)
    backbone = create_backbone("nafnet_test")
    return backbone, DegradationClassifier(backbone.feature_channels, 4)


def batch():
    generator = torch.Generator().manual_seed(1)
    gt = torch.rand(4, 3, 32, 32, generator=generator)
    return gt * 0.5, gt, torch.tensor([0, 1, 2, 3])


def test_focal_loss_equals_the_formula():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    p = [math.exp(2) / (math.exp(2) + 1 + math.exp(-1)), 1 / 3]
    expected = sum(-((1 - q) ** 2) * math.log(q) for q in p) / 2
    assert focal_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_without_focus_is_the_cross_entropy():
    logits, label = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])
    assert torch.allclose(focal_loss(logits, label, gamma=0), cross_entropy_loss(logits, label))


def test_the_step_sums_its_losses_and_touches_no_gradient(pair):
    backbone, head = pair
    lq, gt, label = batch()
    output = dcpt_pretrain_step(backbone, head, lq, gt, label, class_weight=0.5)
    assert torch.allclose(output.loss, output.pixel_loss + 0.5 * output.class_loss)
    assert torch.allclose(output.pixel_loss, l1_loss(backbone(gt), gt))
    assert 0 <= output.accuracy <= 1 and not output.accuracy.requires_grad
    assert all(p.grad is None for p in backbone.parameters())


def test_direct_training_feeds_the_degraded_picture(pair):
    backbone, head = pair
    lq, gt, label = batch()
    output = dcpt_pretrain_step(backbone, head, lq, gt, label, clean_input=False)
    assert torch.allclose(output.pixel_loss, l1_loss(backbone(lq), gt))


def test_training_the_head_alone_leaves_the_backbone_without_a_gradient(pair):
    backbone, head = pair
    lq, gt, label = batch()
    output = head_step(backbone, head, lq, label)
    assert torch.allclose(output.loss, dcpt_pretrain_step(backbone, head, lq, gt, label).class_loss)
    output.loss.backward()
    assert all(p.grad is None for p in backbone.parameters()) and all(p.grad is not None for p in head.parameters())
    assert set(output.metrics()) == {"loss", "class_loss", "accuracy"}


@pytest.mark.parametrize("name", [name for name in list_backbones() if name.endswith("_test")])
def test_the_guided_step_equals_its_plain_slow_statement(name):
    torch.manual_seed(0)
    backbone = create_backbone(name)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    head = DegradationClassifier(backbone.feature_channels, 4).requires_grad_(False).eval()
    lq, gt, label = batch()

    guided_step(backbone, head, lq, gt, label).loss.backward()
    gradients = [p.grad for p in backbone.parameters()]
    backbone.zero_grad(set_to_none=True)

    difference = (backbone(lq) - gt).abs().mean()
    log_p = torch.log_softmax(head(backbone(lq, hook=True)), 1)
    plain = difference - sum(log_p[i, label[i]] for i in range(4)) / 4
    plain.backward()
    assert torch.allclose(plain, guided_step(backbone, head, lq, gt, label).loss, rtol=1e-5)
    for got, parameter in zip(gradients, backbone.parameters(), strict=True):
        assert torch.allclose(got, parameter.grad, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for p in head.parameters())


@pytest.mark.parametrize("name", [name for name in list_backbones() if name.endswith("_test")])
def test_masked_pretraining_looks_at_the_visible_half_only(name):
    torch.manual_seed(0)
    backbone = create_backbone(name)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    head = DegradationClassifier(backbone.feature_channels, 4)
    lq, gt, label = batch()
    visible = draw_visible(lq, torch.arange(len(lq)))
    assert visible.shape == (4, 1, 32, 32) and (visible.flatten(1).mean(1) == 0.5).all()
    output = masked_step(backbone, head, lq, gt, label, visible)
    changed = lq + (1 - visible) * torch.rand(lq.shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(masked_step(backbone, head, changed, gt, label, visible).loss, output.loss)
    output.loss.backward()
    assert torch.allclose(output.loss, output.pixel_loss + output.class_loss)
    with masked_blocks(backbone, visible):
        hidden = backbone(lq * visible, hook=True)[0]
    if name.startswith(("nafnet", "restormer", "swinir")):  # whose features are outputs of blocks
        mask = torch.nn.functional.interpolate(visible, size=hidden.shape[-2:])
        assert not (hidden * (1 - mask)).any()
    assert not torch.equal(backbone(lq * visible, hook=True)[0], hidden)


def test_the_step_refuses_batches_that_do_not_fit(pair):
    lq, gt, label = batch()
    with pytest.raises(InvalidImage, match="one label per picture"):
        dcpt_pretrain_step(*pair, lq, gt[:2], label)


def test_the_method_learns_to_tell_two_degradations_apart(pair):
    backbone, head = pair
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=3e-3)
    accuracy = []
    for _ in range(80):
        gt = torch.rand(8, 3, 1, 1, generator=generator).expand(-1, -1, 16, 16).contiguous()
        label = torch.arange(8) % 2
        noise = 0.2 * torch.randn(gt.shape, generator=generator)
        lq = gt + noise * label.view(-1, 1, 1, 1)
        output = dcpt_pretrain_step(backbone, head, lq, gt, label)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        accuracy.append(output.accuracy.item())
    assert sum(accuracy[-20:]) / 20 > 0.8


def test_the_head_shrinks_features_that_do_not_shrink_themselves():
    head = DegradationClassifier((8, 8, 8), 5)
    assert head([torch.rand(2, 8, 16, 16)] * 3).shape == (2, 5)


def test_the_head_refuses_impossible_settings():
    with pytest.raises(InvalidSetting, match="num_classes >= 2"):
        DegradationClassifier((8,), 1)


def test_a_narrow_head_has_fewer_parameters():
    def count(expansion):
        return sum(p.numel() for p in DegradationClassifier((64, 128), 5, expansion=expansion).parameters())

    assert count(0.5) < count(1) < count(2)
