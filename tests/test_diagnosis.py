"""`diagnose`: what is wrong with a picture, in numbers, in words, in its parts and as a picture."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import as_uint8, make_picture
from PIL import Image

import dcpt
from dcpt.calibration import CALIBRATION_FILE, QUANTILES, describe_pixels
from dcpt.cli import main
from dcpt.diagnosis import SMALLEST, TILE_SIZE, Diagnoser, Diagnosis, Tile, plan_tiles, view_positions, weigh_views
from dcpt.diagnosis_picture import annotate
from dcpt.errors import CheckpointMismatch, InvalidImage, InvalidSetting, UnknownName
from dcpt.weights import PRETRAINED_PAIR, WEIGHTS


@pytest.fixture(scope="module")
def diagnoser():
    return Diagnoser(device="cpu")


@pytest.fixture(scope="module")
def photograph():
    """A crop of Kodak 07, which no part of the package was fitted on."""
    with Image.open(Path(__file__).parent / "images" / "kodim07_crop.png") as image:
        return image.convert("RGB")


def make_diagnosis(clean=False, clean_probability=0.0, unknown=False, calibrated=True, **probabilities):
    return Diagnosis(probabilities, clean_probability, clean, unknown, calibrated, ())


def is_probability(value):
    return isinstance(value, float) and 0 <= value <= 1


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (2, 7), (95, 97), (257, 100)])
def test_every_size_gets_a_probability_of_each_degradation_everywhere(diagnoser, size, monkeypatch):
    monkeypatch.setattr(diagnoser, "max_tiles", 3)
    found = diagnoser.diagnose(as_uint8(make_picture(*size)))
    assert list(found.probabilities) == dcpt.list_degradations()
    assert isinstance(found.clean, bool) and isinstance(found.unknown, bool) and found.calibrated
    for part in (found, *found.map):
        assert list(part.probabilities) == dcpt.list_degradations()
        assert all(map(is_probability, [*part.probabilities.values(), part.clean_probability]))


def test_every_kind_of_picture_is_diagnosed_alike(diagnoser, tmp_path):
    array = as_uint8(make_picture())
    Image.fromarray(array).save(tmp_path / "a.png")
    alpha = np.concatenate((array, array[..., :1]), axis=2)
    kinds = [
        array, alpha, array.astype(np.uint16) * 257, tmp_path / "a.png", (tmp_path / "a.png").read_bytes(),
        Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1),
    ]  # fmt: skip
    expected, *others = [diagnoser.diagnose(kind) for kind in kinds]
    for other in others:
        assert other.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    grey = diagnoser.diagnose(array[..., 0])
    assert all(map(is_probability, grey.probabilities.values()))


@pytest.mark.parametrize("broken", [torch.rand(2, 3, 32, 32), np.full((8, 8, 3), np.nan), "nowhere.png", None])
def test_what_is_not_one_picture_is_refused(diagnoser, broken):
    with pytest.raises(InvalidImage, match="expected"):
        diagnoser.diagnose(broken)


@pytest.mark.parametrize("degradation", ["noise", "low_light", "jpeg", "defocus_blur"])
def test_a_degradation_is_recognised_and_a_clean_photograph_looks_clean(diagnoser, photograph, degradation):
    assert diagnoser.diagnose(photograph).clean
    found = diagnoser.diagnose(dcpt.degrade(photograph, **{degradation: 0.8}))
    assert not found.clean and found.clean_probability < 0.5
    assert max(found.probabilities, key=found.probabilities.get) == degradation
    assert found.probabilities[degradation] > 0.5 and degradation.replace("_", " ") in found.summary


def test_two_degradations_at_once_are_both_named(diagnoser, photograph):
    found = diagnoser.diagnose(dcpt.degrade(photograph, rain=0.7, jpeg=0.7))
    assert {name for name, probability in found.probabilities.items() if probability > 0.5} == {"rain", "jpeg"}


def test_the_map_tells_where_it_is(diagnoser, photograph):
    whole = as_uint8(torch.from_numpy(np.array(photograph.resize((256, 256)))).permute(2, 0, 1) / 255)
    halves = np.concatenate((whole, dcpt.degrade(whole, noise=0.9)), axis=1)
    left, right = diagnoser.diagnose(halves).map
    assert left.box == (0, 0, 256, 256) and right.box == (256, 0, 512, 256)
    assert left.probabilities["noise"] < 0.5 < right.probabilities["noise"]


def test_the_same_picture_gives_the_same_numbers(diagnoser, picture):
    assert diagnoser.diagnose(picture) == diagnoser.diagnose(picture) == dcpt.diagnose(picture, device="cpu")


def test_a_diagnosis_survives_json(diagnoser, picture):
    found = diagnoser.diagnose(picture)
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["probabilities"] == found.probabilities and plain["summary"] == found.summary
    assert plain["map"][0]["box"] == [0, 0, 128, 96]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (make_diagnosis(noise=0.97, haze=0.61, rain=0.1), "noise (97 %), probably also haze (61 %)"),
        (make_diagnosis(noise=0.97, rain=0.9, haze=0.3), "noise (97 %), rain (90 %), perhaps also haze (30 %)"),
        (make_diagnosis(noise=0.4, haze=0.1), "perhaps noise (40 %)"),
        (make_diagnosis(noise=0.2, haze=0.1), "not clean, perhaps noise (20 %)"),
        (make_diagnosis(True, 0.93, noise=0.1), "looks clean (93 %)"),
        (make_diagnosis(True, 0.6, noise=0.3), "looks clean (60 %), perhaps noise (30 %)"),
        (make_diagnosis(unknown=True, noise=0.8), "noise (80 %), but it is unlike anything this model was trained on"),
        (make_diagnosis(calibrated=False, noise=0.8), "noise (80 %), not calibrated"),
    ],
)  # fmt: skip
def test_the_summary_says_it_in_words(found, words):
    assert found.summary == words


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (257, 1000), (5000, 3), (3, 5000), (9000, 7000)])
def test_tiles_are_few_and_cover_the_picture_once(size):
    boxes = plan_tiles(*size, max_tiles=16)
    covered = np.zeros((size[0] // 8 + 1, size[1] // 8 + 1), int)
    for left, top, right, bottom in boxes:
        covered[-(-top // 8) : -(-bottom // 8), -(-left // 8) : -(-right // 8)] += 1
    assert len(boxes) <= 16 and covered[: -(-size[0] // 8), : -(-size[1] // 8)].min() == covered.max() == 1


@pytest.mark.parametrize("length", [1, 2, 3, 96, 100, 255, 256, 400])
def test_a_view_reflects_what_is_missing(length):
    row = np.arange(length)
    size = -(-max(min(length, TILE_SIZE), SMALLEST) // 8) * 8
    expected = np.pad(row, (0, size), mode="reflect" if length > 1 else "edge")[:size]
    assert view_positions(length, 0, 8).tolist() == expected.tolist()
    last = view_positions(length, length, 8)
    assert len(last) == size and last.min() >= 0 and last.max() < length


def test_pixels_are_described_by_what_numpy_computes():
    picture = make_picture(40, 30)
    got = describe_pixels(picture[None])[0].numpy()
    pixels = picture.numpy()
    grey, dark = pixels.mean(0), pixels.min(0)
    detail = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    fine = np.log([*np.quantile(abs(detail), QUANTILES) + 1e-4, abs(detail).mean() + 1e-4])
    expected = [fine, *(np.quantile(y, QUANTILES) for y in (grey, dark, pixels.max(0) - dark))]
    expected += [pixels.mean((1, 2)), pixels.std((1, 2), ddof=1)]
    np.testing.assert_allclose(got, np.concatenate(expected), rtol=1e-3, atol=1e-4)


def test_restore_returns_the_diagnosis_if_asked(picture):
    restored, found = dcpt.restore(picture, device="cpu", diagnose=True)
    assert torch.equal(restored, dcpt.restore(picture, device="cpu"))
    assert found == dcpt.diagnose(picture, device="cpu")


def test_a_model_without_calibration_gives_the_softmax_of_its_head(model_folder, picture):
    found = dcpt.diagnose(picture, model=str(model_folder), device="cpu")
    backbone, head = dcpt.from_pretrained(model_folder, with_head=True)
    with torch.inference_mode():
        expected = head(backbone(picture[None], hook=True)).softmax(1)[0].tolist()
    assert [*found.probabilities.values(), found.clean_probability] == pytest.approx(expected, abs=1e-5)
    assert not found.calibrated and not found.unknown and found.summary.endswith("not calibrated")


@pytest.fixture
def pair_copy(tmp_path):
    return shutil.copytree(WEIGHTS[PRETRAINED_PAIR].folder, tmp_path / "pair")


def test_a_copy_of_the_bundled_pair_is_calibrated_alike(diagnoser, pair_copy, picture):
    assert Diagnoser(pair_copy, device="cpu").diagnose(picture) == diagnoser.diagnose(picture)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_calibration_is_refused(pair_copy, damage):
    path = pair_copy / CALIBRATION_FILE
    path.write_bytes({"cut": path.read_bytes()[:-9], "empty": b"", "text": b"no tensors" * 9}[damage])
    with pytest.raises(CheckpointMismatch, match="cannot read the calibration"):
        Diagnoser(pair_copy, device="cpu")


def test_the_calibration_of_another_model_is_refused(pair_copy, model_folder):
    shutil.copytree(model_folder, pair_copy / "other")
    shutil.copy(pair_copy / CALIBRATION_FILE, pair_copy / "other")
    with pytest.raises(CheckpointMismatch, match="another's"):
        Diagnoser(pair_copy / "other", device="cpu")


def test_what_cannot_diagnose_is_refused():
    with pytest.raises(CheckpointMismatch, match="classifier head"):
        Diagnoser("nafnet-small-10d", device="cpu")
    with pytest.raises(UnknownName, match="did you mean"):
        dcpt.diagnose(torch.rand(3, 8, 8), model="nafnet-small-10d-pretrian")
    with pytest.raises(InvalidSetting, match="at least one tile"):
        Diagnoser(max_tiles=0)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (700, 90), (1200, 1000)])
def test_the_annotated_picture_shows_photograph_bars_and_words(size):
    probabilities = {"noise": 0.9, "haze": 0.1}
    found = Diagnosis(probabilities, 0.05, False, False, True, (Tile((0, 0, *size[::-1]), probabilities, 0.05),))
    sheet = annotate(as_uint8(make_picture(*size)), found)
    assert sheet.mode == "RGB" and 300 < sheet.width < 1400 and 100 < sheet.height < 1100
    assert sheet.getpixel((sheet.width - 16 - 54 - 120, 16 + 15)) == (0xE6, 0x9F, 0x00)  # within the bar of noise


def test_the_command_says_one_line_per_picture_and_survives_broken_ones(tmp_path):
    for seed in range(2):
        Image.fromarray(as_uint8(make_picture(64, 80, seed))).save(tmp_path / f"{seed}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    result = CliRunner().invoke(main, ["diagnose", str(tmp_path), "--device", "cpu", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [f"{tmp_path}/{seed}.png" for seed in (0, 1)]
    assert result.stderr.count("broken.jpg") == 1 and "1 of 3 pictures" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png.png", "1.png.png"]
    again = CliRunner().invoke(main, ["diagnose", str(tmp_path / "0.png"), "-o", str(tmp_path / "out")])
    assert again.exit_code == 1 and "--overwrite" in again.stderr


def test_the_command_prints_json_by_line(tmp_path, diagnoser):
    Image.fromarray(as_uint8(make_picture(64, 80))).save(tmp_path / "a.png")
    result = CliRunner().invoke(main, ["diagnose", str(tmp_path / "a.png"), "--json", "--device", "cpu"])
    line = json.loads(result.stdout)
    assert line["path"] == str(tmp_path / "a.png")
    assert line["probabilities"] == diagnoser.diagnose(tmp_path / "a.png").probabilities


def test_the_command_refuses_what_it_cannot_do_in_one_line(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(as_uint8(make_picture(16, 16))).save(tmp_path / folder / "x.png")
    (tmp_path / "empty").mkdir()
    both, out = [tmp_path / "a/x.png", tmp_path / "b/x.png"], ["-o", tmp_path / "out"]
    for arguments, words in [
        ([tmp_path / "none.png"], "found no file"),
        ([tmp_path / "empty"], "found none"),
        ([*both, *out], "different names"),
        ([tmp_path / "a", "--model", "nafnet-small-10d"], "classifier head"),
    ]:
        result = CliRunner().invoke(main, ["diagnose", *map(str, arguments)])
        assert result.exit_code == 1 and words in result.stderr and result.stderr.count("\n") == 1


def test_parts_with_more_to_see_count_more():
    flat, busy = torch.full((3, 32, 32), 0.5), torch.rand(3, 32, 32)
    weights = weigh_views(torch.stack([flat, busy, busy]))
    assert weights.sum() == pytest.approx(1) and 0 < weights[0] < 0.05 and weights[1] == weights[2]
    assert weigh_views(flat[None]).item() == 1


def test_a_likely_degradation_is_no_clean_picture(monkeypatch):
    diagnoser = Diagnoser(device="cpu")
    monkeypatch.setattr(diagnoser, "_read", lambda logits: ({"haze": 0.81, "rain": 0.1}, 0.9))
    assert not diagnoser.diagnose(torch.rand(3, 96, 96)).clean
    monkeypatch.setattr(diagnoser, "_read", lambda logits: ({"haze": 0.4, "rain": 0.1}, 0.9))
    assert diagnoser.diagnose(torch.rand(3, 96, 96)).clean
