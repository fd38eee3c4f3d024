"""The published sets, found in miniature trees that are named as the downloads are; no file has anything in it."""

import os
import re

import pytest
from click.testing import CliRunner
from PIL import Image

from dcpt.cli import main
from dcpt.data.layouts import SOURCES, SPLITS, find_published
from dcpt.data.mixture import load_data, make_batches
from dcpt.errors import InvalidData, UnknownName
from dcpt.recipe import Stage, load_recipe

CDD11 = load_recipe("cdd11").labels


def plant(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def chosen(found, label, root):
    """The pairs of a label as strings, relative to a folder."""
    return [tuple(path.relative_to(root).as_posix() for path in (pair.lq, pair.gt)) for pair in found.pairs[label]]


# What the official archives give: by label the pairs, or the clean pictures alone.
OFFICIAL = {
    "train": {
        "rain": [("RainTrainL/rain-1.png", "RainTrainL/norain-1.png")],
        "noise": [("BSD400/2018.jpg",), ("exploration_database_and_code/pristine_images/00001.bmp",)],
        "haze": [("OTS/hazy/part1/0025_0.8_0.04.jpg", "OTS/clear/0025.jpg")],
        "low_light": [("LOLdataset/our485/low/2.png", "LOLdataset/our485/high/2.png")],
        "motion_blur": [
            ("GOPRO_Large/train/GOPR0372_07_00/blur/000047.png", "GOPRO_Large/train/GOPR0372_07_00/sharp/000047.png"),
            ("GOPRO_Large/train/GOPR0374_11_00/blur/000047.png", "GOPRO_Large/train/GOPR0374_11_00/sharp/000047.png"),
        ],
        "defocus_blur": [("dd_dp/train_c/source/1P0A0917.png", "dd_dp/train_c/target/1P0A0916.png")],
        "snow": [("media/overlapping/all/synthetic/city_00003.jpg", "media/overlapping/all/gt/city_00003.jpg")],
    },
    "test": {
        "rain": [("Rain100L/rain-001.png", "Rain100L/norain-001.png")],
        "noise": [("CBSD68/original_png/0000.png",)],
        "haze": [("SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png")],
        "low_light": [("LOLdataset/eval15/low/1.png", "LOLdataset/eval15/high/1.png")],
        "motion_blur": [
            ("GOPRO_Large/test/GOPR0384_11_00/blur/000001.png", "GOPRO_Large/test/GOPR0384_11_00/sharp/000001.png")
        ],
        "defocus_blur": [("dd_dp/test_c/source/1P0A1743.png", "dd_dp/test_c/target/1P0A1742.png")],
        "snow": [
            (f"media/test/Snow100K-{size}/synthetic/city_00003.jpg", f"media/test/Snow100K-{size}/gt/city_00003.jpg")
            for size in "LMS"
        ],
    },
}


def plant_official(root, split, *, without=()):
    """Plant every source but some."""
    for label, pairs in OFFICIAL[split].items():
        if label not in without:
            plant(root, *(name for pair in pairs for name in pair))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["5d", "10d"])
def test_the_official_archives_are_found_with_labels_in_the_order_of_the_recipe(tmp_path, name, split):
    plant_official(tmp_path, split)
    found = find_published(name, tmp_path, split=split)
    labels = load_recipe(name).labels
    degraded_by_us = {"noise", "jpeg", "demosaic", "inpainting"}
    assert (found.name, found.split, found.root) == (name, split, tmp_path)
    assert list(found.pairs) == [label for label in labels if label not in degraded_by_us]
    assert list(found.clean) == [label for label in labels if label in degraded_by_us]
    for label in found.pairs:
        assert chosen(found, label, tmp_path) == OFFICIAL[split][label]
    for pictures in found.clean.values():
        assert [path.relative_to(tmp_path).as_posix() for path in pictures] == [x for (x,) in OFFICIAL[split]["noise"]]


@pytest.mark.parametrize("split", SPLITS)
def test_the_training_set_is_never_taken_for_the_test_set(tmp_path, split):
    other = SPLITS[1 - SPLITS.index(split)]
    plant_official(tmp_path / "all-in-one", other)
    with pytest.raises(InvalidData) as error:
        find_published("10d", tmp_path / "all-in-one", split=split)
    assert f"({len(SOURCES)}) " in str(error.value) and f"({len(SOURCES) + 1}) " not in str(error.value)


# Other layouts that are in use; the official one of that source is left out.
LAYOUTS = [
    ("train", "rain", "RainTrainL/rainy/rain-1.png", "RainTrainL/gt/norain-1.png"),  # MoCE-IR
    ("train", "rain", "data/Train/Derain/rainy/rain-12.png", "data/Train/Derain/gt/norain-12.png"),  # PromptIR
    ("train", "rain", "rain100L/train/small/rain/rain-7.png", "rain100L/train/small/norain/norain-7.png"),  # VRGNet
    ("train", "haze", "data/Train/Dehaze/synthetic/part2/3068_0.8_0.1.jpg", "data/Train/Dehaze/original/3068.jpg"),
    ("train", "haze", "RESIDE/OTS_ALPHA/haze/OTS/1_1_0.2.jpg", "RESIDE/OTS_ALPHA/clear/clear_images/1.jpg"),
    ("train", "haze", "OTS_ALPHA/haze/OTS/part1/1_1_0.2.jpg", "OTS_ALPHA/clear/clear_images/1.jpg"),
    ("train", "haze", "OTS_BETA/haze/0025_0.8_0.1.jpg", "OTS_BETA/clear/0025.jpg"),  # RAM
    ("train", "haze", "dehazing/RESIDE/part3/5425_0.8_0.1.jpg", "dehazing/RESIDE/clear/5425.jpg"),  # MoCE-IR
    ("train", "haze", "reside-outdoor/train/hazy/5_1_0.2.jpg", "reside-outdoor/train/gt/5.jpg"),  # FocalNet
    ("train", "low_light", "llie/LOLv1/Train/input/2.png", "llie/LOLv1/Train/target/2.png"),  # MoCE-IR
    ("train", "low_light", "data/Train/Enhance/low/2.png", "data/Train/Enhance/gt/2.png"),  # AdaIR
    ("train", "motion_blur", "GoPro/train/input/GOPR0372_07_00-000047.png",
     "GoPro/train/target/GOPR0372_07_00-000047.png"),  # NAFNet, Restormer
    ("train", "motion_blur", "data/Train/Deblur/blur/GOPR0372_07_00_000047.png",
     "data/Train/Deblur/sharp/GOPR0372_07_00_000047.png"),  # AdaIR
    ("train", "defocus_blur", "Datasets/train/DPDD/inputC/1P0A0917.png", "Datasets/train/DPDD/target/1P0A0917.png"),
    ("train", "snow", "Snow100K/train/synthetic/a_1.jpg", "Snow100K/train/gt/a_1.jpg"),
    ("test", "rain", "Rain100L/rainy/rain-001.png", "Rain100L/norain-001.png"),  # PReNet
    ("test", "rain", "100L/Rain100L/rainy/rain-001.png", "100L/Rain100L/norain/norain-001.png"),  # DCPT
    ("test", "rain", "test/derain/Rain100L/input/1.png", "test/derain/Rain100L/target/1.png"),  # AdaIR
    ("test", "rain", "Rain100L/input/rain-001.png", "Rain100L/target/rain-001.png"),
    ("test", "rain", "rain_100l/test/rain/rain-001.png", "rain_100l/test/norain/norain-001.png"),
    ("test", "haze", "test/dehaze/input/0001_0.8_0.2.jpg", "test/dehaze/target/0001.png"),  # PromptIR
    ("test", "haze", "Dehaze/SOTS/SOTS/outdoor/hazy/0001_0.8_0.2.png", "Dehaze/SOTS/SOTS/outdoor/clear/0001.png"),
    ("test", "low_light", "lol_v1_eval/low/1.png", "lol_v1_eval/high/1.png"),  # DCPT
    ("test", "low_light", "test/enhance/lol/input/1.png", "test/enhance/lol/target/1.png"),  # AdaIR
    ("test", "motion_blur", "gopro-large/Test/GOPR0384/blur/1.png", "gopro-large/Test/GOPR0384/sharp/1.png"),
    ("test", "motion_blur", "GoPro/test/input/GOPR0384_11_00-000001.png",
     "GoPro/test/groundtruth/GOPR0384_11_00-000001.png"),  # Uformer, DCPT
    ("test", "motion_blur", "test/deblur/gopro/input/GOPR0384_11_00_000001.png",
     "test/deblur/gopro/target/GOPR0384_11_00_000001.png"),  # AdaIR
    ("test", "defocus_blur", "Datasets/test/DPDD/inputC/1P0A1743.PNG", "Datasets/test/DPDD/target/1P0A1743.PNG"),
]  # fmt: skip


@pytest.mark.parametrize(("split", "label", "lq", "gt"), LAYOUTS)
def test_other_layouts_in_use_are_found(tmp_path, split, label, lq, gt):
    plant_official(tmp_path, split, without=[label])
    plant(tmp_path, lq, gt)
    assert chosen(find_published("10d", tmp_path, split=split), label, tmp_path) == [(lq, gt)]


def test_clean_pictures_of_one_folder_are_found_and_noisy_ones_are_not(tmp_path):
    plant_official(tmp_path, "train", without=["noise"])
    plant(tmp_path, "data/Train/Denoise/00001.bmp", "data/Train/Denoise/5096.jpg", "data/Train/Denoise/list.txt")
    found = find_published("5d", tmp_path)
    assert [path.name for path in found.clean["noise"]] == ["00001.bmp", "5096.jpg"]
    plant_official(tmp_path, "test")
    plant(tmp_path, "CBSD68/noisy25/0000.png", "test/denoise/urban100/img_001.png")
    (picture,) = find_published("5d", tmp_path, split="test").clean["noise"]
    assert picture.parent.name == "original_png"


@pytest.mark.parametrize("above", ["", "data", "mnt/big disk/Datasets/train-test"])
def test_any_folders_may_lie_between_the_root_and_the_sets(tmp_path, above):
    plant_official(tmp_path / above, "train")
    plant_official(tmp_path / above, "test")
    for split in SPLITS:
        found = find_published("5d", tmp_path, split=split)
        assert chosen(found, "haze", tmp_path / above) == OFFICIAL[split]["haze"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_root_itself_may_carry_the_name_that_counts(tmp_path, depth):
    train = tmp_path / "data/CDD-11/CDD-11_train"
    plant(train, "clear/00001.png", *(f"{label}/00001.png" for label in CDD11))
    root = [train, *train.parents][depth]
    assert chosen(find_published("cdd11", root), "haze", train) == [("haze/00001.png", "clear/00001.png")]


def test_rain_numbers_are_never_confused(tmp_path):
    plant_official(tmp_path, "train", without=["rain"])
    numbers = ("1", "2", "11", "12", "112")
    plant(tmp_path, *(f"RainTrainL/{kind}-{n}.png" for n in numbers for kind in ("rain", "norain", "rainregion")))
    plant(tmp_path, "RainTrainL/rainstreak-1.png", "RainTrainL/norain-21.png")
    found = find_published("5d", tmp_path)
    names = [(pair.lq.name, pair.gt.name) for pair in found.pairs["rain"]]
    assert names == [(f"rain-{n}.png", f"norain-{n}.png") for n in sorted(numbers)]
    assert not any("without" in line for line in found.incomplete)


def test_haze_is_paired_by_scene_outdoors_only(tmp_path):
    plant_official(tmp_path, "test")
    plant(tmp_path / "SOTS/outdoor", "hazy/0001_0.9_0.16.jpg", "hazy/0010_1_0.2.jpg", "gt/0010.png", "trans/0001.png")
    plant(tmp_path / "SOTS/indoor", "hazy/1400_1.png", "gt/1400.png")
    found = find_published("5d", tmp_path, split="test")
    names = [(pair.lq.name, pair.gt.name) for pair in found.pairs["haze"]]
    assert names == [
        ("0001_0.8_0.2.jpg", "0001.png"),
        ("0001_0.9_0.16.jpg", "0001.png"),
        ("0010_1_0.2.jpg", "0010.png"),
    ]


def test_blur_is_paired_within_its_sequence_and_gamma_is_left_alone(tmp_path):
    plant_official(tmp_path, "train")
    sequence = "GOPRO_Large/train/GOPR0384_11_01"
    plant(tmp_path, f"{sequence}/blur/000047.png", f"{sequence}/blur_gamma/000047.png")  # no sharp ones
    found = find_published("5d", tmp_path)
    assert chosen(found, "motion_blur", tmp_path) == OFFICIAL["train"]["motion_blur"]
    assert "motion_blur: 1 of GoPro without a clean picture, such as 000047.png" in found.incomplete
    assert not any("gamma" in line for line in found.incomplete)


def test_sequences_below_input_and_target_keep_apart(tmp_path):
    plant_official(tmp_path, "train", without=["motion_blur"])
    names = [(f"GoPro/train/input/{name}.png", f"GoPro/train/target/{name}.png") for name in ("b/1", "c")]
    plant(tmp_path, "GoPro/train/input/a/1.png", *(name for pair in names for name in pair))
    assert chosen(find_published("5d", tmp_path), "motion_blur", tmp_path) == names


def test_defocus_is_paired_by_order_where_the_camera_named_it(tmp_path):
    plant_official(tmp_path, "train", without=["defocus_blur"])
    folder = tmp_path / "dd_dp_dataset_canon/dd_dp_dataset_png"
    plant(folder, *(f"train_c/source/1P0A{n}.png" for n in ("0917", "0919", "1002")))
    plant(folder, *(f"train_c/target/1P0A{n}.png" for n in ("0916", "0918", "1001")))
    plant(folder, "train_l/source/1P0A0917_L.png", "val_c/source/1P0A0920.png", "val_c/target/1P0A0921.png")
    pairs = find_published("10d", tmp_path).pairs["defocus_blur"]
    assert [(p.lq.stem[-4:], p.gt.stem[-4:]) for p in pairs] == [("0917", "0916"), ("0919", "0918"), ("1002", "1001")]

    (folder / "train_c/target/1P0A1001.png").rename(folder / "train_c/target/1P0A1200.png")
    found = find_published("10d", tmp_path)
    assert len(found.pairs["defocus_blur"]) == 2
    assert "defocus_blur: 1 of DPDD without a clean picture, such as 1P0A1002.png" in found.incomplete

    (folder / "train_c/target/1P0A1200.png").unlink()
    with pytest.raises(InvalidData, match="found 3 degraded in .*/source/ and 2 clean in .*/target/ that do not"):
        find_published("10d", tmp_path)

    (folder / "train_c/target/1P0A0918.png").rename(folder / "train_c/target/1P0A0919.png")  # renamed by somebody
    (pair,) = find_published("10d", tmp_path).pairs["defocus_blur"]
    assert pair.lq.name == pair.gt.name == "1P0A0919.png"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", ["CDD-11_{}", "data/CDD-11_{0}/CDD-11_{0}", "cdd11/{}", "data/{}"])
def test_mixed_degradations_have_their_own_labels(tmp_path, place, split):
    home = tmp_path / place.format(split)
    plant(home, *(f"{folder}/{number:05}.png" for folder in ("clear", *CDD11) for number in (1, 12)))
    found = find_published("cdd11", tmp_path, split=split)
    assert tuple(found.pairs) == CDD11 and not found.clean
    for label in CDD11:
        names = [(f"{label}/{number}.png", f"clear/{number}.png") for number in ("00001", "00012")]
        assert chosen(found, label, home) == names


def test_everything_missing_is_listed_at_once_with_what_was_found_instead(tmp_path):
    plant(tmp_path, "OTS/hazy/0001_0.8_0.2.jpg", "LOL/our485/high/1.png", "LOL/our485/high/2.png")
    plant(tmp_path, "BSD400/2018.jpg", "GoPro/train/input/a.png", "GoPro/train/target/b.png")
    with pytest.raises(InvalidData) as error:
        find_published("5d", tmp_path)
    first, *lines = (line.strip() for line in re.split(r"\(\d\)", str(error.value)))
    assert first == f"expected the train sets of 5d below {tmp_path}, missing are:"
    assert [re.split("[:(]", line)[0].strip() for line in lines] == ["rain", "haze", "low_light", "motion_blur"]
    assert "RainTrainL/{rainy,norain}" in lines[0] and "found" not in lines[0]
    assert lines[1].endswith("found 1 degraded in OTS/hazy/ and no clean") and "OTS*/{hazy,clear}" in lines[1]
    assert lines[2].endswith("found no degraded and 2 clean in LOL/our485/high/")
    assert lines[3].endswith("GoPro/train/input/ and 1 clean in GoPro/train/target/ that do not match")


def test_a_published_set_is_trained_on_what_must_be_made_is_made(tmp_path):
    plant_official(tmp_path, "train")
    for place, path in enumerate(sorted(path for path in tmp_path.rglob("*") if path.is_file())):
        Image.new("RGB", (40, 40), (40, 90, min(255, 8 * place))).save(path)
    recipe = load_recipe("5d")
    data = load_data(find_published("5d", tmp_path).as_folders())
    batches = make_batches(data, recipe, Stage(batch_size=30, patch_size=32), paired=True)
    batch = batches(0)
    noise = recipe.labels.index("noise")
    assert set(batch.label.tolist()) == set(range(5))
    assert ((batch.lq - batch.gt).flatten(1).std(1) > 0.003)[batch.label == noise].all()
    done = CliRunner().invoke(main, ["data", "check", str(tmp_path), "--layout", "5d"])
    assert "noise" in done.output and "to be degraded" in done.output
    assert "incomplete: haze: 1 of the 72135 pictures of RESIDE OTS" in done.output


def test_half_downloaded_sets_are_described(tmp_path):
    plant_official(tmp_path, "test")
    plant(tmp_path, *(f"LOLdataset/eval15/{kind}/{n}.png" for n in range(15) for kind in ("low", "high")))
    plant(tmp_path, *(f"SOTS/outdoor/hazy/{n}_1_0.2.jpg" for n in range(1000, 1005)))
    lines = find_published("5d", tmp_path, split="test").incomplete
    assert lines == (
        "rain: 1 of the 100 pictures of Rain100L",
        "noise: 1 of the 68 pictures of CBSD68",
        "haze: 1 of the 500 pictures of SOTS outdoor",
        "haze: 5 of SOTS outdoor without a clean picture, such as 1000_1_0.2.jpg, 1001_1_0.2.jpg, 1002_1_0.2.jpg",
        "motion_blur: 1 of the 1111 pictures of GoPro",
    )


def test_only_a_test_set_that_is_too_large_is_noticed(tmp_path):
    plant_official(tmp_path, "test")
    plant_official(tmp_path, "train")
    plant(tmp_path, *(f"RainTrainL/{kind}-{n}.png" for n in range(1, 202) for kind in ("rain", "norain")))
    assert not any("rain" in line for line in find_published("5d", tmp_path).incomplete)
    names = [f"LOLdataset/eval15/{kind}/{n}.png" for n in range(1, 16) for kind in ("low", "high")]
    plant(tmp_path, *names)
    plant(tmp_path / "copy", *names)
    found = find_published("5d", tmp_path, split="test")
    assert "low_light: 30 pictures where LOL v1 has 15; is it there twice?" in found.incomplete


def test_the_fullest_of_several_copies_counts(tmp_path):
    plant_official(tmp_path, "train")
    plant(tmp_path, *(f"LOLdataset/our485/low/{n}.png" for n in range(10, 20)))  # without clean ones
    plant(tmp_path, *(f"Train/Enhance/{kind}/{n}.png" for n in range(3) for kind in ("low", "gt")))
    pairs = find_published("5d", tmp_path).pairs["low_light"]
    assert len(pairs) == 3 and all("Enhance" in pair.lq.parts for pair in pairs)


def test_hidden_files_and_leftovers_of_archives_are_ignored(tmp_path):
    plant_official(tmp_path, "test")
    before = find_published("10d", tmp_path, split="test")
    plant(
        tmp_path,
        "Rain100L/.DS_Store",
        "SOTS/outdoor/hazy/._0001_0.8_0.2.jpg",
        "Rain100L/Thumbs.db",
        "SOTS/outdoor/hazy/list.txt",
    )
    plant_official(tmp_path / "__MACOSX", "test")
    plant_official(tmp_path / ".cache", "test")
    assert find_published("10d", tmp_path, split="test") == before


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(tmp_path):
    plant_official(tmp_path / "disk", "train")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/again").symlink_to(tmp_path / "root")
    (tmp_path / "disk/LOLdataset/self").symlink_to(tmp_path / "disk")
    found = find_published("5d", tmp_path / "root")
    assert chosen(found, "low_light", tmp_path / "root/data") == OFFICIAL["train"]["low_light"]


def test_what_cannot_be_looked_for_is_named(tmp_path):
    with pytest.raises(UnknownName, match="did you mean '10d'"):
        find_published("10", tmp_path)
    with pytest.raises(UnknownName, match="split 'tests'; did you mean 'test'"):
        find_published("5d", tmp_path, split="tests")
    with pytest.raises(InvalidData, match="found none at"):
        find_published("5d", tmp_path / "nowhere")
