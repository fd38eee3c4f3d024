"""Tar shards: on disk, behind HTTP and on the Hub, streamed and trained on."""

import io
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import HUB, as_uint8, make_picture
from loopback import cut
from PIL import Image
from safetensors.torch import load_file

from dcpt.data import shards
from dcpt.data.crops import PackedCrops
from dcpt.data.folders import LabelledFolders
from dcpt.data.mixture import load_data, make_batches
from dcpt.data.shards import ShardedPictures, list_shards, names_shards, read_shard, restore_address
from dcpt.errors import InvalidData, InvalidSetting, MissingExtra, UnknownName
from dcpt.finetuning import finetune
from dcpt.recipe import Recipe, Stage

STAGE = Stage(steps=4, batch_size=6, patch_size=32, lr=1e-3, head_lr=1e-3)
RECIPE = Recipe("test", "nafnet_test", ("dust", "noise", "clean"), pretrain=STAGE, finetune=STAGE)


def encode(picture, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(as_uint8(picture)).save(buffer, kind)
    return buffer.getvalue()


def write_shard(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def pairs(seeds, label_key="cls"):
    files = {}
    for seed in seeds:
        picture = make_picture(48, 56, seed)
        files |= {f"{seed}.lq.png": encode(picture * 0.5), f"{seed}.gt.PNG": encode(picture)}
        files[f"{seed}.{label_key}"] = b"dust\n"
    return files


def photographs(seeds, kind="webp"):
    return {f"photos/{seed}.{kind}": encode(make_picture(80, 72, seed), kind) for seed in seeds}


def stream(*entries, recipe=RECIPE, **changes):
    return make_batches(load_data(list(entries)), recipe, Stage(batch_size=6, patch_size=32, **changes), paired=True)


@pytest.fixture
def folder(tmp_path):
    """Four shards: two of pairs, two of photographs."""
    write_shard(tmp_path / "train-0000.tar", pairs(range(3)))
    write_shard(tmp_path / "train-0001.tar", pairs(range(3, 6), label_key="label.txt"))
    write_shard(tmp_path / "train-0002.tar", photographs(range(3)))
    write_shard(tmp_path / "train-0003.tar", photographs(range(3, 6), kind="jpeg"))
    return tmp_path


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a batch each; gives the list of shards that are read."""
    read = []
    monkeypatch.setattr(shards, "BLOCK", 6)
    monkeypatch.setattr(shards, "read_shard", lambda url: read.append(url[-8:-4]) or read_shard(url))
    return read


def same(a, b):
    return torch.equal(a.lq, b.lq) and torch.equal(a.gt, b.gt) and torch.equal(a.label, b.label)


def test_pairs_stay_in_register_and_photographs_are_degraded(folder, small_blocks):
    batches = stream(folder / "train-{0000..0003}.tar", clean_share=0.2)
    seen = set()
    for batch in map(batches, range(8)):
        assert batch.lq.shape == batch.gt.shape == (6, 3, 32, 32) and not batch.skipped
        for lq, gt, label in zip(batch.lq, batch.gt, batch.label.tolist()):
            seen.add(RECIPE.labels[label])
            if RECIPE.labels[label] == "dust":
                assert torch.allclose(lq, gt * 0.5, atol=1 / 255)
            else:
                assert torch.equal(lq, gt) == (RECIPE.labels[label] == "clean")
                assert torch.allclose(lq * 255, (lq * 255).round(), atol=1e-3)
    assert seen == {"dust", "noise", "clean"}


def test_photographs_are_degraded_as_packed_ones_are(tmp_path):
    # A photograph of the size of a patch with its margin leaves nothing to choose but its orientation.
    flat = torch.full((3, 64, 64), 0.5)
    write_shard(tmp_path / "a.tar", {"0.png": encode(flat)})
    crops = PackedCrops(torch.from_numpy(as_uint8(flat))[None], {})
    recipe = Recipe("test", "nafnet_test", ("noise", "haze", "jpeg"))
    a, b = (stream(data, recipe=recipe, mixed_share=0.3)(3) for data in (tmp_path / "a.tar", crops))
    assert torch.equal(a.label, b.label) and torch.equal(a.gt, b.gt)


def test_a_batch_depends_on_its_step_alone(folder, small_blocks):
    first, second = (stream(folder / "train-{0000..0003}.tar") for _ in range(2))
    for step in (0, 1, 9, 4):
        first(step)
    assert same(first(5), second(5)) and same(first(2), second(2))
    assert not same(first(9), second(5))
    parts = [make_batches(load_data(folder / "train-{0000..0003}.tar"), RECIPE, STAGE, paired=True, members=range(*m))
             for m in ((0, 3), (3, 6))]  # fmt: skip
    assert torch.equal(torch.cat([part(5).lq for part in parts]), second(5).lq)


def test_every_shard_has_its_turn_before_one_comes_again(folder, small_blocks):
    batches = stream(folder / "train-{0000..0003}.tar")
    order = []
    for step in range(12):
        assert same(batches(step), batches(step))
        order.append(batches.sources[0].url[-8:-4])
    turns = [order[place : place + 4] for place in (0, 4, 8)]
    assert all(sorted(turn) == ["0000", "0001", "0002", "0003"] for turn in turns)
    assert turns[0] != turns[1] or turns[1] != turns[2]
    assert small_blocks == [url for url, before in zip(order, ["", *order]) if url != before]


def test_training_with_workers_sees_the_same(folder, small_blocks, tmp_path):
    models = []
    for workers in (0, 2):
        run = tmp_path / f"run{workers}"
        finetune(None, folder / "train-{0000..0003}.tar", run, recipe=RECIPE, device="cpu", workers=workers)
        models.append(load_file(next((run / "model").glob("*.safetensors"))))
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_broken_picture_is_named_and_left_out(tmp_path):
    files = pairs(range(20)) | photographs(range(20))
    broken = {"0.cls": b"", "1.gt.PNG": files["1.gt.PNG"][:60], "2.gt.PNG": encode(make_picture(30, 30))}
    del files["0.cls"]
    write_shard(tmp_path / "a.tar", files | {name: broken[name] for name in list(broken)[1:]} | {"x.txt": b"dust"})
    batches = stream(tmp_path / "a.tar")
    skipped = {name: reason for step in range(20) for name, reason in batches(step).skipped.items()}
    assert {name.partition("a.tar/")[2] for name in skipped} == {"0", "1", "2", "x"}
    reasons = " ".join(skipped.values())
    assert "name in cls or txt or label.txt, found none" in reasons and "of one size, got 56x48 and 30x30" in reasons
    assert f"{tmp_path.as_posix()}/a.tar/x: expected one picture, or one as lq and one as gt, got none" in reasons


def test_too_many_broken_pictures_stop_the_run(tmp_path):
    write_shard(tmp_path / "a.tar", {f"{seed}.png": b"no picture" for seed in range(9)})
    with pytest.raises(
        InvalidData, match="41 of 41 pictures drawn from shards cannot be used.*a.tar/.: expected a pic"
    ):
        stream(tmp_path / "a.tar")(0)


def test_a_label_that_the_recipe_has_not_is_named_with_the_nearest(tmp_path):
    write_shard(tmp_path / "a.tar", pairs([0]) | {"0.cls": b"dusty"})
    with pytest.raises(UnknownName, match="a.tar/0; the recipe.*'dusty'; did you mean 'dust'"):
        stream(tmp_path / "a.tar")(0)


def test_pairs_need_no_registered_degradation_and_photographs_do(folder):
    recipe = Recipe("test", "nafnet_test", ("dust", "clean"))
    assert (stream(folder / "train-0000.tar", recipe=recipe)(0).label == 0).all()
    with pytest.raises(InvalidSetting, match="a registered degradation among the labels"):
        stream(folder / "train-0002.tar", recipe=recipe)(0)


def test_a_shard_that_cannot_be_read_is_one_line_with_a_remedy(folder):
    path = folder / "train-0000.tar"
    whole, batches = path.read_bytes(), stream(path)
    for content, reason in (
        (whole[:3000], r"expected a whole tar file, got something else in .*0000.tar \(unexpected end of data\)"),
        (b"<html>" + 999 * b"log in", "expected a whole tar file.*(invalid header).*replace it and repeat"),
        (write_shard(folder / "empty.tar", {}).read_bytes(), "expected pictures in the shard .*, found none"),
        (write_shard(folder / "twice.tar", {"0.png": b"", "0.PNG": b""}).read_bytes(), "duplicate file name"),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidData, match=reason) as caught:
            batches(0)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InvalidData, match="cannot fetch the shard .*No such file.*repeat the command"):
        batches(0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("train-{0003..0004}.tar", "found none at .*train-0004.tar"),
        ("train-{0000.tar", "got .*train-.0000.tar: Unbalanced"),
        ("${nothing}.tar", "got .*nothing}.tar: missing environment variable"),
        ("hf://datasets/a/b", "found none at hf://datasets/a/b"),
    ],
)
def test_what_names_no_shards_is_said_at_once(name, reason, folder):
    with pytest.raises(InvalidData, match=f"expected tar files, such as .*, {reason}"):
        list_shards([Path(name) if ":" in name else folder / name])


def test_a_missing_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dcpt\[stream\]'"):
        load_data(folder / "train-0000.tar")


@pytest.mark.parametrize("address", ["hf://datasets/a/b/x-{0..9}.tar", "https://a.org/x.tar?t=1", "http://a/x.tar"])
def test_addresses_survive_being_paths(address):
    assert restore_address(Path(address)) == restore_address(address) == address
    assert names_shards(Path(address)) and names_shards(address)


def test_shards_are_told_from_folders(folder):
    assert names_shards(folder / "train-{0000..0003}.tar") and names_shards("{a.tar,b.tar}")
    assert not any(map(names_shards, (folder, "photos", "crops.safetensors", Path("photos.tartan"))))


def test_shards_are_listed_split_and_hashed_by_name(folder, tmp_path):
    data = list_shards([folder / "train-{0003..0001}.tar", folder / "train-0001.tar"])
    assert [url[-8:] for url in data.urls] == ["0001.tar", "0002.tar", "0003.tar"]
    kept, held = data.split(0.3)
    assert kept.urls == data.urls[:2] and held.urls == data.urls[2:] and data.split(0.1) == (data, None)
    elsewhere = ShardedPictures(tuple(f"https://a.org/train-000{n}.tar?token=x" for n in (1, 2, 3)))
    assert elsewhere.manifest_hash == data.manifest_hash != kept.manifest_hash


def test_shards_mix_with_other_data(folder):
    paths = [folder / f"train-000{n}.tar" for n in range(4)]
    for part in ("lq", "gt"):
        (folder / f"labelled/dust/{part}").mkdir(parents=True)
        (folder / f"labelled/dust/{part}/0.png").write_bytes(encode(make_picture()))
    data = load_data([paths[0], folder / "labelled", *paths[1:]])
    assert [type(part) for part in data.parts] == [LabelledFolders, ShardedPictures] and data.synthesises
    data = load_data([*paths[:2], ShardedPictures((str(paths[2]),))], weights=[1, 2, 3])
    assert [len(part.urls) for part in data.parts] == [1, 1, 1] and data.split(0.5)[1] is None
    batches = make_batches(data, RECIPE, STAGE, paired=True)
    label = torch.cat([batches(step).label for step in range(40)])
    assert (label == 0).float().mean().item() == pytest.approx(1 / 2, abs=0.1)


@pytest.mark.parametrize(
    "place", ["hf://test-org/shards", f"{HUB.endpoint}/test-org/shards/resolve/main"], ids=["hub", "http"]
)
def test_shards_are_fetched_from_the_hub_and_over_http(place, folder, hub):
    hub.commit("test-org/shards", {path.name: path.read_bytes() for path in folder.glob("*.tar")})
    hub.misbehave("GET .*/resolve/main/train-0000.tar", cut(5000), times=1)
    batches, local = (stream(Path(f"{start}/train-{{0000..0001}}.tar")) for start in (place, folder))
    assert same(batches(0), local(0)) and same(batches(1000), local(1000))
    assert hub.count("GET .*/train-0000.tar") == 2
    with pytest.raises(
        InvalidData, match=f"cannot fetch the shard {place}/a.tar .*(404|Not Found).*check addr"
    ) as caught:
        stream(f"{place}/a.tar")(0)
    assert "\n" not in str(caught.value)
