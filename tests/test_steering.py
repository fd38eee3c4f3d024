"""How strong a restoration is and what it removes: by frequency band, and as the diagnosis says."""

from pathlib import Path

import pytest
import torch
from conftest import make_picture
from PIL import Image

import dcpt
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.diagnosis import POSSIBLE, Diagnosis, Tile
from dcpt.errors import InvalidImage, InvalidSetting, UnknownName
from dcpt.image import read_picture
from dcpt.metrics import psnr
from dcpt.steering import BANDS, DOUBT, FOOTPRINTS, adjust_strength, check_choice, measure_footprint, steer

STRENGTHS = (0.1, 0.3, 0.5, 0.8, 0.95)


def make_diagnosis(*tiles, **probabilities):
    return Diagnosis(probabilities, 0.0, False, False, True, tiles)


def random_pair(batch, height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.rand(2, batch, 3, height, width, generator=generator)


def degrade(gt, names, severity):
    """Degrade so that each degradation falls alike, whatever comes with it."""
    for name in names:
        gt = apply_degradations(gt, {name: severity}, torch.Generator().manual_seed(list_degradations().index(name)))
    return gt


def test_the_ends_of_strength_are_the_pictures_themselves():
    lq, restored = random_pair(2, 9, 7)
    assert adjust_strength(lq, restored, 1) is restored and adjust_strength(lq, restored, 1.0) is restored
    assert adjust_strength(lq, restored, 0) is lq


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_finest_change_fades_with_the_square_and_the_tone_with_the_root_of_strength(strength):
    lq = torch.full((1, 3, 64, 48), 0.5)
    tone = torch.full_like(lq, 0.2)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
    texture = 0.1 * (1 - 2.0 * ((x + y) % 2)).expand_as(lq)  # zero on average in each 2x2 block
    expected = lq + strength**0.5 * tone + strength**2 * texture
    torch.testing.assert_close(adjust_strength(lq, lq + tone + texture, strength), expected)


def test_each_band_fades_with_its_own_power_of_strength():
    generator = torch.Generator().manual_seed(0)
    change = 0.1 * torch.randn(1, 1, 37, 50, generator=generator, dtype=torch.float64).expand(1, 3, -1, -1)
    lq = torch.full_like(change, 0.5)
    rest, expected, sizes = change, lq.clone(), [change.shape[-2:]]
    for k in range(4):
        coarse = block_means(rest)
        whole = enlarge_through(coarse, sizes)
        expected += 0.5**2 ** (1 - k / 2) * (enlarge_through(rest, sizes[:-1]) - whole)
        rest = coarse
        sizes.append(coarse.shape[-2:])
    expected += 0.5**0.5 * whole
    torch.testing.assert_close(adjust_strength(lq, lq + change, 0.5), expected)


def block_means(picture):
    """Average blocks of 2x2 pixels; at the end of an odd side, of what there is."""
    height, width = picture.shape[-2:]
    rows = [[picture[..., y : y + 2, x : x + 2].mean((2, 3)) for x in range(0, width, 2)] for y in range(0, height, 2)]
    return torch.stack([torch.stack(row, dim=2) for row in rows], dim=2)


def enlarge_through(picture, sizes):
    """Enlarge to each of some sizes, last one first; a pixel is three quarters its block and a quarter the next."""
    for height, width in reversed(sizes):
        for dim, size in ((2, height), (3, width)):
            last = picture.shape[dim] - 1
            own = torch.arange(size) // 2
            other = (own + 2 * (torch.arange(size) % 2) - 1).clamp(0, last)
            picture = 0.75 * picture.index_select(dim, own) + 0.25 * picture.index_select(dim, other)
    return picture


def test_more_strength_is_more_change_and_coarse_changes_are_kept_longer():
    lq, restored = random_pair(1, 64, 64)
    smooth = (0.25 + lq / 2, 0.25 + lq / 2 + 0.2)
    kept = []
    for before, after in ((lq, restored), smooth):
        distances = [(adjust_strength(before, after, s) - before).norm() / (after - before).norm() for s in STRENGTHS]
        assert distances == sorted(distances)
        kept.append(torch.stack(distances))
    assert (kept[1] > kept[0] + 0.02).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 257)])
def test_every_size_can_be_adjusted_and_steered(size):
    lq, restored = random_pair(2, *size)
    adjusted = adjust_strength(lq, restored, 0.4)
    assert adjusted.shape == lq.shape and adjusted.min() >= 0 and adjusted.max() <= 1
    torch.testing.assert_close(adjusted[:1], adjust_strength(lq[:1], restored[:1], 0.4))
    steered = steer(lq[:1], restored[:1], make_diagnosis(noise=0.9, haze=0.9), only=["noise"])
    assert steered.shape == lq[:1].shape and steered.min() >= 0 and steered.max() <= 1
    assert torch.equal(steered, steer(lq[:1], restored[:1], make_diagnosis(noise=0.9, haze=0.9), only=["noise"]))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_beyond_its_range_is_refused(strength):
    with pytest.raises(InvalidSetting, match=r"strength in \[0, 1\]"):
        adjust_strength(*random_pair(1, 4, 4), strength)


def test_pictures_that_do_not_belong_together_are_refused():
    lq, restored = random_pair(2, 4, 4)
    with pytest.raises(InvalidImage, match="restoration"):
        adjust_strength(lq, restored[..., :3], 0.5)
    with pytest.raises(InvalidImage, match="restoration"):
        steer(lq[:1], restored, make_diagnosis(noise=0.9), only=["noise"])
    with pytest.raises(InvalidImage, match="batch of 2"):
        steer(lq, restored, make_diagnosis(noise=0.9), only=["noise"])


def test_what_was_not_found_can_be_neither_removed_nor_kept():
    lq, restored = random_pair(1, 8, 8)
    found = make_diagnosis(noise=0.9, haze=0.2)
    assert steer(lq, restored, found, only=["haze"]) is lq
    assert steer(lq, restored, found, keep=["haze"]) is restored
    assert steer(lq, restored, found) is restored


MIXTURES = [("haze", "noise"), ("low_light", "noise"), ("haze", "rain"), ("haze", "jpeg"), ("haze", "snow"),
            ("motion_blur", "low_light"), ("rain", "noise"), ("noise", "inpainting")]  # fmt: skip


@pytest.mark.parametrize("pair", MIXTURES, ids="+".join)
def test_removing_one_of_two_is_nearer_to_the_other_alone_than_removing_none_or_both(pair):
    gt = make_picture(192, 256)[None]
    lq = degrade(gt, pair, 0.5)
    found = make_diagnosis(**{name: 0.95 if name in pair else 0.1 for name in list_degradations()})
    for wanted, other in (pair, pair[::-1]):
        target = degrade(gt, [other], 0.5)
        nearest = max(psnr(lq, target), psnr(gt, target))
        assert psnr(steer(lq, gt, found, only=[wanted]), target) > nearest + 1
        assert psnr(steer(lq, gt, found, keep=[other]), target) > nearest + 1


def test_the_bundled_pair_removes_snow_and_leaves_haze():
    with Image.open(Path(__file__).parent / "images" / "kodim07_crop.png") as image:
        gt, _ = read_picture(image.convert("RGB"))
    lq, target = degrade(gt, ["haze", "snow"], 0.5), degrade(gt, ["haze"], 0.5)
    restored, found = dcpt.restore(lq, diagnose=True)
    steered = steer(lq, restored, found, only=["snow"])
    assert psnr(steered, target) > max(psnr(lq, target), psnr(restored, target)) + 1


def test_each_part_is_steered_by_its_own_diagnosis_without_a_step_between_them():
    lq, restored = torch.full((1, 3, 64, 256), 0.4), torch.full((1, 3, 64, 256), 0.6)
    left = Tile((0, 0, 128, 64), {"low_light": 0.9, "noise": 0.0}, 0.1)
    right = Tile((128, 0, 256, 64), {"low_light": 0.0, "noise": 0.9}, 0.1)
    row = steer(lq, restored, make_diagnosis(left, right, low_light=0.5, noise=0.5), only=["low_light"])[0, 0, 30]
    assert row[:64].min() > 0.59 and (row[192:] - 0.4).abs().max() < 1e-6
    assert row.diff().abs().max() < 2 * 0.2 / 128  # the change fades over 128 pixels, linearly


def test_an_own_degradation_without_a_footprint_scales_the_whole_change():
    lq, restored = random_pair(1, 16, 16)
    found = (0.85 - POSSIBLE) / (1 - POSSIBLE)
    steered = steer(lq, restored, make_diagnosis(moire=0.85, noise=0.0), only=["moire"])
    torch.testing.assert_close(steered, torch.lerp(lq, restored, found / (found + DOUBT)))


def test_unknown_and_contradictory_names_are_refused():
    check_choice(["noise", "jpeg"], ["haze"])
    with pytest.raises(UnknownName, match="'nose'; did you mean 'noise'"):
        check_choice(["nose"], [])
    with pytest.raises(UnknownName, match="'hase'; did you mean 'haze'"):
        check_choice([], ["hase"])
    with pytest.raises(InvalidSetting, match="got haze for both"):
        check_choice(["noise", "haze"], ["haze"])
    with pytest.raises(InvalidSetting, match="list of degradations"):
        check_choice("noise", [])
    with pytest.raises(UnknownName, match="'haze'; known are noise"):
        steer(*random_pair(1, 4, 4), make_diagnosis(noise=0.9), only=["haze"])


def test_white_noise_has_the_footprint_that_theory_gives():
    gt = torch.full((1, 3, 512, 512), 0.5)
    lq = gt + 0.05 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))
    # Block means have a quarter of the variance; enlarging weighs four of them 9, 3, 3 and 1 sixteenths,
    # and the block of the pixel itself, a quarter of which is that pixel, counts with the 9.
    finest = 1 + (81 + 9 + 9 + 1) / 256 / 4 - 2 * 9 / 16 / 4
    expected = [1e4 * 0.05**2 * finest / 4**k for k in range(3)]
    assert measure_footprint(lq, gt)[0, 2:5].tolist() == pytest.approx(expected, rel=0.05)


def test_every_degradation_has_a_footprint_like_that_of_another_picture():
    assert list(FOOTPRINTS) == list_degradations()
    gt = make_picture(256, 256)[None]
    for name, row in FOOTPRINTS.items():
        assert len(row) == 2 + BANDS
        measured = measure_footprint(degrade(gt, [name], 0.5), gt)[0]
        assert torch.cosine_similarity(measured.sqrt(), torch.tensor(row).sqrt(), dim=0) > 0.9, name
