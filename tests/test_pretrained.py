"""The bundled weights: small, traceable, and good at what they are for."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

import dcpt
from dcpt.cases import load_clean_pictures
from dcpt.evaluation import classify_synthetic, evaluate_synthetic
from dcpt.image import read_picture
from dcpt.recipe import build_recipe
from dcpt.weights import PRETRAINED_PAIR, WEIGHTS

BUNDLE = Path(str(resources.files("dcpt") / "pretrained"))
BUNDLED = [row.name for row in WEIGHTS.values() if row.bundled]
KODIM07 = Path(__file__).parent / "images"  # a crop of Kodak 07, released for unrestricted usage


@pytest.fixture(scope="module")
def pictures():
    return load_clean_pictures(KODIM07)


def test_the_bundle_is_small_and_every_row_has_its_files():
    assert sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file()) <= 12e6
    assert {folder.name for folder in BUNDLE.iterdir() if folder.is_dir()} == set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_file_says_how_it_was_made(name):
    origin = json.loads((WEIGHTS[name].folder / "recipe.json").read_text())
    assert build_recipe(origin["recipe"]).seed == origin["recipe"]["seed"]
    assert origin["steps"] > 0 and len(origin["data_manifest"]) == 64 and len(origin["commit"]) == 40


def test_restoration_gains_on_an_unseen_photograph(pictures):
    report = evaluate_synthetic(dcpt.Restorer(device="cpu").restore_batch, pictures)
    assert report.mean_gain > 5
    clean = report.scores[-1]
    assert clean.name == "clean" and clean.psnr > 26


def test_the_pretrained_pair_recognises_most_degradations_of_an_unseen_photograph(pictures):
    pair = dcpt.from_pretrained(PRETRAINED_PAIR, with_head=True)
    assert classify_synthetic(*pair, pictures).accuracy >= 0.7


def test_the_shipped_example_is_restored_the_same_way_twice():
    path = Path(__file__).parents[1] / "examples" / "images" / "noise.png"
    first, second = (dcpt.restore(path) for _ in range(2))
    assert first.tobytes() == second.tobytes()

    def roughness(picture):
        pixels, _ = read_picture(picture)
        return (pixels[..., 1:] - pixels[..., :-1]).abs().mean()

    assert roughness(first) < 0.5 * roughness(path)
    assert torch.isfinite(read_picture(first)[0]).all()
