"""Recipes, the loop, and that an interrupted run ends where an uninterrupted one does."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dcpt.backbones import list_backbones
from dcpt.data.batches import Batch, Batches
from dcpt.data.crops import pack_crops
from dcpt.data.mixture import load_data, make_batches
from dcpt.errors import CheckpointMismatch, DcptError, InvalidSetting, RunStopped, UnknownName
from dcpt.finetuning import finetune
from dcpt.gradients import StepOutput, backward_normalized
from dcpt.hub import from_pretrained
from dcpt.preparation import prepare
from dcpt.pretraining import pretrain
from dcpt.recipe import Recipe, Stage, build_recipe, list_recipes, load_recipe, override_stage
from dcpt.run_folder import RunFolder
from dcpt.training import TrainingState, learning_rate

STAGE = Stage(
    steps=6, batch_size=4, patch_size=16, lr=1e-3, head_lr=1e-3, warmup_steps=2, clip_norm=1.0, validation_share=0
)
RECIPE = Recipe("test", "nafnet_test", ("noise", "haze", "clean"), pretrain=STAGE, finetune=STAGE)
MODES = {"pretrain": pretrain, "finetune": finetune}


@pytest.fixture
def crops(photo_folder):
    return pack_crops([photo_folder], crop_size=64)


def final_state(folder):
    return RunFolder(folder).load_checkpoint()


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def describe(kind, data):
    options = {"weights": None, "validation": None, "device": "cpu", "settings": {}}
    return prepare(kind, None, data, recipe=RECIPE, **options)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_run_ends_bit_for_bit_where_a_straight_one_does(mode, crops, tmp_path, monkeypatch):
    train = MODES[mode]
    train(None, crops, tmp_path / "straight", recipe=RECIPE)

    # Checkpoint every second step; lose the power in step 5.
    often = override_stage(RECIPE, mode, {"checkpoint_every": 2, "log_every": 1})
    make_batch = Batches.__call__

    def dying(self, step):
        if step == 5:
            raise Interrupted
        return make_batch(self, step)

    monkeypatch.setattr(Batches, "__call__", dying)
    with pytest.raises(Interrupted):
        train(None, crops, tmp_path / "resumed", recipe=often)
    assert final_state(tmp_path / "resumed")["step"] == 4
    monkeypatch.setattr(Batches, "__call__", make_batch)
    train(None, crops, tmp_path / "resumed", recipe=often)

    assert_equal(final_state(tmp_path / "straight"), final_state(tmp_path / "resumed"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "resumed/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_left_as_it_is(crops, tmp_path):
    pretrain(None, crops, tmp_path / "run", recipe=RECIPE)
    before = final_state(tmp_path / "run")
    pretrain(None, crops, tmp_path / "run", recipe=RECIPE)
    assert_equal(before, final_state(tmp_path / "run"))


def test_pretraining_leads_to_finetuning_and_both_models_load(crops, tmp_path):
    pair = pretrain(None, crops, tmp_path / "pretrain", recipe=RECIPE)
    backbone, head = from_pretrained(pair, with_head=True)
    assert head.labels == RECIPE.labels
    start = replace(RECIPE, finetune=replace(STAGE, steps=1, lr=0.0, ema_decay=0.0, warmup_steps=0, min_lr=0.0))
    restored = from_pretrained(finetune(None, crops, tmp_path / "finetune", start=pair, recipe=start))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name]), name
    config = json.loads((tmp_path / "finetune/model/config.json").read_text())
    assert config["data_manifest"] == crops.manifest_hash and config["step"] == 1
    assert build_recipe(config["recipe"]) == start


def test_training_does_not_touch_the_global_random_state(crops, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    pretrain(None, crops, tmp_path, recipe=RECIPE)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(crops, tmp_path):
    finetune(None, crops, tmp_path, recipe=RECIPE)
    wild = replace(RECIPE, finetune=replace(STAGE, steps=12, lr=1e30, warmup_steps=0, clip_norm=0.0))
    with pytest.raises(DcptError, match="no longer finite"):
        finetune(None, crops, tmp_path, recipe=wild)
    assert final_state(tmp_path)["step"] == 6


def test_a_run_folder_is_not_resumed_with_other_data_or_another_stage(crops, tmp_path):
    finetune(None, crops, tmp_path, recipe=RECIPE)
    recipe = (tmp_path / "recipe.json").read_text()
    with pytest.raises(CheckpointMismatch, match="another seed"):
        finetune(None, crops, tmp_path, recipe=replace(RECIPE, seed=1))
    with pytest.raises(CheckpointMismatch, match="another data"):
        finetune(None, replace(crops, files={}), tmp_path, recipe=RECIPE)
    with pytest.raises(CheckpointMismatch, match="another stage"):
        pretrain(None, crops, tmp_path, recipe=RECIPE)
    assert (tmp_path / "recipe.json").read_text() == recipe
    assert load_recipe(tmp_path / "recipe.json") == RECIPE


def test_a_run_cut_off_before_its_model_was_written_writes_it_when_repeated(crops, tmp_path):
    model = finetune(None, crops, tmp_path, recipe=RECIPE)
    shutil.rmtree(model)
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write('{"step": 7, "lo')
    assert from_pretrained(finetune(None, crops, tmp_path, recipe=RECIPE)) is not None
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [6]


def test_weights_that_are_not_finite_are_never_saved(crops, tmp_path):
    backbone = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1)})
    state = TrainingState(backbone, STAGE, describe("finetune", crops))
    state.save(RunFolder(tmp_path))
    torch.nn.init.constant_(backbone["backbone"].weight, float("nan"))
    state.step = 1
    with pytest.raises(DcptError, match="no longer finite"):
        state.save(RunFolder(tmp_path))
    assert final_state(tmp_path)["step"] == 0


@pytest.fixture
def poisoned(monkeypatch):
    """One picture of the fourth batch has a value that is not a number."""
    make_batch = Batches.__call__

    def make_poisoned(self, step):
        batch = make_batch(self, step)
        if step == 3:
            batch.lq[0, 0, 0, 0] = float("nan")
        return batch

    monkeypatch.setattr(Batches, "__call__", make_poisoned)


def test_one_bad_sample_poisons_no_statistics_of_a_batch_norm(crops, tmp_path, poisoned):
    model = pretrain(None, crops, tmp_path, recipe=replace(RECIPE, head_norm="batch"), log_every=1)
    state = final_state(tmp_path)
    assert all(torch.isfinite(value).all() for part in ("model", "ema") for value in state[part].values())
    assert from_pretrained(model, with_head=True)[1] is not None
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[3]["skipped"] == 1 and "loss" not in rows[3]


def test_one_bad_sample_poisons_nothing(crops, tmp_path, poisoned):
    for gradients in ("mean", "normalized"):
        folder = tmp_path / gradients
        finetune(None, crops, folder, recipe=replace(RECIPE, finetune=replace(STAGE, gradients=gradients)))
        state = final_state(folder)
        assert state["step"] == 6 and all(torch.isfinite(value).all() for value in state["model"].values())
        assert all(torch.isfinite(value).all() for value in state["ema"].values())
        row = json.loads((folder / "metrics.jsonl").read_text())
        assert row["skipped"] == 1 and row["loss"] < 1


class Dropping(torch.nn.Module):
    """A network that draws at random while it is trained."""

    feature_channels, feature_strides, size_multiple = (4,), (1,), 1

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, hook=False):
        features = self.dropout(self.first(x))
        return [features] if hook else x + self.last(features)


def test_a_network_with_dropout_is_resumed_exactly(crops, tmp_path):
    finetune(Dropping(), crops, tmp_path / "straight", recipe=RECIPE)
    finetune(Dropping(), crops, tmp_path / "resumed", recipe=RECIPE, steps=3, schedule="constant")
    finetune(Dropping(), crops, tmp_path / "again", recipe=RECIPE, schedule="constant")
    finetune(Dropping(), crops, tmp_path / "resumed", recipe=RECIPE, schedule="constant")
    assert_equal(final_state(tmp_path / "again")["model"], final_state(tmp_path / "resumed")["model"])


def test_a_run_goes_on_as_what_it_was(crops, tmp_path):
    pretrain(None, crops, tmp_path, recipe=RECIPE, steps=2)
    with pytest.raises(CheckpointMismatch, match="another mode; choose"):
        pretrain(None, crops, tmp_path, recipe=RECIPE, mode="direct")
    with pytest.raises(CheckpointMismatch, match="another pictures held out"):
        pretrain(None, crops, tmp_path, recipe=RECIPE, validation_share=0.2)
    start = pretrain(None, crops, tmp_path / "start", recipe=RECIPE)
    pretrain(None, crops, tmp_path / "head", recipe=RECIPE, mode="head", start=start, steps=2)
    with pytest.raises(CheckpointMismatch, match="another frozen weights"):
        pretrain(None, crops, tmp_path / "head", recipe=RECIPE, mode="head")


def test_a_checkpoint_before_the_first_line_of_the_log(crops, tmp_path):
    pretrain(None, crops, tmp_path, recipe=RECIPE, checkpoint_every=2, log_every=50, validation_share=0.1)
    assert final_state(tmp_path)["step"] == 6


def test_damaged_or_foreign_starts_are_refused(crops, tmp_path):
    finetune(None, crops, tmp_path, recipe=RECIPE)
    (tmp_path / "checkpoints/00000006.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointMismatch, match="cannot resume .* 00000006.pt is damaged .*; choose a new folder"):
        finetune(None, crops, tmp_path, recipe=RECIPE)
    pair = pretrain(None, crops, tmp_path / "pretrain", recipe=RECIPE)
    with pytest.raises(CheckpointMismatch, match="expected a plain nafnet_small to start from, got a nafnet_test"):
        finetune(None, crops, tmp_path / "other", start=pair, recipe=replace(RECIPE, backbone="nafnet_small"))


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone", "not a checkpoint", "manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.save_checkpoint(step, {"step": step, "weight": torch.full((3,), float(step))})
    assert sorted(path.name for path in folder.checkpoints.glob("*.pt")) == ["00000002.pt", "00000003.pt"]
    newest = folder.checkpoints / "00000003.pt"
    content = newest.read_bytes()
    if damage == "flipped":
        newest.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "cut":
        newest.write_bytes(content[:-9])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "gone":
        newest.unlink()
    elif damage == "not a checkpoint":
        torch.save({}, newest)
    else:
        newest.with_suffix(".json").write_text("{")
    with pytest.warns(UserWarning, match="00000003.pt is damaged .*; going on from step 2"):
        assert folder.load_checkpoint()["step"] == 2


def test_a_run_folder_takes_one_process_at_a_time(crops, tmp_path):
    with RunFolder(tmp_path).locked():
        code = "import sys; from pathlib import Path; from dcpt.run_folder import RunFolder\n"
        code += "with RunFolder(Path(sys.argv[1])).locked(): pass"
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert other.returncode == 1 and "another process trains in" in other.stderr
    finetune(None, crops, tmp_path, recipe=RECIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop_saves_and_resumes(number, crops, tmp_path, monkeypatch):
    finetune(None, crops, tmp_path / "straight", recipe=RECIPE)
    make_batch = Batches.__call__
    handler = signal.getsignal(number)

    def interrupted(self, step):
        if step == 3:
            signal.raise_signal(number)
        return make_batch(self, step)

    monkeypatch.setattr(Batches, "__call__", interrupted)
    with pytest.raises(RunStopped, match=f"stopped by {number.name} at step 4; repeat the command to go on"):
        finetune(None, crops, tmp_path / "stopped", recipe=RECIPE)
    assert signal.getsignal(number) is handler and final_state(tmp_path / "stopped")["step"] == 4
    monkeypatch.setattr(Batches, "__call__", make_batch)
    finetune(None, crops, tmp_path / "stopped", recipe=RECIPE)
    assert_equal(final_state(tmp_path / "straight"), final_state(tmp_path / "stopped"))


def test_what_classifies_refuses_mixtures_and_unknown_modes():
    for stage, settings in (("pretrain", {"mixed_share": 0.1}), ("finetune", {"mode": "guided", "mixed_share": 0.1})):
        with pytest.raises(InvalidSetting, match="a mixture has no class"):
            override_stage(RECIPE, stage, settings)
    with pytest.raises(InvalidSetting, match="mode of finetune to be one of .*guided.*, got 'head'"):
        override_stage(RECIPE, "finetune", {"mode": "head"})


def weights_of(folder):
    backbone, head = from_pretrained(folder, with_head=True)
    return backbone.state_dict(), head.state_dict()


def moved(before, after):
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_the_modes_of_pretraining_train_what_they_say(crops, tmp_path):
    start = pretrain(None, crops, tmp_path / "start", recipe=RECIPE)
    backbone, _ = weights_of(start)
    for mode in ("standard", "direct", "masked", "head"):
        recipe = override_stage(RECIPE, "pretrain", {"mode": mode})
        trained, head = weights_of(pretrain(None, crops, tmp_path / mode, start=start, recipe=recipe))
        assert moved(backbone, trained) == (mode != "head")
        assert all(torch.isfinite(tensor).all() for tensor in head.values())
    logs = {mode: (tmp_path / mode / "metrics.jsonl").read_text() for mode in ("standard", "direct", "head")}
    assert "pixel_loss" in logs["direct"] and "pixel_loss" not in logs["head"]
    assert logs["direct"] != logs["standard"]


@pytest.mark.parametrize("name", [name for name in list_backbones() if name.endswith("_test")])
def test_every_backbone_goes_through_twenty_steps_of_every_mode(name, crops, tmp_path):
    stage = replace(STAGE, steps=20)
    recipe = replace(RECIPE, backbone=name, pretrain=stage, finetune=stage)
    pair = pretrain(None, crops, tmp_path / "standard", recipe=recipe)
    for mode in ("direct", "masked", "head"):
        pretrain(None, crops, tmp_path / mode, start=pair, recipe=override_stage(recipe, "pretrain", {"mode": mode}))
    for mode in ("standard", "guided"):
        folder = tmp_path / f"finetune-{mode}"
        finetune(None, crops, folder, start=pair, recipe=override_stage(recipe, "finetune", {"mode": mode}))
    for log in tmp_path.glob("*/metrics.jsonl"):
        row = json.loads(log.read_text())
        assert row["step"] == 20 and row["loss"] < 5 and "skipped" not in row


def test_a_guided_transfer_needs_a_head_that_knows_the_classes(crops, tmp_path):
    pair = pretrain(None, crops, tmp_path / "pair", recipe=RECIPE)
    recipe = override_stage(RECIPE, "finetune", {"mode": "guided", "clip_norm": 0.01})
    restored = from_pretrained(finetune(None, crops, tmp_path / "guided", start=pair, recipe=recipe))
    assert moved(from_pretrained(pair).state_dict(), restored.state_dict())
    row = json.loads((tmp_path / "guided/metrics.jsonl").read_text())
    assert row["loss"] == pytest.approx(row["pixel_loss"] + row["class_loss"], rel=1e-5) and 0 <= row["accuracy"] <= 1
    with pytest.raises(CheckpointMismatch, match="got no head"):
        finetune(None, crops, tmp_path / "headless", start=tmp_path / "guided/model", recipe=recipe)
    other = replace(recipe, labels=("rain", "noise", "clean"))
    with pytest.raises(CheckpointMismatch, match="expected a head for"):
        finetune(None, crops, tmp_path / "other", start=pair, recipe=other)


def test_the_rate_warms_up_and_falls_as_a_cosine():
    stage = Stage(steps=110, warmup_steps=10, min_lr=0.0)
    assert learning_rate(0, 1.0, stage) == pytest.approx(0.1)
    assert learning_rate(9, 1.0, stage) == pytest.approx(1.0)
    assert learning_rate(60, 1.0, stage) == pytest.approx(0.5)
    assert learning_rate(110, 1.0, stage) == pytest.approx(0.0)
    assert learning_rate(100, 1.0, replace(stage, schedule="constant")) == 1.0


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load_and_survive_the_trip_through_plain_data(name):
    recipe = load_recipe(name)
    assert recipe.name.endswith(name) and isinstance(recipe.pretrain.lr, float)
    assert build_recipe(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_recipe_knows_what_other_backbones_have_otherwise(tmp_path):
    recipe, other = load_recipe("5d"), load_recipe("5d", backbone="swinir")
    assert (recipe.backbone, recipe.pretrain.batch_size, recipe.finetune.lr) == ("nafnet", 32, 3e-4)
    assert (other.backbone, other.pretrain.batch_size, other.finetune.lr) == ("swinir", 16, 1.5e-4)
    assert load_recipe("5d", backbone="nafnet_small") == replace(recipe, backbone="nafnet_small")
    (tmp_path / "recipe.yaml").write_text("{name: x, backbone: y, labels: [a, b], variants: {y: [1]}}")
    with pytest.raises(InvalidSetting, match="variants to be settings by backbone"):
        load_recipe(tmp_path / "recipe.yaml")


def test_mistakes_in_recipes_are_named(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'small-10d'"):
        load_recipe("small-10")
    with pytest.raises(UnknownName, match="no.yaml"):
        load_recipe(tmp_path / "no.yaml")
    recipe = load_recipe("small-10d")
    with pytest.raises(UnknownName, match="'batchsize'; did you mean 'batch_size'"):
        override_stage(recipe, "pretrain", {"batchsize": "3"})
    with pytest.raises(InvalidSetting, match="steps to be of type int, got 'many'"):
        override_stage(recipe, "pretrain", {"steps": "many"})
    with pytest.raises(InvalidSetting, match="schedule to be one of"):
        override_stage(recipe, "finetune", {"schedule": "linear"})
    with pytest.raises(InvalidSetting, match="incomplete recipe"):
        build_recipe({"name": "x"})
    with pytest.raises(UnknownName, match="'jepg'; did you mean 'jpeg'"):
        override_stage(recipe, "finetune", {"sampling_weights": "jepg=2"})
    with pytest.raises(InvalidSetting, match="weight of jpeg to be finite and at least 0"):
        override_stage(recipe, "finetune", {"sampling_weights": "jpeg=-1"})
    with pytest.raises(InvalidSetting, match="0 for every degradation"):
        override_stage(recipe, "finetune", {"sampling_weights": dict.fromkeys(recipe.degradations, 0)})
    assert override_stage(recipe, "pretrain", {"lr": "3e-4"}).pretrain.lr == 3e-4
    weighted = override_stage(recipe, "finetune", {"sampling_weights": "jpeg=2,haze=.5"})
    assert weighted.finetune.sampling_weights == {"jpeg": 2, "haze": 0.5}


@pytest.mark.parametrize(
    "text", ["", "5", "{half", "[a]", "{name: x, backbone: y, labels: 5}", "{name: x, backbone: y, labels: [a, a]}",
             "{name: x, backbone: y, labels: [a, b], pretrain: 5}", "{name: x, backbone: y, labels: [a, b], seed: 1.5}",
             "{name: x, backbone: y, labels: [a, b], finetune: {steps: .inf}}",
             "{name: x, backbone: y, labels: [a, b], finetune: {lr: -1}}",
             "{name: x, backbone: y, labels: [a, b], finetune: {ema_decay: .nan}}",
             "{name: x, backbone: y, labels: [a, b], finetune: {clean_share: 0.5}}"],
)  # fmt: skip
def test_malformed_recipes_are_refused(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InvalidSetting):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES)
def test_both_stages_train_on_the_gpu(mode, precision, crops, tmp_path):
    recipe = override_stage(RECIPE, mode, {"precision": precision})
    backbone = from_pretrained(MODES[mode](None, crops, tmp_path, recipe=recipe, device="cuda"))
    assert all(torch.isfinite(weight).all() for weight in backbone.parameters())


@pytest.mark.gpu
def test_batches_are_made_on_the_gpu_and_repeat(crops):
    batches = make_batches(load_data(crops), RECIPE, STAGE, "cuda", paired=True)
    first, again = batches(3), batches(3)
    assert first.lq.is_cuda and torch.equal(first.lq, again.lq) and torch.equal(first.label, again.label)


def test_normalized_gradients_are_the_mean_of_directions():
    weight, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    pictures = torch.tensor([[3.0, 0, 4], [0, 0, 100]])
    batch = Batch(pictures, pictures, torch.zeros(2), torch.zeros(2))

    def compute(batch):
        loss = (weight * batch.lq).sum()  # its gradient is the picture
        return StepOutput(loss, loss)

    metrics = backward_normalized(batch, compute, [weight, unused])
    assert torch.allclose(weight.grad, torch.tensor([0.3, 0.0, 0.9]))
    assert torch.equal(unused.grad, torch.zeros(2))
    assert metrics["loss"] == pytest.approx((7 + 100) / 2)


def test_finetuning_takes_normalized_gradients_and_pretraining_refuses_them(crops, tmp_path):
    stage = replace(STAGE, gradients="normalized")
    finetune(None, crops, tmp_path / "mean", recipe=RECIPE)
    finetune(None, crops, tmp_path / "normalized", recipe=replace(RECIPE, finetune=stage))
    weights = [final_state(tmp_path / run)["model"]["backbone.ending.weight"] for run in ("mean", "normalized")]
    assert torch.isfinite(weights[1]).all() and not torch.equal(*weights)
    with pytest.raises(InvalidSetting, match="gradients=mean"):
        pretrain(None, crops, tmp_path / "pair", recipe=replace(RECIPE, pretrain=stage))
