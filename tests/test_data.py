"""Packed crops and the data stream."""

import hashlib

import pytest
import torch
from conftest import as_uint8, make_picture
from PIL import Image

from dcpt.data.batches import MIXED
from dcpt.data.crops import PackedCrops, load_crops, pack_crops, positions, sample_patches
from dcpt.data.mixture import load_data, make_batches
from dcpt.errors import InvalidData
from dcpt.recipe import Recipe, Stage

LABELS = ("noise", "haze", "jpeg", "clean")


@pytest.fixture
def crops(photo_folder):
    return pack_crops([photo_folder], crop_size=64)


def recipe(**stage):
    return Recipe("test", "nafnet_test", LABELS, finetune=Stage(batch_size=64, patch_size=32, **stage))


def test_windows_cover_a_side_with_as_few_as_possible():
    assert positions(64, 64) == [0]
    assert positions(63, 64) == []
    assert positions(160, 64) == [0, 48, 96]


def test_packing_keeps_every_pixel_and_names_every_file(crops, photo_folder):
    # 160x192 in windows of 64: 3x3 at full size, and 2x2 of the 80x96 half size, four times.
    assert crops.pixels.shape == (4 * (9 + 4), 64, 64, 3) and crops.pixels.dtype == torch.uint8
    assert torch.equal(crops.pixels[0], torch.from_numpy(as_uint8(make_picture(160, 192, 0)))[:64, :64])
    assert crops.files["2.png"] == hashlib.sha256((photo_folder / "2.png").read_bytes()).hexdigest()


def test_a_packed_file_gives_the_same_crops(crops, photo_folder, tmp_path):
    crops.save(tmp_path / "crops.safetensors")
    loaded = load_crops([tmp_path / "crops.safetensors"])
    assert torch.equal(loaded.pixels, crops.pixels) and loaded.manifest_hash == crops.manifest_hash
    assert load_crops([photo_folder], crop_size=64).manifest_hash == crops.manifest_hash


def test_files_of_one_name_in_two_folders_are_both_in_the_manifest(photo_folder, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(as_uint8(make_picture(64, 64, 9))).save(tmp_path / "more/0.png")
    (photo_folder / "folder.png").mkdir()
    files = pack_crops([photo_folder, tmp_path / "more"], crop_size=64).files
    assert set(files) == {"photos/0.png", "photos/1.png", "photos/2.png", "photos/3.png", "more/0.png"}


def test_the_manifest_hash_changes_with_the_photographs(crops):
    other = PackedCrops(crops.pixels, crops.files | {"0.png": "0" * 64})
    assert other.manifest_hash != crops.manifest_hash


def test_broken_files_are_left_out_and_useless_folders_refused(photo_folder, tmp_path):
    (photo_folder / "broken.png").write_bytes(b"no picture")
    assert "broken.png" not in pack_crops([photo_folder], crop_size=64).files
    with pytest.raises(InvalidData, match="at least 512x512"):
        pack_crops([photo_folder], crop_size=512)
    with pytest.raises(InvalidData, match="none at"):
        pack_crops([tmp_path / "missing"])
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidData, match="dcpt pack"):
        load_crops([tmp_path / "x.safetensors"])


def test_patches_are_cut_from_the_crops_in_all_eight_orientations():
    square = torch.arange(16 * 16 * 3, dtype=torch.uint8).view(1, 16, 16, 3)
    crops = PackedCrops(square, {})
    patches = sample_patches(crops, 200, 16, torch.Generator().manual_seed(0))
    flat = square[0].permute(2, 0, 1)
    turned = [flat, flat.flip(1), flat.flip(2), flat.flip(1, 2)]
    turned += [t.transpose(1, 2) for t in turned]
    seen = {next(i for i, t in enumerate(turned) if torch.equal(t.float() / 255, patch)) for patch in patches}
    assert seen == set(range(8))


def test_patches_larger_than_the_crops_are_refused(crops):
    with pytest.raises(InvalidData, match="at least 65"):
        sample_patches(crops, 1, 65, torch.Generator())


def test_a_batch_depends_on_its_step_alone(crops):
    settings = recipe(mixed_share=0.2)
    first, second = (make_batches(load_data(crops), settings, settings.finetune, paired=True) for _ in range(2))
    first(0)
    first(1)
    a, b = first(7), second(7)
    assert torch.equal(a.lq, b.lq) and torch.equal(a.gt, b.gt) and torch.equal(a.label, b.label)
    assert not torch.equal(first(8).gt, a.gt)


def test_a_photograph_meets_every_degradation(crops):
    # With as many crops as degradations, equal random bits would tie each crop to one label.
    settings = Recipe("test", "nafnet_test", LABELS[:3])
    few = PackedCrops(crops.pixels[:3], {})
    batches = make_batches(load_data(few), settings, Stage(batch_size=60, patch_size=16), paired=True)
    batch, pairs = batches(0), set()
    for gt, label in zip(batch.gt, batch.label.tolist()):
        colours = {tuple(c) for c in (gt * 255).round().byte().flatten(1).T.tolist()}
        owners = [i for i in range(3) if colours <= {tuple(c) for c in few.pixels[i].flatten(0, 1).tolist()}]
        pairs |= {(owner, label) for owner in owners}
    assert len(pairs) == 9


def test_shares_of_clean_and_mixed_pictures_are_kept(crops):
    settings = recipe(clean_share=0.25, mixed_share=0.25)
    batches = make_batches(load_data(crops), settings, settings.finetune, paired=True)
    label = torch.cat([batches(step).label for step in range(20)])
    for index in (LABELS.index("clean"), MIXED):
        assert (label == index).float().mean().item() == pytest.approx(0.25, abs=0.05)
    for index in range(3):
        assert (label == index).float().mean().item() == pytest.approx(0.5 / 3, abs=0.05)


def test_sampling_weights_are_kept(crops):
    first, _, third = LABELS[:3]
    settings = recipe(sampling_weights={first: 3.0, third: 0.0})
    batches = make_batches(load_data(crops), settings, settings.finetune, paired=True)
    label = torch.cat([batches(step).label for step in range(20)])
    shares = [(label == index).float().mean().item() for index in range(3)]
    assert shares == pytest.approx([0.75, 0.25, 0], abs=0.05)


def test_clean_pictures_are_clean_and_the_others_are_not(crops):
    settings = recipe(clean_share=0.3)
    batch = make_batches(load_data(crops), settings, settings.finetune, paired=True)(0)
    assert batch.lq.shape == batch.gt.shape == (64, 3, 32, 32)
    same = (batch.lq - batch.gt).abs().amax((1, 2, 3)) < 1e-6
    assert torch.equal(same, batch.label == LABELS.index("clean"))
    assert torch.allclose(batch.lq * 255, (batch.lq * 255).round(), atol=1e-3)
