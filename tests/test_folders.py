"""A folder per degradation: found, checked and trained on."""

import json
import warnings

import pytest
import torch
from click.testing import CliRunner
from conftest import as_uint8, make_picture
from PIL import Image

import dcpt
from dcpt.cli import main
from dcpt.data.crops import pack_crops
from dcpt.data.folders import FolderPictures, check_folders, has_labels, read_folders
from dcpt.data.mixture import load_data, make_batches
from dcpt.errors import InvalidData, InvalidSetting, UnknownName
from dcpt.finetuning import finetune
from dcpt.pretraining import pretrain
from dcpt.recipe import Recipe, Stage, list_recipes, load_recipe, override_stage, relabel

STAGE = Stage(steps=4, batch_size=6, patch_size=32, lr=1e-3, head_lr=1e-3)
RECIPE = Recipe("test", "nafnet_test", ("dust", "rain", "clean"), pretrain=STAGE, finetune=STAGE)


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(as_uint8(picture)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Pairs with names as the public sets have them, pictures without clean ones, clean ones."""
    root = tmp_path / "data"
    for seed in range(5):
        picture = make_picture(64, 80, seed)
        save(picture, root / f"dust/gt/000{seed}.png")
        save(picture * 0.5, root / f"dust/lq/000{seed}_0.8_0.2.png")
        save(1 - picture, root / f"rain/{seed}.png")
        save(picture, root / f"clean/{seed}.png")
    return root


def test_pictures_are_paired_by_name(folders):
    data = read_folders(folders)
    assert data.labels == ("dust", "rain", "clean") and has_labels(folders) and not has_labels(folders / "rain")
    assert all(pair.gt.stem == pair.lq.stem.partition("_")[0] for pair in data.pairs["dust"])
    assert all(pair.gt is None for pair in data.pairs["rain"])
    assert all(pair.gt == pair.lq for pair in data.pairs["clean"])
    manifest = data.manifest_hash
    moved = folders.rename(folders.with_name("moved"))
    assert read_folders(moved).manifest_hash == manifest
    (moved / "rain/0.png").unlink()
    assert read_folders(moved).manifest_hash != manifest


def test_batches_show_pairs_in_register_and_depend_on_the_step_alone(folders):
    batches = make_batches(load_data(read_folders(folders)), RECIPE, STAGE, paired=True)
    seen = set()
    for step in range(8):
        batch = batches(step)
        assert batch.lq.shape == batch.gt.shape == (6, 3, 32, 32)
        for lq, gt, label in zip(batch.lq, batch.gt, batch.label.tolist()):
            seen.add(RECIPE.labels[label])
            assert torch.allclose(lq, gt * (0.5 if label == 0 else 1), atol=1 / 255)
    assert seen == {"dust", "clean"}
    again = make_batches(load_data(read_folders(folders)), RECIPE, STAGE, paired=True)(7)
    assert torch.equal(again.lq, batch.lq) and torch.equal(again.label, batch.label)


def test_pictures_without_a_clean_one_are_enough_to_learn_their_class(folders):
    batches = make_batches(load_data(read_folders(folders)), RECIPE, STAGE, paired=False)
    labels = torch.cat([batches(step).label for step in range(8)])
    assert set(labels.tolist()) == {0, 1, 2}


def test_pairs_may_lie_side_by_side(folders):
    for seed in range(3):
        save(make_picture(40, 40, seed), folders / f"snow/{seed}_gt.png")
        save(make_picture(40, 40, seed) * 0.5, folders / f"snow/{seed}_lq.png")
    (folders / "snow/1_gt.png").unlink()
    data = read_folders(folders)
    assert [(pair.lq.name, pair.gt.name) for pair in data.pairs["snow"]] == [
        ("0_lq.png", "0_gt.png"),
        ("2_lq.png", "2_gt.png"),
    ]
    assert [path.name for path in data.unmatched] == ["1_lq.png"]


def test_pairs_in_several_folders_are_not_mixed_up(folders):
    for place in ("a", "b"):
        for kind in ("lq", "gt"):
            save(make_picture(40, 40), folders / f"blur/{kind}/{place}/1.png")
    save(make_picture(40, 40), folders / "blur/lq/c/1.png")
    data = read_folders(folders)
    assert all(pair.lq.parent.name == pair.gt.parent.name for pair in data.pairs["blur"])
    assert len(data.pairs["blur"]) == 2 and [path.parent.name for path in data.unmatched] == ["c"]


def test_a_folder_of_pairs_side_by_side_has_labels(tmp_path):
    for kind in ("lq", "gt"):
        save(make_picture(40, 40), tmp_path / f"snow/1_{kind}.png")
    assert has_labels(tmp_path)


def test_pictures_of_a_scene_are_held_out_together(tmp_path):
    for scene in range(10):
        save(make_picture(32, 32, scene), tmp_path / f"haze/gt/{scene}.png")
        for density in range(3):
            save(make_picture(32, 32, scene), tmp_path / f"haze/lq/{scene}_{density}.png")
    kept, held = read_folders(tmp_path).split(0.1)
    scenes = [{pair.gt for pair in data.pairs["haze"]} for data in (kept, held)]
    assert not scenes[0] & scenes[1] and len(held.pairs["haze"]) == 3


def test_a_share_that_cannot_serve_is_not_held_out(folders):
    for path in (folders / "dust").rglob("*.png"):
        path.unlink()
    for part in ("dust/lq", "dust/gt", "dust"):
        (folders / part).rmdir()
    for seed in range(5, 20):
        save(make_picture(64, 80, seed), folders / f"rain/{seed}.png")
    data = read_folders(folders)
    assert data.split(0.05) == (data, None)


def test_a_label_without_a_readable_picture_is_passed_over(folders, tmp_path):
    for seed in range(5, 30):
        save(make_picture(40, 40, seed), folders / f"clean/{seed}.png")
    for path in (folders / "rain").iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped"):
        pretrain(None, folders, tmp_path / "run", recipe=RECIPE, device="cpu", validation_share=0.2, validation_size=6)
    for path in folders.rglob("*.png"):
        path.write_bytes(b"")
    batches = make_batches(load_data(folders), RECIPE, STAGE, paired=False, limited=False)
    with pytest.raises(InvalidData, match="none of .* pictures can be used"):
        batches(0)


def test_settings_may_name_the_folders(folders, tmp_path):
    chosen = {"steps": 1, "batch_size": 2, "patch_size": 16, "sampling_weights": "dust=3"}
    pretrain("nafnet_test", folders, tmp_path / "run", recipe="small-10d", device="cpu", **chosen)
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())["recipe"]
    assert recipe["pretrain"]["sampling_weights"] == {"dust": 3.0}


def test_training_on_folders_from_the_command_line(folders, tmp_path):
    (tmp_path / "recipe.yaml").write_text("{name: test, backbone: nafnet_test, labels: [noise, haze]}")
    options = ["--recipe", tmp_path / "recipe.yaml", "--device", "cpu"]
    options += ["--set=steps=4", "--set=batch_size=4", "--set=patch_size=32"]

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in (*arguments, *options)])

    done = run("pretrain", folders, "-o", tmp_path / "pretrain")
    assert done.exit_code == 0, done.output
    _, head = dcpt.from_pretrained(tmp_path / "pretrain/model", with_head=True)
    assert head.labels == ("dust", "rain", "clean")
    done = run("finetune", folders, "-o", tmp_path / "finetune", "--from", tmp_path / "pretrain/model")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "finetune/metrics.jsonl").read_text())["step"] == 4


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_can_be_used_for_other_classes(name):
    recipe = relabel(load_recipe(name), ("dust", "haze", "clean"))
    assert recipe.labels == ("dust", "haze", "clean") and set(recipe.finetune.sampling_weights) <= {"haze"}


def test_check_counts_and_names_what_cannot_serve(folders):
    done = CliRunner().invoke(main, ["data", "check", str(folders)])
    assert done.exit_code == 0 and "dust                       5 pictures,       5 with a clean one" in done.output
    (folders / "rain/0.png").write_text("no picture")
    save(make_picture(40, 40), folders / "dust/gt/0001.png")
    save(make_picture(40, 40), folders / "dust/lq/lonely.png")
    problems = check_folders(read_folders(folders))
    assert {path.name for path in problems} == {"0.png", "0001_0.8_0.2.png", "lonely.png"}
    done = CliRunner().invoke(main, ["data", "check", str(folders)])
    assert done.exit_code == 1 and "3 pictures cannot serve" in done.output
    assert "of one size, got 80x64 and 40x40" in done.output and "lonely.png: has no counterpart" in done.output


@pytest.mark.parametrize("train", [pretrain, finetune])
def test_unreadable_pictures_are_named_once_and_left_out(train, folders, tmp_path):
    for seed in range(5, 10):
        save(make_picture(64, 80, seed), folders / f"clean/{seed}.png")
    long = override_stage(RECIPE, train.__name__, {"steps": 16})
    broken = [folders / "clean/3.png", folders / "dust/gt/0002.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(None, read_folders(folders), tmp_path / "run", recipe=long)
    messages = [str(warning.message) for warning in caught if "skipped" in str(warning.message)]
    assert len(messages) == len(set(messages)) == 2
    assert all(any(path.name in message for message in messages) for path in broken)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_pictures_stop_the_run(workers, folders, tmp_path):
    for path in (folders / "dust/lq").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InvalidData, match="3 of 10 pictures cannot be used.*dcpt data check"):
        finetune(None, folders, tmp_path / "run", recipe=RECIPE, workers=workers, device="cpu")


def test_folders_that_make_no_sense_are_named(folders, tmp_path):
    data = read_folders(folders)
    with pytest.raises(UnknownName, match="'rain'"):
        FolderPictures(data, Recipe("test", "nafnet_test", ("dust", "train", "clean")), STAGE, paired=True)
    with pytest.raises(InvalidData, match="found none at"):
        read_folders(tmp_path / "nowhere")
    (folders / "empty").mkdir()
    with pytest.raises(InvalidData, match="expected pictures in .*empty"):
        read_folders(folders)
    (tmp_path / "only/rain").mkdir(parents=True)
    save(make_picture(64, 64), tmp_path / "only/rain/0.png")
    with pytest.raises(InvalidData, match="expected clean pictures in some gt/"):
        make_batches(load_data(read_folders(tmp_path / "only")), RECIPE, STAGE, paired=False)


def test_clean_pictures_are_degraded_as_the_folder_says(folders):
    for seed in range(3):
        save(make_picture(80, 80, seed), folders / f"low_light/clean/{seed}.png")
    recipe = Recipe("test", "nafnet_test", ("dust", "rain", "low_light", "clean"))
    batches = make_batches(load_data(folders), recipe, STAGE, paired=True)
    batch = next(batch for batch in map(batches, range(9)) if (batch.label == 2).any())
    made = batch.label == 2
    assert (batch.lq[made].mean((1, 2, 3)) < 0.9 * batch.gt[made].mean((1, 2, 3))).all()
    (folders / "low_light").rename(folders / "low_ligth")
    with pytest.raises(UnknownName, match="'low_light'"):
        read_folders(folders)


def test_kinds_of_data_are_mixed_by_weight(folders, photo_folder, tmp_path):
    crops = pack_crops([photo_folder], crop_size=64)
    crops.save(tmp_path / "crops.safetensors")
    data = load_data([folders, tmp_path / "crops.safetensors"], weights=[3, 1])
    labels = ("dust", "rain", "noise", "clean")
    batches = make_batches(data, Recipe("test", "nafnet_test", labels), STAGE, paired=True)
    label = torch.cat([batches(step).label for step in range(40)])
    assert (label == labels.index("noise")).float().mean().item() == pytest.approx(1 / 4, abs=0.08)
    mixed = relabel(load_recipe("small-10d"), data.labels, synthesises=data.synthesises)
    assert mixed.labels[-1] == "clean" and {"dust", "rain", "noise"} <= set(mixed.labels)
    assert mixed.pretrain.clean_share == load_recipe("small-10d").pretrain.clean_share
    with pytest.raises(InvalidSetting, match="a positive weight for each of 2 data, got"):
        load_data([folders, crops], weights=[1])


def test_folders_of_photographs_count_as_one(folders, tmp_path):
    for name in ("cats", "dogs"):
        save(make_picture(256, 256), tmp_path / name / "0.png")
    data = load_data([tmp_path / "cats", folders, tmp_path / "dogs"])
    assert len(data.parts) == 2 and data.weights == (1, 1)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_tenth_of_corrupt_files_ends_no_run(workers, folders, tmp_path):
    for seed in range(5, 45):
        save(make_picture(40, 40, seed), folders / f"clean/{seed}.png")
    broken = [folders / f"clean/{seed}.png" for seed in (3, 11, 29, 40)] + [folders / "dust/lq/0001_0.8_0.2.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    settings = {"steps": 40, "workers": workers, "log_every": 10, "validation_share": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        finetune(None, folders, tmp_path / "run", recipe=RECIPE, device="cpu", **settings)
    messages = [str(warning.message) for warning in caught if "skipped" in str(warning.message)]
    assert len(messages) == len(set(messages)) == len(broken)
    assert all(any(path.name in message for message in messages) for path in broken)
