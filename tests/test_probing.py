"""What a network's features know of degradations, and how it is told."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import as_uint8, make_picture
from PIL import Image
from torch import nn

from dcpt.backbones import create_backbone
from dcpt.cli import main
from dcpt.errors import CheckpointMismatch, InvalidData, InvalidSetting, MissingExtra, UnknownName
from dcpt.features import Pictures, degrade_crops, extract_features, read_layers
from dcpt.pretraining import pretrain
from dcpt.probing import Subject, classify, find_checkpoints, find_trained, find_untrained, probe, published_accuracy

SMALL = {"crops": 12, "size": 32, "seeds": 2, "device": "cpu"}
TYPES = ("haze", "low_light", "demosaic")


class Averages(nn.Module):
    """A network of one's own, which knows nothing of "both": a copy of the picture at two scales."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, hook=False):
        x = self.gain * x
        return [x, nn.functional.avg_pool2d(x, 2)] if hook is True else x


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        Image.fromarray(as_uint8(make_picture(80, 96, seed))).save(folder / f"{seed}.png")
    Image.fromarray(as_uint8(make_picture(63, 96))).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def run_folder(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "four"
    small = {"steps": 4, "checkpoint_every": 2, "log_every": 2, "validation_share": 0}
    recipe = folder.parent / "tiny.yaml"
    recipe.write_text("{name: tiny, backbone: nafnet_test, seed: 3, labels: [noise, haze]}")
    crops = folder.parent / "photos"
    crops.mkdir()
    Image.fromarray(as_uint8(make_picture(256, 256))).save(crops / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dcpt.training.plot_curves", lambda *_: None)  # two seconds of pictures that nobody looks at
        pretrain(None, crops, folder, recipe=recipe, device="cpu", batch_size=2, patch_size=16, **small)
    return folder


def test_a_crop_is_always_the_same_whatever_else_there_is(photos):
    many = degrade_crops(photos, TYPES, count=12, size=32)
    few = degrade_crops(photos, TYPES[1:], count=10, size=32)
    assert many.lq.shape == (3, 12, 3, 32, 32) and many.lq.dtype == torch.uint8
    assert torch.equal(few.lq, many.lq[1:, :10])
    # Four photographs can serve: each in turn, every time at another place.
    assert len(set(many.scenes)) == 4 and np.array_equal(many.scenes[:4], many.scenes[4:8])
    assert not torch.equal(many.lq[0, 0], many.lq[0, 4])


def test_features_that_tell_all_are_right_and_those_of_the_scene_alone_get_chance():
    scenes = np.arange(12).repeat(2)
    noise = np.random.default_rng(0).normal(size=(3, 24, 2))
    accuracies, counts = classify(noise + 100 * np.arange(3)[:, None, None], scenes, seeds=4)
    assert accuracies == [1.0] * 4
    assert np.array_equal(counts, np.eye(3) * 4 * 2 * 4)  # a third of 12 scenes, two crops, four splits
    # Whatever is answered, it is one answer for the three pictures of a crop: right for one of them.
    accuracies, _ = classify(noise[:1].repeat(3, axis=0), scenes, seeds=4)
    assert np.allclose(accuracies, 1 / 3)


@pytest.mark.parametrize("name", ["nafnet_test", "restormer_test", "promptir_test", "swinir_test"])
def test_the_last_layer_is_shown_unless_it_is_a_feature(name):
    backbone, x = create_backbone(name).eval(), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        layers, features, restored = read_layers(backbone, x), backbone(x, hook=True), backbone(x)
        names = [f"feature {index}" for index in range(len(features))]
        assert all(torch.equal(layers[name], feature) for name, feature in zip(names, features))
        output = next(getattr(backbone, n) for n in ("ending", "output", "conv_last") if hasattr(backbone, n))
        assert torch.allclose(output(layers.get("last", features[0])) + x, restored, atol=1e-6)
    assert ("last" in layers) == (name != "nafnet_test")
    assert not any(module._forward_pre_hooks for module in backbone.modules())


def test_features_are_means_over_cells():
    lq = torch.randint(256, (2, 10, 3, 8, 8), dtype=torch.uint8)
    pictures = Pictures(lq, ("a", "b"), np.arange(10), "none")
    means = extract_features(Averages(), pictures)
    assert list(means) == ["input", "feature 0", "feature 1", "all"]
    expected = lq.double().mean((3, 4)).numpy() / 255
    assert np.allclose(means["input"], expected, atol=1e-6) and np.allclose(means["feature 1"], expected, atol=1e-6)
    cells = extract_features(Averages(), pictures, grid=2)["feature 0"]
    corner = lq[..., :4, :4].double().mean((3, 4)).numpy() / 255
    assert np.allclose(cells.reshape(2, 10, 3, 2, 2)[..., 0, 0], corner, atol=1e-6)


def test_a_study_has_numbers_tables_and_figures(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dcpt.probing.SUBSETS", 2)
    subject = Subject("mine", Averages, seen=("haze", "low_light"))
    study = probe(subject, photos, degradations=TYPES, growing=True, **SMALL)
    again = probe(subject, photos, degradations=TYPES, **SMALL)
    assert again.probe == study.probe and np.allclose(again.vectors, study.vectors, atol=1e-6)  # other rounding
    found = study.probe
    assert found.layer == "feature 0" and found.accuracy["feature 0"] == found.accuracy["input"]
    assert found.captions == ["haze", "low_light", "demosaic (unseen)"]
    (curve,) = study.curves
    assert curve.points == tuple(range(3, 11)) and curve.lines["feature 0"][-1][1] == 0  # one set of all ten
    study.save(tmp_path / "out")
    numbers = json.loads((tmp_path / "out/probe.json").read_text())
    assert numbers["chance"] == pytest.approx(1 / 3)
    total = np.array(numbers["counts"])
    assert np.trace(total) / total.sum() == pytest.approx(numbers["accuracy"]["feature 0"][0])
    table = (tmp_path / "out/probe.md").read_text(encoding="utf-8")
    for line in ("| layer | accuracy, % |", "| chance | 33.3 |", "| demosaic | no |", "| 10 | ", "12 crops of 32x32"):
        assert line in table
    for name in ("layers", "confusion", "features", "growing"):
        with Image.open(tmp_path / f"out/{name}.png") as figure:
            assert len(figure.convert("RGB").getcolors(10**6)) > 10


def test_a_run_is_followed_from_its_random_weights(photos, run_folder):
    subjects = find_checkpoints(run_folder)
    assert [(subject.step, subject.seen) for subject in subjects[:2]] == [(0, ()), (2, ("noise", "haze"))]
    study = probe(subjects, photos, degradations=TYPES, **SMALL)
    (curve,) = study.curves
    assert curve.points == (0, 2, 4) and set(curve.lines) == {"input", "feature 0", "all"}
    assert curve.lines["feature 0"][2] == study.probe.accuracy["feature 0"]
    # The ends are what anyone can load by themselves.
    start = probe(find_untrained("nafnet_test", seed=3), photos, degradations=TYPES, **SMALL).probe
    end = probe(find_trained(str(run_folder / "model")), photos, degradations=TYPES, **SMALL)
    assert start.accuracy["feature 0"] == curve.lines["feature 0"][0] and start.seen == ()
    assert np.allclose(end.vectors, study.vectors, atol=1e-6) and end.probe.seen == ("noise", "haze")


def test_the_paper_is_quoted_where_the_network_is_the_same():
    assert published_accuracy(SimpleNamespace(variant="restormer"), trained=False) == {0: 60}
    trained = published_accuracy(SimpleNamespace(variant="nafnet"), trained=True)
    assert trained == {0: 52, 200000: 90, 400000: 94, 600000: 94}
    for variant in ("nafnet_small", None):
        assert published_accuracy(SimpleNamespace(variant=variant), trained=True) == {}


def test_mistakes_are_named(photos, run_folder, tmp_path, monkeypatch):
    mine = Subject("mine", Averages)
    with pytest.raises(UnknownName, match="did you mean 'haze'"):
        probe(mine, photos, degradations=("hase", "rain"), **SMALL)
    with pytest.raises(InvalidSetting, match="expected two or more degradations to tell apart, got haze"):
        probe(mine, photos, degradations=("haze", "haze"), growing=True, **SMALL)
    with pytest.raises(InvalidSetting, match="expected ten or more crops, got 9"):
        probe(mine, photos, **(SMALL | {"crops": 9}))
    with pytest.raises(InvalidData, match="two or more photographs of at least 160x160"):
        probe(mine, photos, **(SMALL | {"size": 128}))
    with pytest.raises(InvalidData, match="expected the folder of a training run"):
        find_checkpoints(tmp_path)
    damaged = tmp_path / "00000004.pt"
    damaged.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointMismatch, match="cannot read"):
        Subject("run", find_checkpoints(run_folder)[-1].load.func).load(Averages, damaged)
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dcpt\[probe\]'"):
        probe(mine, tmp_path)


def test_the_command_probes_one_network(photos, run_folder, tmp_path):
    def invoke(*arguments):
        small = ["--data", photos, "--crops", 12, "--size", 32, "--seeds", 2, "--device", "cpu"]
        return CliRunner().invoke(main, ["probe", *map(str, [*small, *arguments])])

    done = invoke("--random", "nafnet_test", "--degradations", "haze,noise")
    assert done.exit_code == 0 and "| haze | no |" in done.output, done.output
    done = invoke("--run", run_folder, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["curves"][0]["points"] == [0, 2, 4]
    assert (tmp_path / "out/run.png").exists()
    for wrong in ([], ["--random", "nafnet_test", "--model", "nafnet-small-10d"]):
        result = invoke(*wrong)
        assert result.exit_code == 1 and "expected one of --model, --random and --run" in result.output
