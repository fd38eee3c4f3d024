"""Folders of pictures: planned without collisions, resumed after any kill, reported; a broken file harms no other."""

import errno
import functools
import html
import io
import json
import os
import random
import shutil
import signal
import threading
import time
from contextlib import closing
from io import FileIO
from pathlib import Path, PurePath
from urllib.parse import unquote_to_bytes

import folder_victim
import numpy as np
import pytest
import torch
from conftest import as_uint8, make_picture
from folder_victim import Negative
from PIL import Image
from test_hostile_files import hashes, make_files
from test_photograph import TOUR

from dcpt.backbones import create_backbone
from dcpt.errors import DcptError, InvalidImage, InvalidSetting, OutputError
from dcpt.photographs import open_photograph
from dcpt.restoration import Restoration, Restorer
from dcpt.restoration_journal import OutputFolder, Record
from dcpt.restoration_plan import Job, count_others, name_targets, plan_jobs
from dcpt.restoration_report import BRIGHTEST_CHANGE, as_heat, shrink
from dcpt.restoration_run import FolderRun, map_in_order, restore_file, restore_folder


@pytest.fixture
def restorer():
    return Restorer(Negative(), device="cpu")


@pytest.fixture
def photos(tmp_path):
    return fill(tmp_path / "photos", 6)


def fill(folder, count, broken=0, size=16):
    """Make a folder of different pictures of one colour, some of them broken."""
    folder.mkdir(parents=True)
    for i in range(count):
        array = np.full((size, size, 3), (i % 256, i // 256, 7), np.uint8)
        Image.fromarray(array).save(folder / f"{i:04d}.png")
    for i in range(broken):
        data = (folder / f"{i:04d}.png").read_bytes()
        (folder / f"broken{i:04d}.png").write_bytes(data[: len(data) // 2])
    return folder


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def outputs(folder):
    """Return the pictures below a folder that can be seen, by their names."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("report")]
    names = {path.relative_to(folder): path for path in paths}
    return {str(name): path for name, path in names.items() if name.parts[0] not in (".dcpt", "report_files")}


def identities(folder):
    return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in outputs(folder).items()}


def statuses(records):
    return [record.status for record in records]


# What is restored, and under which names.


def test_a_folder_is_searched_for_names_of_pictures_and_its_tree_is_kept(tmp_path):
    photos = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "c.heic", "notes.txt", ".hidden.png", "trip/d.png", ".git/e.png", "x.png/f.jpg"):
        touch(photos / name)
    os.mkfifo(photos / "fifo.png")
    (photos / "loop").symlink_to(photos)
    (photos / "trip/loop.png").symlink_to("loop.png")

    def names(**settings):
        return [
            str(job.target.relative_to(tmp_path / "out")) for job in plan_jobs([photos], tmp_path / "out", **settings)
        ]

    assert names() == ["a.PNG", "b.jpg", "c.heic", "fifo.png"]
    assert names(recursive=True) == [*names(), "trip/d.png", "trip/loop.png", "x.png/f.jpg"]


def test_results_are_not_taken_for_inputs(photos, restorer):
    list(restore_folder(restorer, photos, photos / "out", report=True))
    again = list(restore_folder(restorer, photos, photos / "out", recursive=True))
    assert len(again) == 6 and all(record.earlier for record in again)
    elsewhere = plan_jobs([photos], photos / "other", recursive=True)
    assert len(elsewhere) == 6
    assert len(plan_jobs([photos / "out"], photos / "other", recursive=True)) == 6  # without those of the report
    with pytest.raises(OutputError, match="other than the input"):
        plan_jobs([photos], photos)


def test_globs_match_pictures_and_keep_the_tree_below_their_fixed_part(tmp_path):
    for name in ("a/1.jpg", "a/b/2.jpg", "a/b/2.png", "a/.c/3.jpg", "a/4.txt"):
        touch(tmp_path / "in" / name)
    (tmp_path / "in/a/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/loop2").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/5.jpg").symlink_to("5.jpg")
    jobs = plan_jobs([tmp_path / "in/**/*.jpg"], tmp_path / "out")
    assert [str(job.target.relative_to(tmp_path / "out")) for job in jobs] == ["a/1.jpg", "a/5.jpg", "a/b/2.jpg"]
    touch(tmp_path / "in/[1].png")
    (job,) = plan_jobs([tmp_path / "in/[1].png"], tmp_path / "out")
    assert job.source.name == "[1].png"
    with pytest.raises(InvalidImage, match="such as photos"):
        plan_jobs([tmp_path / "in/**.jpg"], tmp_path / "out")
    with pytest.raises(InvalidImage, match="found none"):
        plan_jobs([tmp_path / "in/*.bmp"], tmp_path / "out")


def test_several_folders_stay_apart_and_a_picture_named_twice_is_restored_once(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg", "c/1.jpg"):
        touch(tmp_path / name)
    jobs = plan_jobs([tmp_path / "a", tmp_path / "b", tmp_path / "a/1.jpg", tmp_path / "c/1.jpg"], tmp_path / "out")
    targets = {str(job.source.relative_to(tmp_path)): str(job.target.relative_to(tmp_path / "out")) for job in jobs}
    assert targets == {"a/1.jpg": "a/1.jpg", "b/1.jpg": "b/1.jpg", "c/1.jpg": "1.jpg"}


@pytest.mark.parametrize(
    ("suffix", "names", "expected"),
    [
        (None, ["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (".png", ["a.jpg", "a.png"], ["a_jpg.png", "a.png"]),
        (".png", ["a.jpg", "a.webp"], ["a.png", "a_webp.png"]),
        (".png", ["a.jpg", "a.webp", "a_webp.png"], ["a.png", "a_webp_2.png", "a_webp.png"]),
        (".jpg", ["a.jpeg", "b.JPG"], ["a.jpeg", "b.JPG"]),
        (None, ["A.png", "a.png", "a_2.png"], ["A.png", "a_3.png", "a_2.png"]),
        (None, ["é.png", "e\u0301.png"], ["é.png", "e\u0301_2.png"]),  # one name where accents are composed
        (".png", ["a.jpg", "a.png/b.png"], ["a_jpg.png", "a.png/b.png"]),  # a folder named like a picture
        (None, ["1.png", "1.png"], ["1.png", "1_2.png"]),
    ],
)
def test_names_never_collide(suffix, names, expected):
    assert [str(name) for name in name_targets([PurePath(name) for name in names], suffix)] == expected


def test_a_name_once_chosen_is_kept_as_long_as_it_might_be_chosen():
    def choose(name, suffix, kept):
        return str(name_targets([PurePath(name)], suffix, [PurePath(kept)])[0])

    assert choose("z.jpg", ".png", "z_jpg.png") == "z_jpg.png"
    for kept in ("z.bmp", "b/z.png", "y.png", "zoo.png"):  # of another format, tree or name
        assert choose("z.jpg", ".png", kept) == "z.png"
    names, kept = [PurePath("z.jpg"), PurePath("z.png")], [PurePath("z.png"), None]
    assert list(map(str, name_targets(names, ".png", kept))) == ["z.png", "z_2.png"]


def test_folders_of_one_name_stay_apart(tmp_path):
    folders = [tmp_path / name for name in ("a/x", "b/x", "b/x_2", "c/X")]
    for folder in folders:
        touch(folder / "1.png")
    jobs = plan_jobs([*folders, tmp_path / "a/../b/x"], tmp_path / "out")
    targets = {str(job.target.relative_to(tmp_path / "out")): job.source.parent for job in jobs}
    assert targets == dict(zip(("x/1.png", "x_2/1.png", "x_2_2/1.png", "X_3/1.png"), folders, strict=True))


def test_files_not_named_as_pictures_are_counted(photos, restorer, tmp_path):
    for name in ("notes.txt", "raw.nef", ".hidden", "trip/clip.mp4", "out/results.csv"):
        touch(photos / name)
    list(restore_folder(restorer, photos, photos / "out", report=True))
    assert count_others([photos], photos / "out") == 2
    assert count_others([photos, photos / "trip"], photos / "out", recursive=True) == 3
    assert count_others([photos / "*"], tmp_path / "out") == 0


def test_an_unknown_format_is_refused(photos, tmp_path):
    with pytest.raises(InvalidSetting, match="'gid'"):
        plan_jobs([photos], tmp_path / "out", format="gid")


# What is written, kept and replaced.


def test_every_picture_is_restored_and_a_second_run_does_nothing(photos, restorer, tmp_path):
    records = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert statuses(records) == ["done"] * 6 and not any(record.earlier for record in records)
    for name, path in outputs(tmp_path / "out").items():
        assert np.array_equal(pixels(path), 255 - pixels(photos / name))
    before = identities(tmp_path / "out")
    restorer.process = None  # not called
    again = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert all(record.earlier for record in again) and identities(tmp_path / "out") == before


def test_results_do_not_depend_on_the_number_of_workers(photos, restorer, tmp_path):
    one, four = (list(restore_folder(restorer, photos, tmp_path / str(n), workers=n)) for n in (1, 4))
    assert [(record.source, record.output_sha256) for record in one] == [(r.source, r.output_sha256) for r in four]


def test_a_changed_picture_is_done_again_and_only_that(photos, restorer, tmp_path):
    list(restore_folder(restorer, photos, tmp_path / "out"))
    before = identities(tmp_path / "out")
    Image.new("RGB", (16, 16), (9, 9, 9)).save(photos / "0003.png")
    (tmp_path / "out/0004.png").unlink()
    records = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert [record.earlier for record in records] == [True, True, True, False, False, True]
    after = identities(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == {"0003.png", "0004.png"}
    assert (pixels(tmp_path / "out/0003.png") == 246).all()


def test_nothing_is_overwritten_unless_asked(photos, restorer, tmp_path):
    out = tmp_path / "out"
    touch(out / "0000.png").write_bytes(b"mine")
    (out / "0001.png").symlink_to("nowhere")
    records = list(restore_folder(restorer, photos, out))
    assert statuses(records) == ["failed"] * 2 + ["done"] * 4
    assert "0000.png exists" in records[0].reason and "--overwrite" in records[1].reason
    assert (out / "0000.png").read_bytes() == b"mine"
    Image.open(out / "0002.png").rotate(90).save(out / "0002.png", "PPM")  # edited by the user
    assert "0002.png exists" in list(restore_folder(restorer, photos, out))[2].reason
    list(restore_folder(restorer, photos, out, overwrite=True))
    for name in ("0000.png", "0001.png", "0002.png"):
        assert np.array_equal(pixels(out / name), 255 - pixels(photos / name))


def test_results_of_other_settings_or_other_pictures_are_kept_unless_asked(photos, restorer, tmp_path):
    list(restore_folder(restorer, photos, tmp_path / "out"))
    before = identities(tmp_path / "out")
    stripped = list(restore_folder(restorer, photos, tmp_path / "out", strip=True))
    assert all("with other settings" in record.reason for record in stripped)
    others = fill(tmp_path / "others", 1, size=20)
    (record,) = restore_folder(restorer, others, tmp_path / "out")
    assert "was made of ../photos/0000.png" in record.reason
    assert identities(tmp_path / "out") == before
    assert statuses(restore_folder(restorer, others, tmp_path / "out", overwrite=True)) == ["done"]


def test_a_network_with_other_options_is_another_setting(tmp_path):
    torch.manual_seed(0)
    backbones = [create_backbone("restormer_test"), create_backbone("restormer_test", attention="softmax")]
    backbones[1].load_state_dict(backbones[0].state_dict())
    digests = [FolderRun(Restorer(backbone, device="cpu"), tmp_path).digest for backbone in (*backbones, backbones[0])]
    assert digests[0] == digests[2] != digests[1]


def test_a_picture_keeps_its_result_when_another_of_its_name_comes(restorer, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (16, 16), (1, 1, 1)).save(photos / "z.jpg")
    assert statuses(restore_folder(restorer, photos, tmp_path / "out", format="png")) == ["done"]
    before = identities(tmp_path / "out")
    Image.new("RGB", (16, 16), (9, 9, 9)).save(photos / "z.png")
    records = list(restore_folder(restorer, photos, tmp_path / "out", format="png"))
    assert [(record.target, record.earlier) for record in records] == [("z.png", True), ("z_2.png", False)]
    assert before.items() <= identities(tmp_path / "out").items()
    assert (pixels(tmp_path / "out/z_2.png") == 246).all()


def test_an_input_is_never_replaced(photos, restorer, tmp_path):
    original = (photos / "0000.png").read_bytes()
    extra = fill(tmp_path / "extra", 1)
    jobs = plan_jobs([photos / "0000.png", extra / "0000.png"], photos)
    records = list(FolderRun(restorer, photos, overwrite=True).restore(jobs))
    assert any("is an input itself" in record.reason for record in records)
    assert (photos / "0000.png").read_bytes() == original


def test_a_clean_picture_is_copied_bit_for_bit_unless_the_container_changes(photos, restorer, tmp_path):
    restorer.process = lambda lq, *, diagnose: Restoration(lq, None, True)
    records = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert statuses(records) == ["untouched"] * 6
    for name, path in outputs(tmp_path / "out").items():
        assert path.read_bytes() == (photos / name).read_bytes()
    list(restore_folder(restorer, photos, tmp_path / "bmp", format="bmp"))
    for i in range(6):
        assert np.array_equal(pixels(tmp_path / f"bmp/{i:04d}.bmp"), pixels(photos / f"{i:04d}.png"))


def test_a_file_cut_short_is_never_copied(restorer, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(as_uint8(make_picture(64, 64))).save(photos / "a.jpg")
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:-100])
    restorer.process = lambda lq, *, diagnose: Restoration(lq, None, True)
    assert statuses(restore_folder(restorer, photos, tmp_path / "out", allow_truncated=True)) == ["untouched"]
    Image.open(tmp_path / "out/a.jpg").load()  # is whole


def test_what_the_format_cannot_hold_is_told_before_the_work(restorer, tmp_path):
    Image.new("RGBA", (16, 16), (1, 2, 3, 4)).save(tmp_path / "a.png")
    restorer.process = None  # not called
    with pytest.raises(OutputError, match="RGBA as JPEG"):
        restore_file(restorer, tmp_path / "a.png", format="JPEG")


def test_a_disk_too_full_for_the_journal_is_told_on_one_line(restorer, tmp_path, monkeypatch):
    photos = fill(tmp_path / "photos", 1, broken=1)

    def refuse(self, record):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OutputFolder, "note", refuse)
    with pytest.raises(OutputError, match="it goes on where it stopped"):
        list(restore_folder(restorer, photos / "broken0000.png", tmp_path / "out"))


def test_a_line_that_does_not_fit_into_the_journal_leaves_no_part(tmp_path):
    class Full(FileIO):
        def write(self, data):
            if len(data) < 30:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:-20])

    folder = OutputFolder(tmp_path)
    with folder.locked():
        folder.note(Record("in", "out", "done", output_sha256="1"))
        journal, folder._journal = folder._journal, Full(tmp_path / ".dcpt/journal.jsonl", "a")
        with folder._journal, pytest.raises(OSError):
            folder.note(Record("in2", "out2", "done", output_sha256="2"))
        folder._journal = journal
        folder.note(Record("in3", "out3", "done", output_sha256="3"))
    lines = (tmp_path / ".dcpt/journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["in", "in3"]


def test_results_go_through_links_to_other_file_systems(restorer, tmp_path, monkeypatch):
    photos = fill(tmp_path / "photos/linked", 2).parent
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/linked").symlink_to(tmp_path / "elsewhere")
    replace = os.replace

    def replace_within(source, target):
        if source.parent.resolve() != target.parent.resolve() and target.parent.name == "linked":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if target.name == "0001.png":
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_within)
    records = list(restore_folder(restorer, photos, tmp_path / "out", recursive=True))
    assert statuses(records) == ["done", "failed"] and "Input/output error" in records[1].reason
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["0000.png"]
    assert (pixels(tmp_path / "elsewhere/0000.png") == 255 - pixels(photos / "linked/0000.png")).all()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory:\nyou tried to allocate 9 bytes."),
    ],
)
def test_a_picture_too_large_for_the_memory_fails_alone_and_in_plain_words(error, photos, restorer, tmp_path):
    process = restorer.process

    def run_out(lq, *, diagnose):
        restorer.process = process
        raise error

    restorer.process = run_out
    records = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert statuses(records) == ["failed"] + ["done"] * 5
    assert records[0].reason.startswith(f"{photos / '0000.png'}: out of memory; ")


def test_failures_of_any_kind_stop_no_other_picture_but_a_full_disk_does(photos, restorer, tmp_path):
    process, problems = restorer.process, [ValueError("odd"), MemoryError(), DcptError("bad"), RuntimeError("x\ny")]

    def fail_first(lq, *, diagnose):
        if problems:
            raise problems.pop(0)
        return process(lq, diagnose=diagnose)

    restorer.process = fail_first
    records = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert statuses(records) == ["failed"] * 4 + ["done"] * 2
    assert all("photos/000" in record.reason and "\n" not in record.reason for record in records[:4])
    problems.append(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OutputError, match="it goes on where it stopped"):
        list(restore_folder(restorer, photos, tmp_path / "out"))
    assert statuses(restore_folder(restorer, photos, tmp_path / "out")) == ["done"] * 6


def test_a_folder_that_cannot_be_looked_into_fails_as_a_picture_does(photos, restorer, tmp_path, monkeypatch):
    fill(photos / "locked", 1)
    scandir = os.scandir

    def refuse(path):
        if path == photos / "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    records = list(restore_folder(restorer, photos, tmp_path / "out", recursive=True))
    assert statuses(records) == ["done"] * 6 + ["failed"] and "cannot look into" in records[-1].reason


def test_two_runs_at_once_into_one_folder_are_refused(photos, restorer, tmp_path):
    with closing(restore_folder(restorer, photos, tmp_path / "out")) as first:
        next(first)
        with pytest.raises(DcptError, match="another run writes"):
            list(restore_folder(restorer, photos, tmp_path / "out"))
    assert len(list(restore_folder(restorer, photos, tmp_path / "out"))) == 6


def test_a_journal_cut_short_is_read_as_far_as_it_goes(photos, restorer, tmp_path):
    list(restore_folder(restorer, photos, tmp_path / "out"))
    journal = tmp_path / "out/.dcpt/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    (tmp_path / "out/0005.png").unlink()  # as if killed before it got its name
    touch(tmp_path / "out/.dcpt/partial/123")
    assert [record.earlier for record in restore_folder(restorer, photos, tmp_path / "out")] == [True] * 5 + [False]
    assert all(record.earlier for record in restore_folder(restorer, photos, tmp_path / "out"))
    assert not list((tmp_path / "out/.dcpt/partial").iterdir())


@pytest.mark.parametrize("renamed", [False, True])
def test_killed_right_before_or_after_a_result_gets_its_name(renamed, photos, restorer, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    replace = os.replace

    def die(source, target):
        if target.name != "0002.png" or renamed:
            replace(source, target)
        if target.name == "0002.png":
            raise Killed

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(Killed):
        list(restore_folder(restorer, photos, tmp_path / "out"))
    monkeypatch.undo()
    assert (tmp_path / "out/0002.png").exists() == renamed
    records = list(restore_folder(restorer, photos, tmp_path / "out"))
    assert statuses(records) == ["done"] * 6
    assert [record.earlier for record in records] == [True, True, renamed, False, False, False]


def test_several_workers_keep_order_and_little_under_way():
    begun, gate = [], threading.Semaphore(0)

    def work(i):
        begun.append(i)
        gate.acquire()
        return i

    results = map_in_order(work, range(100), workers=3)
    gate.release(3)
    assert [next(results), next(results)] == [0, 1]
    assert len(begun) <= 3 + 3
    gate.release(100)
    results.close()
    assert len(begun) < 20


def test_names_of_any_bytes_reach_journal_and_report_unharmed(restorer, tmp_path):
    photos = fill(tmp_path / "photos", 1)
    for name in (b"new\nline.png", b"\xff\xfe.png", b"<script>&'\".png", b"a\x1b[31m.png"):
        shutil.copy(photos / "0000.png", os.path.join(os.fsencode(photos), name))
        (tmp_path / "broken").mkdir(exist_ok=True)
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"broken", name))).write_bytes(b"no")
    records = list(restore_folder(restorer, [photos, tmp_path / "broken"], tmp_path / "out", report=True))
    assert sorted(statuses(records)) == ["done"] * 5 + ["failed"] * 4
    assert all(record.reason.isprintable() for record in records)
    again = list(restore_folder(restorer, [photos, tmp_path / "broken"], tmp_path / "out", report=True))
    assert [record.earlier for record in again] == [record.status == "done" for record in again]
    data = json.loads((tmp_path / "out/report.json").read_text())
    assert {row["target"] for row in data["pictures"]} == {record.target for record in records}
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    links = [part.split('"')[0] for part in page.split('href="')[1:]]
    assert len(links) == 5
    assert all(os.path.exists(os.path.join(os.fsencode(tmp_path / "out"), unquote_to_bytes(link))) for link in links)


# The report.


def test_the_report_counts_and_shows_what_was_done(restorer, tmp_path):
    photos = fill(tmp_path / "photos", 3, broken=1, size=40)
    records = list(restore_folder(restorer, photos, tmp_path / "out", report=True, model="a <model>"))
    data = json.loads((tmp_path / "out/report.json").read_text())
    assert data["counts"] == {"done": 3, "untouched": 0, "failed": 1} and data["model"] == "a <model>"
    assert [row["reason"] for row in data["pictures"]] == [record.reason for record in records]
    assert data["pictures"][0]["diagnosis"]["summary"] and data["settings"]["strength"] == 1.0
    page = (tmp_path / "out/report.html").read_text()
    assert "a &lt;model&gt;" in page and html.escape(records[3].reason) in page
    assert page.count('type="range"') == 3 and "http" not in page
    shown = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert len(shown) == 9
    before, after = (pixels(tmp_path / "out" / name).astype(int) for name in shown[:2])
    assert np.abs(before + after - 255).max() <= 4  # as JPEG rounds


def test_a_report_over_finished_work_is_complete_without_doing_it_again(photos, restorer, tmp_path):
    list(restore_folder(restorer, photos, tmp_path / "out"))
    before = identities(tmp_path / "out")
    restorer.process = None  # not called
    for _ in range(2):
        records = list(restore_folder(restorer, photos, tmp_path / "out", report=True))
        assert all(record.earlier and record.diagnosis["summary"] for record in records)
        page = (tmp_path / "out/report.html").read_text()
        assert page.count('type="range"') == 6 and identities(tmp_path / "out") == before
        previews = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/report_files").iterdir()}
    list(restore_folder(restorer, photos, tmp_path / "out", report=True))
    assert previews == {path: path.stat().st_mtime_ns for path in previews}  # those that are there are not made again


def test_a_report_of_other_origin_is_not_replaced(photos, restorer, tmp_path):
    touch(tmp_path / "out/report.json").write_text("mine")
    with pytest.raises(OutputError, match="--no-report"):
        list(restore_folder(restorer, photos, tmp_path / "out", report=True))
    assert (tmp_path / "out/report.json").read_text() == "mine"


def test_previews_average_and_changes_are_coloured_by_their_size():
    picture = torch.zeros(1, 3, 960, 10)
    picture[..., 0::2, :] = 1
    assert shrink(picture).shape == (480, 5, 3) and np.allclose(shrink(picture), 0.5)
    heat = as_heat(np.array([[[0.0], [1 / 3], [2 / 3], [1.0], [9.0]]]) * BRIGHTEST_CHANGE)
    assert np.allclose(heat, [[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]])


# Watching.


def test_watching_restores_what_comes_once_it_is_whole(photos, restorer, tmp_path):
    data = io.BytesIO()
    Image.fromarray(as_uint8(make_picture(40, 40))).save(data, "PNG")
    run = FolderRun(restorer, tmp_path / "out")
    with closing(run.watch(lambda: plan_jobs([photos], tmp_path / "out"), interval=0.05)) as records:
        assert statuses(next(records) for _ in range(6)) == ["done"] * 6

        def arrive():  # in pieces
            with open(photos / "new.png", "wb") as file:
                for byte in data.getvalue()[:40]:
                    file.write(bytes([byte]))
                    file.flush()
                    time.sleep(0.01)
                file.write(data.getvalue()[40:])

        thread = threading.Thread(target=arrive)
        thread.start()
        record = next(records)
        thread.join()
    assert record.target == "new.png" and record.status == "done"


def test_watching_replaces_no_result_of_its_own_by_that_of_a_newcomer(restorer, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (16, 16), (1, 1, 1)).save(photos / "z.jpg")
    run = FolderRun(restorer, tmp_path / "out", format="png", overwrite=True)
    plan = functools.partial(plan_jobs, [photos], tmp_path / "out", format="png")
    with closing(run.watch(plan, interval=0.01)) as records:
        assert next(records).target == "z.png"
        Image.new("RGB", (16, 16), (9, 9, 9)).save(photos / "z.png")
        assert next(records).target == "z_2.png"
    assert (pixels(tmp_path / "out/z.png") > 250).all() and (pixels(tmp_path / "out/z_2.png") == 246).all()


def test_watching_takes_a_picture_that_goes_to_another_file_for_a_new_one(photos, restorer, tmp_path):
    targets = iter([tmp_path / "out/a.png", *[tmp_path / "out/b.png"] * 3])
    run = FolderRun(restorer, tmp_path / "out")
    with closing(run.watch(lambda: [Job(photos / "0000.png", next(targets))], interval=0)) as records:
        assert [next(records).target, next(records).target] == ["a.png", "b.png"]


# Kills.


def check_whole(source, out):
    """Assert that every file under a final name is whole, and right."""
    for name, path in outputs(out).items():
        assert np.array_equal(pixels(path), 255 - pixels(source / name))
    for path in (out / "report_files").glob("*"):
        Image.open(path).load()
    if (out / "report.json").exists():
        json.loads((out / "report.json").read_text())


def kill_often(fork_server, tmp_path, count, broken, kills, **settings):
    """Restore a folder with kills at random moments, then to the end; return how many were done before the end."""
    source, out, moment = fill(tmp_path / "photos", count, broken), tmp_path / "out", random.Random(0)
    hashes = {path: path.read_bytes() for path in source.iterdir()}
    seen, settings = {}, settings | {"seconds": 0.004}
    for _ in range(kills):
        process = fork_server.Process(target=folder_victim.restore_all, args=(source, out), kwargs=settings)
        process.start()
        goal = len(seen) + moment.randrange(max(1, count // kills))
        while len(outputs(out)) < goal and process.is_alive():
            time.sleep(0.005)
        time.sleep(moment.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        check_whole(source, out)
        now = identities(out)
        assert seen.items() <= now.items()  # nothing is done twice
        seen = now
    records = list(restore_folder(Restorer(Negative(), device="cpu"), source, out, report="report" in settings))
    check_whole(source, out)
    assert seen.items() <= identities(out).items()
    assert len(outputs(out)) == count and not list((out / ".dcpt/partial").iterdir())
    assert hashes == {path: path.read_bytes() for path in source.iterdir()}
    assert sorted(statuses(records)) == ["done"] * count + ["failed"] * broken
    assert sum(record.earlier for record in records) == len(seen)
    return len(seen)


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_random_moments_a_run_is_whole_does_nothing_twice_and_ends(workers, fork_server, tmp_path):
    assert kill_often(fork_server, tmp_path, count=90, broken=10, kills=3, workers=workers) > 0


@pytest.mark.slow
def test_a_thousand_pictures_of_which_a_hundred_are_broken_survive_twenty_kills(fork_server, tmp_path):
    done = kill_often(fork_server, tmp_path, count=900, broken=100, kills=20, report=True)
    print(f"done before the last run: {done} of 900")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["counts"] == {"done": 900, "untouched": 0, "failed": 100}
    assert len([row for row in report["pictures"] if row["reason"]]) == 100


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_memory_stays_flat_over_a_thousand_pictures(workers, fork_server, tmp_path):
    source = fill(tmp_path / "photos", 900, broken=100, size=64)
    arguments = (source, tmp_path / "out", tmp_path / "memory.txt")
    process = fork_server.Process(target=folder_victim.restore_all, args=arguments, kwargs={"workers": workers})
    process.start()
    process.join()
    pages = [int(line) for line in (tmp_path / "memory.txt").read_text().splitlines()]
    assert len(pages) == 1000
    ratio = sum(pages[-100:]) / sum(pages[:100])
    print(f"last hundred / first hundred: {ratio:.4f}")
    assert ratio <= 1.05


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_odd_files_pass_through_and_hostile_ones_harm_none_of_them(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    make_files(folder)
    for name, file in TOUR.items():
        (folder / f"odd {name.replace('/', ' ')}.png").write_bytes(file.data)
    before = hashes(folder)
    identity = Restorer(Negative(), device="cpu", strength=0)
    records = {record.target: record for record in restore_folder(identity, folder, tmp_path / "out")}
    assert all(
        record.status == ("done" if target.startswith("odd ") else "failed") for target, record in records.items()
    )
    assert len(records) > len(TOUR) + 50 and all(record.reason.isprintable() for record in records.values())
    for name, file in TOUR.items():
        data = (tmp_path / "out" / f"odd {name.replace('/', ' ')}.png").read_bytes()
        assert data == (photograph := open_photograph(file.data)).encode(photograph.pixels), name
    assert hashes(folder) == before
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == sorted(
        t for t in records if t.startswith("odd ")
    )


def test_a_run_in_which_nothing_goes_through_leaves_the_report_alone(photos, restorer, tmp_path):
    out = tmp_path / "out"
    assert statuses(restore_folder(restorer, photos, out, report=True)) == ["done"] * 6
    page = (out / "report.html").read_bytes()
    assert statuses(restore_folder(restorer, photos, out, report=True, strip=True)) == ["failed"] * 6
    assert (out / "report.html").read_bytes() == page


def test_several_pictures_do_not_go_into_the_name_of_one(photos, tmp_path):
    with pytest.raises(OutputError, match="the name of a picture"):
        plan_jobs([photos], tmp_path / "out.png")
