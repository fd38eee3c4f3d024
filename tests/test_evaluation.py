"""Protocols against the official numbers, benchmarks on sets as they are published, reports as files."""

import csv
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import GOLDEN, as_uint8, make_picture
from PIL import Image
from skimage.metrics import structural_similarity
from test_layouts import plant_official

import dcpt
from dcpt.cases import degrade_frozen, load_benchmark, load_clean_pictures, synthetic_benchmark, synthetic_labels
from dcpt.checkpoint import hash_weights
from dcpt.cli import main
from dcpt.errors import HubError, InvalidData, InvalidSetting, UnknownName
from dcpt.evaluation import evaluate, find_baseline
from dcpt.extra_metrics import create_metrics
from dcpt.image import read_picture
from dcpt.metrics import luma, psnr, ssim
from dcpt.protocols import PROTOCOLS, to_8bit
from dcpt.published import paper_columns
from dcpt.recipe import load_recipe
from dcpt.report import NOISE_25, read_report

METRICS = json.loads((GOLDEN / "metrics.json").read_text())
TEST_PICTURES = Path(os.environ.get("DCPT_TEST_PICTURES", "nowhere"))
needs_pictures = pytest.mark.skipif(
    not TEST_PICTURES.is_dir(), reason="DCPT_TEST_PICTURES does not name the folder of the pictures in metrics.json"
)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(as_uint8(picture)).save(path)


@needs_pictures
@pytest.mark.parametrize("case", METRICS["cases"], ids=lambda case: Path(case["lq"]).stem)
def test_metrics_equal_the_official_ones(case):
    lq, gt = (read_picture(TEST_PICTURES / case[kind])[0] for kind in ("lq", "gt"))
    for name, convert in (("8bit_rgb", to_8bit), ("float_rgb", lambda x: x), ("8bit_y", luma), ("float_y", luma)):
        measured = psnr(convert(lq), convert(gt)).item(), ssim(convert(lq), convert(gt)).item()
        assert measured[0] == pytest.approx(case[name][0], abs=1e-4)
        assert measured[1] == pytest.approx(case[name][1], abs=1e-6)
    assert ssim(lq, gt, window="uniform").item() == pytest.approx(case["ssim_skimage_uniform7"], abs=1e-6)


@needs_pictures
@pytest.mark.parametrize("case", METRICS["cbsd68_sigma25_seed0"], ids=lambda case: Path(case["gt"]).stem)
def test_noise_equals_the_official_one(case):
    gt, protocol = read_picture(TEST_PICTURES / case["gt"])[0], PROTOCOLS["dcpt"]
    lq = protocol.add_noise(gt, 25)
    noise = (lq - gt).permute(0, 2, 3, 1).flatten()[:5].tolist()
    assert noise == pytest.approx(case["first_noise_values_hwc"], abs=1e-6)
    values = protocol.score(protocol.finish(lq), gt)
    assert values[0] == pytest.approx(case["8bit_rgb"][0], abs=1e-4)
    assert values[1] == pytest.approx(case["8bit_rgb"][1], abs=1e-6)


def test_the_noise_of_both_protocols_is_numpys():
    gt = make_picture(16, 24)[None]
    noise = np.random.RandomState(0).normal(0, 25 / 255, (16, 24, 3)).transpose(2, 0, 1)
    assert torch.allclose(PROTOCOLS["dcpt"].add_noise(gt, 25)[0].double(), gt[0] + torch.from_numpy(noise), atol=1e-6)
    clipped = np.clip(gt[0].double().numpy() * 255 + noise * 255, 0, 255).astype(np.uint8)
    assert torch.equal((PROTOCOLS["airnet"].add_noise(gt, 25)[0] * 255).round().byte(), torch.from_numpy(clipped))


def test_uniform_ssim_is_scikit_images_default():
    a, b = make_picture(20, 31, 1), make_picture(20, 31, 2)
    expected = structural_similarity(a.double().numpy(), b.double().numpy(), channel_axis=0, data_range=1)
    assert ssim(a[None], b[None], window="uniform").item() == pytest.approx(expected, abs=1e-9)


def test_the_protocols_differ_as_documented(tmp_path):
    gt = make_picture(50, 70)
    save(gt, tmp_path / "rain/gt/1.png")
    save(gt * 0.9 + 0.05, tmp_path / "rain/lq/1.png")
    reports = {}
    for name, protocol in PROTOCOLS.items():
        seen = []
        benchmark = load_benchmark(str(tmp_path), protocol=name)
        reports[name] = evaluate(lambda x: seen.append(x.shape[-2:]) or x + 0.001, benchmark).report  # noqa: B023
        assert seen == [(48, 64) if name == "airnet" else (50, 70)]
        assert benchmark.protocol is protocol and f"protocol {name}" in reports[name].protocol
    rounded, exact = (reports[name].scores[0] for name in ("dcpt", "airnet"))
    assert rounded.psnr == rounded.psnr_lq  # a thousandth is rounded away
    assert exact.psnr != exact.psnr_lq and exact.ssim_lq != rounded.ssim_lq
    assert reports["dcpt"].digest != reports["airnet"].digest


@pytest.mark.parametrize("name", ["5d", "10d", "cdd11"])
def test_published_sets_are_measured_from_the_command_line(name, tmp_path):
    if name == "cdd11":
        for place in ("clear", *load_recipe(name).labels):
            save(make_picture(32, 40), tmp_path / f"sets/CDD-11_test/{place}/00001.png")
    else:
        plant_official(tmp_path / "sets", "test")
        for place, path in enumerate(sorted(x for x in (tmp_path / "sets").rglob("*") if x.is_file())):
            path.unlink()
            save(make_picture(32, 40, place % 3), path)
    output = tmp_path / "out"
    arguments = ["evaluate", name, "--data", tmp_path / "sets", "--baseline", "none", "-o", output]
    done = run(*arguments, "--paper", "DCPT-NAFNet")
    assert done.exit_code == 0, done.output
    report = json.loads((output / "report.json").read_text())
    assert {row["name"] for row in report["scores"]} == set(load_recipe(name).labels)
    assert len(report["digest"]) == 64 and len(report["pictures"]) >= len(load_recipe(name).labels)
    assert "paper's PSNR" in (output / "report.md").read_text() and "incomplete: " in done.output
    with open(output / "report.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(report["pictures"])
    page = (output / "report.html").read_text()
    assert page.count("<img") % 3 == 0 and "Gained most" in page


def test_a_missing_set_is_named(tmp_path):
    save(make_picture(32, 40), tmp_path / "CBSD68/1.png")
    done = run("evaluate", "5d", "--data", tmp_path, "--baseline", "none")
    assert done.exit_code == 1 and done.output.count("\n") == 1
    assert all(name in done.output for name in ("Rain100L", "SOTS outdoor", "LOL v1", "GoPro"))


def test_synthetic_benchmarks_are_frozen(tmp_path):
    for seed in range(2):
        save(make_picture(260, 256, seed), tmp_path / f"{seed}.png")
    pictures = load_clean_pictures(tmp_path)
    assert synthetic_labels("synthetic-5d") == ["rain", NOISE_25, "haze", "low_light", "motion_blur", "clean"]
    mixtures = [label for label in synthetic_labels("synthetic-cdd11") if label not in ("clean",)]
    assert mixtures == list(load_recipe("cdd11").labels)
    for label in mixtures:
        once, again = (degrade_frozen(pictures[1], label, 1) for _ in range(2))
        assert torch.equal(once, again) and not torch.equal(once, pictures[1])
    assert torch.equal(degrade_frozen(pictures[0], "haze", 0), degrade_frozen(pictures[0], "haze", 0))
    reports = [evaluate(lambda x: x, synthetic_benchmark("synthetic-cdd11", pictures)).report for _ in range(2)]
    assert reports[0].digest == reports[1].digest and len(reports[0].pictures) == 24
    assert reports[0].mean_gain == 0


def test_any_function_and_any_baseline_can_be_measured(tmp_path):
    save(make_picture(256, 256), tmp_path / "1.png")
    benchmark = synthetic_benchmark("synthetic-5d", load_clean_pictures(tmp_path))
    numbers = {name: evaluate(find_baseline(name), benchmark).report for name in ("none", "median", "autocontrast")}
    gains = {name: {score.name: score.gain for score in report.scores} for name, report in numbers.items()}
    assert not any(gain for name, gain in gains["none"].items() if name != "clean")
    assert gains["median"][NOISE_25] > 1 and gains["autocontrast"]["haze"] > 1
    with pytest.raises(UnknownName, match="'median'"):
        find_baseline("medain")


def test_the_hash_of_weights_follows_their_values():
    torch.manual_seed(0)
    network = dcpt.create_backbone("nafnet_test")
    before = hash_weights(network)
    assert before == hash_weights(network)
    torch.nn.init.zeros_(network.ending.bias)
    with torch.no_grad():
        network.ending.bias[0] = 1e-3
    assert before != hash_weights(network)


def test_paper_rows_go_by_the_names_of_the_benchmarks():
    numbers = paper_columns("5d", "DCPT-NAFNet")
    assert numbers["noise"] == (31.31, 0.886) and numbers["average"] == (29.84, 0.914)
    with pytest.raises(UnknownName, match="DCPT-NAFNet"):
        paper_columns("5d", "DCPT-NAFnet")


def test_what_cannot_be_evaluated_is_said(tmp_path):
    with pytest.raises(UnknownName, match="synthetic-10d"):
        load_benchmark("synthetic-11d")
    with pytest.raises(InvalidData, match="--data"):
        load_benchmark("5d")
    save(make_picture(32, 32), tmp_path / "rain/1.png")
    with pytest.raises(InvalidData, match="with clean ones"):
        load_benchmark(str(tmp_path))


@pytest.fixture
def pairs(tmp_path):
    """Three pictures in two folders, all lq 51, all gt 153 of 255 but for the last, 204."""
    for place, grey in (("rain/{}/1.png", 153), ("rain/{}/2.png", 153), ("haze/{}/1.png", 204)):
        for kind, value in (("lq", 51), ("gt", grey)):
            save(torch.full((3, 16, 20), value / 255), tmp_path / "pairs" / place.format(kind))
    return tmp_path / "pairs"


def distance(restored, gt):
    assert restored.shape == gt.shape == (1, 3, 16, 20)
    return (restored - gt).abs().mean().view(1, 1)


def test_further_metrics_stand_beside_psnr_and_ssim(pairs):
    benchmark = load_benchmark(str(pairs))
    # 0.4001 is rounded to 102 of 255, which is 0.4, before it is measured.
    report = evaluate(lambda x: x + 0.2001, benchmark, metrics={"mae": distance, "first": lambda x, _: x.max()}).report
    assert report.lower_better == {"mae": None, "first": None}
    assert [picture.extra["mae"] for picture in report.pictures] == pytest.approx([0.4, 0.2, 0.2], abs=1e-6)
    assert [score.name for score in report.scores] == ["haze", "rain"]
    expected = {"mae_lq": 0.4, "mae": 0.2, "first_lq": 0.2, "first": 0.4}
    assert report.scores[1].extra == pytest.approx(expected, abs=1e-6)
    lines = report.table({"rain": (30, 0.9), "average": (31, None)}).splitlines()
    assert lines[0].endswith("| SSIM out | mae in | mae out | first in | first out | paper's PSNR | paper's SSIM |")
    assert lines[3].endswith("| 0.4 | 0.2 | 0.2 | 0.4 | 30 | 0.9 |") and lines[4].endswith("| 31 | - |")
    assert {line.count("|") for line in lines[:4]} == {13}
    assert read_report(json.loads(json.dumps(report.as_dict()))).table() == report.table()


def test_without_further_metrics_nothing_is_said_of_them(pairs):
    report = evaluate(lambda x: x, load_benchmark(str(pairs))).report
    assert report.table().splitlines()[0].endswith("| SSIM out |") and "lower_better" not in report.as_dict()
    row = report.as_dict(pictures=True)["pictures"][0]
    assert list(row) == ["label", "name", "psnr_lq", "psnr", "ssim_lq", "ssim", "seconds"]


def test_the_digest_tells_which_metrics_were_measured(pairs):
    versioned = [lambda x, y: 0, lambda x, y: 0]
    versioned[0].version, versioned[1].version = "1.0", "1.1"
    sets = [{}, {"a": distance}, {"b": distance}, {"a": versioned[0]}, {"a": versioned[1]}]
    benchmark = load_benchmark(str(pairs))
    assert len({evaluate(lambda x: x, benchmark, metrics=metrics).report.digest for metrics in sets}) == len(sets)


def test_what_is_no_metric_is_refused_and_what_is_not_finite_is_left_blank(pairs):
    benchmark = load_benchmark(str(pairs))
    for name in ("psnr", "gain", "mae_lq"):
        with pytest.raises(InvalidSetting, match=repr(name)):
            evaluate(lambda x: x, benchmark, metrics={name: distance})
    for value in (torch.zeros(2), "good", None):
        with pytest.raises(InvalidSetting, match="one number from metric 'mae'"):
            evaluate(lambda x: x, benchmark, metrics={"mae": lambda x, y: value})  # noqa: B023
    restored = []
    with pytest.raises(InvalidSetting):
        evaluate(lambda x: restored.append(x) or x, benchmark, metrics={"mae": lambda x, y: None})
    assert len(restored) == 2  # of three: the first verdict is heard before the third begins
    report = evaluate(lambda x: x, benchmark, metrics={"mae": lambda x, y: math.nan}).report
    assert report.as_dict()["scores"][0]["mae"] is None and report.table().splitlines()[2].endswith("| - | - |")


class FakeNetwork:
    """One metric of pyiqa 0.1.16, as `create_metric` returns it."""

    def __init__(self, name, device):
        self.metric_mode, self.lower_better = {"lpips": ("FR", True), "niqe": ("NR", True), "musiq": ("NR", False)}[
            name
        ]
        self.device = device

    def __call__(self, target, ref=None):
        assert (ref is None) == (self.metric_mode == "NR")
        assert target.shape[-1] > 16, "Input is too small"
        return (target if ref is None else (target - ref).abs()).mean().view(1, 1)


def create_fake(name, device=None):
    print(f"Downloading: {name}")
    if name == "brisque":
        raise URLError("Name or service not known")
    return FakeNetwork(name, device)


@pytest.fixture
def pyiqa(monkeypatch):
    names = ["brisque", "lpips", "musiq", "niqe"]
    module = SimpleNamespace(__version__="0.1.16", list_models=lambda: names, create_metric=create_fake)
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module


def test_metrics_of_pyiqa_are_measured_from_the_command_line(pairs, pyiqa, tmp_path):
    arguments = [
        "evaluate",
        pairs,
        "--baseline",
        "none",
        "--device",
        "cpu",
        "-o",
        tmp_path / "out",
        "--metric",
        "lpips",
    ]
    done = run(*arguments, "--metric", "musiq", "--json")
    assert done.exit_code == 0, done.output
    rain = json.loads(done.stdout)["scores"][1]  # what pyiqa prints is not in it
    assert [rain[name] for name in ("lpips_lq", "lpips", "musiq")] == pytest.approx([0.4, 0.4, 0.2], abs=1e-6)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["lower_better"] == {"lpips": True, "musiq": False}
    assert report["pictures"][0]["lpips"] == pytest.approx(0.6, abs=1e-6)
    with open(tmp_path / "out/report.csv", newline="") as file:
        assert [float(row["lpips_lq"]) for row in csv.DictReader(file)] == pytest.approx([0.6, 0.4, 0.4], abs=1e-6)
    for name in ("report.md", "report.html"):
        page = (tmp_path / "out" / name).read_text()
        assert "lpips out, lower is better" in page and "musiq out, higher is better" in page
    pyiqa.__version__ = "0.1.17"
    run(*arguments, "--metric", "musiq")
    assert json.loads((tmp_path / "out/report.json").read_text())["digest"] != report["digest"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("lpisp", "did you mean 'lpips'"), ("brisque", "cannot load metric 'brisque': URLError: <urlopen error Name")],
)
def test_a_metric_that_cannot_be_had_is_one_line(name, said, pairs, pyiqa):
    done = run("evaluate", pairs, "--baseline", "none", "--metric", name)
    assert done.exit_code == 1 and said in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_without_pyiqa_the_extra_is_named(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    done = run("evaluate", pairs, "--baseline", "none", "--metric", "lpips")
    assert done.exit_code == 1 and done.output.count("\n") == 1 and "pip install 'dcpt[metrics]'" in done.output


def test_a_picture_that_a_metric_cannot_measure_is_one_line(tmp_path, pyiqa):
    for kind in ("lq", "gt"):
        save(make_picture(20, 16), tmp_path / f"rain/{kind}/1.png")
    done = run("evaluate", tmp_path, "--baseline", "none", "--device", "cpu", "--metric", "niqe")
    assert done.exit_code == 1 and "'niqe' cannot measure a picture of 16x20: Input is too small" in done.stderr


def test_metrics_compute_where_they_are_asked_to(pyiqa):
    assert create_metrics(["niqe"], device="cpu")["niqe"].network.device == torch.device("cpu")


class Touch:
    """A pickle that leaves a trace when it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_pickle_of_a_metric_is_executed(pyiqa, monkeypatch, tmp_path):
    torch.save(Touch(tmp_path / "trace"), tmp_path / "weights.pth")
    load = lambda name, device: torch.load(tmp_path / "weights.pth", weights_only=False)  # noqa: E731
    monkeypatch.setattr(pyiqa, "create_metric", load)
    with pytest.raises(HubError, match="cannot load metric 'niqe'"):
        create_metrics(["niqe"], device="cpu")
    assert not (tmp_path / "trace").exists()
