"""All registered degradations keep their contract; each does what its physics says."""

import io

import numpy as np
import pytest
import torch
from conftest import as_uint8, make_picture
from PIL import Image

import dcpt
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.degradations.blur import aperture_kernels, convolve, shake_kernels
from dcpt.degradations.compression import jpeg_batched, jpeg_codec
from dcpt.errors import InvalidImage, InvalidSetting, UnknownName
from dcpt.metrics import psnr

ALL = list_degradations()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def apply(name, gt, severity, seed=0):
    return apply_degradations(gt, {name: severity}, seeded(seed))


def test_the_ten_names_are_the_benchmarks():
    assert " ".join(ALL) == "noise motion_blur defocus_blur jpeg haze snow rain demosaic low_light inpainting"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(1, 1), (7, 40), (65, 33)])
def test_shape_and_range_are_kept_and_the_input_is_untouched(name, size):
    gt = make_picture(*size).expand(3, -1, -1, -1).contiguous()
    before = gt.clone()
    lq = apply(name, gt, torch.tensor([0.0, 0.5, 1.0]))
    assert lq.shape == gt.shape and lq.dtype == gt.dtype
    assert lq.min() >= 0 and lq.max() <= 1
    assert torch.equal(gt, before)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_picture(name, picture):
    gt = picture.unsqueeze(0)
    torch.manual_seed(1)
    first = apply(name, gt, 0.6, seed=5)
    torch.manual_seed(2)  # the global generator must not matter
    assert torch.equal(first, apply(name, gt, 0.6, seed=5))


@pytest.mark.parametrize("name", [name for name in ALL if name != "jpeg"])
def test_another_seed_gives_another_picture(name, picture):
    gt = picture.unsqueeze(0)
    assert not torch.equal(apply(name, gt, 0.6, seed=5), apply(name, gt, 0.6, seed=6))


@pytest.mark.parametrize("name", ALL)
def test_more_severity_harms_more(name):
    # Averaged over eight draws: single draws of sparse particles may come out either way.
    gt = torch.stack([make_picture(seed=seed) for seed in range(8)])
    mild, strong = (psnr(apply(name, gt, s), gt).mean() for s in (0.05, 0.95))
    assert strong < mild


def test_noise_has_the_documented_standard_deviation():
    gt = torch.full((1, 3, 256, 256), 0.5)
    for severity, sigma in ((0.0, 1), (24 / 49, 25)):
        assert apply("noise", gt, severity).std().item() * 255 == pytest.approx(sigma, rel=0.01)


def test_demosaic_keeps_rggb_samples():
    gt = make_picture(8, 8).unsqueeze(0)
    lq = apply("demosaic", gt, 0.0)
    for (row, column), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
        sample = lq[0, :, row::2, column::2]
        assert torch.equal(sample[channel], gt[0, channel, row::2, column::2])
        assert sample.sum() == sample[channel].sum()


def test_haze_lies_between_the_scene_and_a_bright_airlight():
    gt = make_picture(64, 64).unsqueeze(0)
    lq = apply("haze", gt, 1.0)
    assert lq.std() < gt.std()
    assert apply("haze", torch.ones_like(gt), 1.0).min() >= 0.7 - 0.03


def test_low_light_at_severity_zero_is_one_stop():
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert apply("low_light", grey, 0.0).mean().item() == pytest.approx(0.5 * 0.5 ** (1 / 2.2), rel=0.05)


def test_inpainting_leaves_the_rest_alone(picture):
    gt = picture.unsqueeze(0)
    lq = apply("inpainting", gt, 0.5)
    changed = (lq != gt).any(1)
    assert 0 < changed.float().mean() < 0.5
    assert set(lq.permute(0, 2, 3, 1)[changed].flatten().tolist()) <= {0.0, 1.0}


def test_kernels_sum_to_one_keep_the_picture_in_place_and_have_the_asked_extent():
    extent = torch.linspace(3, 21, 16)
    kernels = shake_kernels(extent, seeded(), radius=15)
    grid = torch.arange(-15.0, 16)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(16))
    assert (kernels.sum(1) @ grid).abs().max() < 0.05 and (kernels.sum(2) @ grid).abs().max() < 0.05
    for kernel, length in zip(kernels, extent):
        rows, columns = (kernel > 1e-4).nonzero().T
        longer = max(rows.max() - rows.min(), columns.max() - columns.min()).item()
        assert length - 2 <= longer <= length + 2


def test_aperture_of_radius_zero_changes_nothing_and_a_disc_has_its_area():
    still = aperture_kernels(torch.zeros(1), torch.tensor([False]), torch.zeros(1), radius=7)
    x = torch.rand(1, 3, 20, 20)
    assert torch.allclose(convolve(x, still), x)
    disc = aperture_kernels(torch.tensor([6.0]), torch.tensor([False]), torch.zeros(1), radius=7)[0]
    assert 1 / disc.max().item() == pytest.approx(np.pi * 36, rel=0.1)


def test_convolve_equals_the_loop():
    x, kernel = torch.rand(2, 3, 6, 5), torch.rand(2, 3, 3)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    expected = torch.zeros_like(x)
    for i in range(3):
        for j in range(3):
            expected += kernel[:, i, j].view(2, 1, 1, 1) * padded[..., i : i + 6, j : j + 5]
    assert torch.allclose(convolve(x, kernel), expected, atol=1e-6)


def test_jpeg_on_the_cpu_is_the_real_codec():
    gt = make_picture(50, 70)
    buffer = io.BytesIO()
    Image.fromarray(as_uint8(gt)).save(buffer, "jpeg", quality=30, subsampling="4:2:0")
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    assert torch.allclose(apply("jpeg", gt.unsqueeze(0), 0.5)[0], expected)


@pytest.mark.parametrize("quality", [10, 30, 50, 75])
def test_batched_jpeg_agrees_with_the_real_codec_within_one_level(quality):
    gt = torch.stack([make_picture(61, 83, seed) for seed in range(2)])
    asked = torch.full((2,), float(quality))
    difference = (jpeg_batched(gt, asked) - jpeg_codec(gt, asked)).abs() * 255
    assert difference.mean() < 1


@pytest.mark.parametrize("names", [("demosaic", "noise"), ("rain", "haze"), ("defocus_blur", "motion_blur")])
def test_a_chain_does_not_depend_on_the_order_of_the_call(names, picture):
    gt = picture.unsqueeze(0)
    one, other = (apply_degradations(gt, dict.fromkeys(order, 0.5), seeded()) for order in (names, names[::-1]))
    assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_other_precisions_are_taken_and_kept(name, dtype):
    gt = make_picture(24, 24).unsqueeze(0).to(dtype)
    assert apply(name, gt, 0.5).dtype == dtype


def test_a_chain_runs_in_the_order_of_nature_not_of_the_call(picture):
    gt = picture.unsqueeze(0)
    one = apply_degradations(gt, {"haze": 0.5, "inpainting": 0.5}, seeded())
    other = apply_degradations(gt, {"inpainting": 0.5, "haze": 0.5}, seeded())
    assert torch.equal(one, other)
    hazy = apply("haze", gt, 0.5)
    assert torch.equal(one, hazy.where((one != 0) & (one != 1), one))  # lines lie over the haze


def test_mistakes_are_named(picture):
    gt = picture.unsqueeze(0)
    with pytest.raises(UnknownName, match="'hase'; did you mean 'haze'"):
        apply("hase", gt, 0.5)
    with pytest.raises(InvalidSetting, match=r"severity in \[0, 1\] for 'haze', got 1.5"):
        apply("haze", gt, 1.5)
    with pytest.raises(InvalidSetting, match="one severity for 'haze', or 1, got 3"):
        apply("haze", gt, torch.rand(3))
    with pytest.raises(InvalidImage):
        apply("haze", picture, 0.5)


def test_degrade_keeps_the_kind_of_picture():
    image = Image.fromarray(as_uint8(make_picture()))
    lq = dcpt.degrade(image, seed=1, haze=0.6, noise=0.3)
    assert isinstance(lq, Image.Image) and lq.size == image.size
    assert lq.tobytes() == dcpt.degrade(image, seed=1, noise=0.3, haze=0.6).tobytes()
    with pytest.raises(InvalidSetting, match="at least one degradation"):
        dcpt.degrade(image)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
def test_degradations_run_on_the_gpu_and_repeat_there(name):
    gt = make_picture().unsqueeze(0).cuda()
    results = [apply_degradations(gt, {name: 0.5}, torch.Generator("cuda").manual_seed(0)) for _ in range(2)]
    assert results[0].is_cuda and torch.equal(*results)
