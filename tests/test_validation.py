"""What a run shows of itself: validation, the best model, sheets of samples, curves, TensorBoard."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_training import RECIPE, STAGE

from dcpt.data.batches import Batch
from dcpt.data.crops import pack_crops
from dcpt.data.mixture import load_data
from dcpt.errors import MissingExtra
from dcpt.finetuning import finetune
from dcpt.hub import from_pretrained
from dcpt.metrics import psnr
from dcpt.pretraining import pretrain
from dcpt.processes import Processes
from dcpt.run_folder import RunFolder
from dcpt.runs import summarise_run
from dcpt.validation import CAPTION_HEIGHT, Findings, validate

SETTINGS = {"steps": 6, "checkpoint_every": 2, "log_every": 2, "validation_share": 0.1, "validation_size": 8}


@pytest.fixture
def crops(photo_folder):
    return pack_crops([photo_folder], crop_size=64)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_held_out_pictures_are_not_trained_on(crops):
    kept, held = load_data(crops).split(0.1)
    assert len(kept.parts[0].pixels) + len(held.parts[0].pixels) == len(crops.pixels)
    assert len(held.parts[0].pixels) == round(0.1 * len(crops.pixels))
    assert load_data(crops).split(0)[1] is None


@pytest.mark.parametrize(("train", "metric"), [(pretrain, "val_accuracy"), (finetune, "val_psnr")])
def test_every_checkpoint_is_validated_and_the_best_kept(train, metric, crops, tmp_path):
    train(None, crops, tmp_path, recipe=RECIPE, device="cpu", **SETTINGS)
    values = {row["step"]: row[metric] for row in rows_of(tmp_path) if metric in row}
    assert list(values) == [2, 4, 6]
    best = max(values, key=values.get)
    assert RunFolder(tmp_path).best == {"step": best, "metric": metric, "value": values[best]}
    assert from_pretrained(tmp_path / "best") is not None
    assert json.loads((tmp_path / "best/config.json").read_text())["step"] == best
    assert f"{best:08d}.pt" in {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert summarise_run(tmp_path)["best"]["step"] == best and metric in summarise_run(tmp_path)
    columns = 3 if train is finetune else 2
    for step in values:
        sheet = Image.open(tmp_path / f"samples/{step:08d}.png")
        assert sheet.size == (columns * STAGE.patch_size, STAGE.batch_size * (STAGE.patch_size + CAPTION_HEIGHT))
    assert Image.open(tmp_path / "curves.png").size[0] > 100


def test_validation_data_of_ones_own_replace_the_share(crops, tmp_path):
    dark = replace(crops, pixels=torch.zeros_like(crops.pixels[:1]))
    finetune(None, crops, tmp_path, recipe=RECIPE, device="cpu", validation=dark, **SETTINGS)
    assert rows_of(tmp_path)[-1]["val_psnr"] > 0
    sheet = Image.open(tmp_path / "samples/00000006.png")
    gt = sheet.crop((2 * STAGE.patch_size, 0, 3 * STAGE.patch_size, STAGE.patch_size))
    assert gt.getextrema() == ((0, 0),) * 3


def test_the_numbers_of_validation_are_means_over_the_degraded_pictures(tmp_path):
    gt = torch.rand(4, 3, 8, 8)
    lq = torch.cat((gt[:3] * 0.5, gt[3:]))
    batch = Batch(lq, gt, torch.zeros(4), torch.zeros(4))

    def examine(batch):
        degraded = (batch.lq != batch.gt).flatten(1).any(1)
        return Findings({"psnr": psnr(batch.lq, batch.gt)[degraded]}, (batch.lq, batch.gt), [""] * 4)

    class Stream:
        batch_size = 4

        def __call__(self, step):
            return batch

    row, _ = validate(examine, Stream(), 7, Processes(torch.device("cpu")), tmp_path / "sheet.png")
    assert row == {"val_psnr": pytest.approx(psnr(lq[:3], gt[:3]).mean().item())}


def test_the_log_goes_to_tensorboard_if_asked(crops, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finetune(None, crops, tmp_path, recipe=RECIPE, device="cpu", tensorboard=True, **SETTINGS)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    assert {"val_psnr", "val_input_psnr"} <= set(events.Tags()["scalars"])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"dcpt\[tensorboard\]"):
        finetune(None, crops, tmp_path / "other", recipe=RECIPE, device="cpu", tensorboard=True, **SETTINGS)


def test_a_run_goes_on_without_matplotlib(crops, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    finetune(None, crops, tmp_path, recipe=replace(RECIPE, finetune=STAGE), device="cpu")
    assert not (tmp_path / "curves.png").exists()
