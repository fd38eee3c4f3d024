"""PSNR and SSIM against scikit-image and formulas."""

import math

import pytest
import torch
from conftest import make_picture
from skimage.metrics import structural_similarity

from dcpt.errors import InvalidImage
from dcpt.metrics import psnr, ssim


def test_psnr_of_a_constant_error_is_the_formula():
    gt = torch.zeros(2, 3, 8, 8)
    restored = torch.stack((gt[0] + 0.1, gt[1]))
    first, second = psnr(restored, gt).tolist()
    assert first == pytest.approx(20, abs=1e-5)
    assert math.isinf(second)


def test_ssim_equals_scikit_image_with_the_protocols_settings():
    gt = make_picture(40, 56)
    restored = (gt + 0.1 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    expected = structural_similarity(
        restored.double().numpy(), gt.double().numpy(), channel_axis=0, data_range=1,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(restored[None], gt[None]).item() == pytest.approx(expected, abs=1e-9)


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(InvalidImage, match="one shape"):
        psnr(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 8))
    with pytest.raises(InvalidImage, match="at least 11"):
        ssim(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
