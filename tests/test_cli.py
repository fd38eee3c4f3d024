"""The commands as users type them; a mistake is one line and a non-zero exit, and harms nothing."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import as_uint8, make_picture
from PIL import Image

import dcpt
from dcpt.cli import main
from dcpt.conversion import export_checkpoint
from dcpt.restoration import Restorer


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(as_uint8(make_picture(40, 50))).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_restore_writes_the_picture(photo, model_folder, tmp_path):
    result = run("restore", photo, "-o", tmp_path / "out.png", "--model", model_folder)
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out.png").size == (50, 40)


def test_restore_takes_a_folder_and_a_broken_file_does_not_stop_it(model_folder, tmp_path):
    photos = tmp_path / "photos"
    (photos / "trip").mkdir(parents=True)
    for name in ("a.png", "trip/b.jpg"):
        Image.fromarray(as_uint8(make_picture(20, 30))).save(photos / name)
    (photos / "broken.png").write_bytes(b"not a picture")
    result = run("restore", photos, "-o", tmp_path / "out", "--model", model_folder, "--recursive")
    assert result.exit_code == 1
    assert "1 of 3 pictures" in result.output and "broken.png" in result.output
    assert (tmp_path / "out/a.png").exists() and (tmp_path / "out/trip/b.jpg").exists()
    assert not (tmp_path / "out/broken.png").exists()


def test_restore_resumes_a_folder_and_reports(photo, model_folder, tmp_path):
    command = ["restore", f"{tmp_path}/*.png", "-o", tmp_path / "out", "--model", model_folder, "--jobs", 2]
    assert "1 restored, 0 left untouched" in run(*command, "--no-protect-clean").output
    assert (tmp_path / "out/report.html").exists() and (tmp_path / "out/photo.png").exists()
    again = run(*command, "--no-protect-clean")
    assert again.exit_code == 0 and "1 of these by an earlier run" in again.output
    changed = run(*command, "--no-protect-clean", "--strength", 0.5)
    assert changed.exit_code == 1 and "other settings" in changed.output
    assert run(*command, "--strength", 0.5, "--overwrite", "--no-report").exit_code == 0


def test_hostile_files_are_one_line_each_and_harm_nothing(photo, model_folder, tmp_path):
    photos = make_folder(tmp_path / "photos")
    for name in ("good.png", "new\nline.png"):
        (photos / name).write_bytes(photo.read_bytes())
    (photos / "broken\n.png").write_bytes(photo.read_bytes()[:100])
    (photos / "empty.jpg").touch()
    make_folder(photos / "folder.png")
    os.mkfifo(photos / "fifo.png")
    for name, goal in (("loop.png", "loop.png"), ("zero.png", "/dev/zero"), ("dangling.png", "none"), ("up", "..")):
        (photos / name).symlink_to(goal)
    before = {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}
    result = run("restore", photos, "-o", tmp_path / "out", "--model", model_folder, "--recursive")
    lines = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert result.exit_code == 1 and len(lines) == 6 and "6 of 8 pictures" in result.output
    assert len(result.output.splitlines()) == 6 + 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["good.png", "new\nline.png"]
    assert before == {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}


def test_restore_takes_a_picture_from_a_pipe_and_gives_it_to_one(photo, model_folder, tmp_path):
    command = ["restore", "-", "-o", "-", "--model", str(model_folder)]
    result = CliRunner().invoke(main, command, input=photo.read_bytes())
    assert result.exit_code == 0, result.stderr
    assert run("restore", photo, "-o", tmp_path / "out.png", "--model", model_folder).exit_code == 0
    assert result.stdout_bytes == (tmp_path / "out.png").read_bytes()
    jpeg = CliRunner().invoke(main, [*command, "--format", "jpg"], input=photo.read_bytes())
    assert Image.open(io.BytesIO(jpeg.stdout_bytes)).format == "JPEG"
    assert_one_line(CliRunner().invoke(main, command, input=b""))
    assert_one_line(run("restore", "-", photo, "-o", tmp_path, "--model", model_folder))
    assert_one_line(run("restore", tmp_path, "-o", "-", "--model", model_folder))


def test_one_picture_goes_into_a_folder_and_has_a_report_if_asked(photo, model_folder, tmp_path):
    good = ["--model", model_folder]
    assert run("restore", photo, "-o", f"{tmp_path}/a/", *good).exit_code == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["photo.png"]
    assert run("restore", photo, "-o", tmp_path / "b/x.jpg", "--report", *good).exit_code == 0
    assert json.loads((tmp_path / "b/report.json").read_text())["counts"]["done"] == 1
    assert Image.open(tmp_path / "b/x.jpg").format == "JPEG"
    assert "as the format" in assert_one_line(run("restore", photo, "-o", tmp_path / "c.jpg", "--format", "png", *good))
    assert "expected a folder to watch" in assert_one_line(run("restore", photo, "-o", tmp_path / "c.jpg", "--watch"))


@pytest.mark.parametrize(("watch", "code"), [([], 130), (["--watch"], 0)])
def test_interrupted_a_run_ends_at_once_and_goes_on_when_repeated(watch, code, model_folder, tmp_path, monkeypatch):
    photos = make_folder(tmp_path / "photos")
    for seed in range(3):
        Image.fromarray(as_uint8(make_picture(20, 30, seed))).save(photos / f"{seed}.png")
    process, calls = Restorer.process, []

    def stop(self, lq, *, diagnose):
        calls.append(lq)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return process(self, lq, diagnose=diagnose)

    monkeypatch.setattr(Restorer, "process", stop)
    command = ["restore", photos, "-o", tmp_path / "out", "--model", model_folder]
    result = run(*command, *watch)
    assert result.exit_code == code and "Traceback" not in result.output
    assert json.loads((tmp_path / "out/report.json").read_text())["counts"]["failed"] == 0
    assert run(*command).exit_code == 0 and len(calls) == 4


def test_a_model_that_is_interrupted_while_it_loads_ends_as_told(photo, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dcpt.hub.from_pretrained", stop)
    assert run("restore", tmp_path, "-o", tmp_path / "out", "--watch").exit_code == 130
    assert "once the model is loaded" in " ".join(run("restore", "--help").output.split())


def test_a_lack_of_memory_is_one_line(photo, model_folder, tmp_path, monkeypatch):
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nError code 12"
    for error in (RuntimeError(message), MemoryError()):

        def run_out(self, lq, *, diagnose, error=error):
            raise error

        monkeypatch.setattr(Restorer, "process", run_out)
        result = run("restore", photo, "-o", tmp_path / "out.png", "--model", model_folder)
        assert "out of memory; try" in assert_one_line(result)


def test_standard_input_is_not_read_for_ever(photo, model_folder, monkeypatch):
    data = photo.read_bytes()
    for limit, code in ((len(data), 0), (len(data) - 1, 1)):
        monkeypatch.setattr("dcpt.cli.pictures.MOST_INPUT", limit)
        result = CliRunner().invoke(main, ["restore", "-", "-o", "-", "--model", str(model_folder)], input=data)
        assert result.exit_code == code, result.stderr
    assert f"at most {limit} bytes" in result.stderr


def test_a_pipe_that_nobody_reads_ends_quietly(photo, model_folder):
    command = [sys.executable, "-m", "dcpt", "restore", photo, "-o", "-", "--model", model_folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process.stderr.close()


def test_empty_names_of_degradations_are_passed_over(photo, model_folder, tmp_path):
    command = ["restore", photo, "-o", tmp_path / "out.png", "--model", model_folder]
    assert run(*command, "--only", "noise, ").exit_code == 0


def test_what_was_not_looked_at_is_counted(photo, model_folder, tmp_path):
    (tmp_path / "notes.txt").touch()
    command = ["restore", tmp_path, "-o", tmp_path / "out", "--model", model_folder]
    assert "1 other file was not looked at" in run(*command).output
    (tmp_path / "notes.txt").unlink()
    assert "not looked at" not in run(*command).output


def test_degrade_is_repeatable_and_chains(photo, tmp_path):
    for name in ("1.png", "2.png"):
        result = run("degrade", photo, "-o", tmp_path / name, "--haze", "0.6", "--noise", "0.3", "--seed", "1")
        assert result.exit_code == 0, result.output
    first, second, clean = (np.asarray(Image.open(tmp_path / n)) for n in ("1.png", "2.png", "photo.png"))
    assert np.array_equal(first, second) and not np.array_equal(first, clean)


def test_a_whole_training_from_the_shell(photo_folder, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("{name: tiny, backbone: nafnet_test, labels: [noise, haze, clean]}")
    small = ["--recipe", recipe, "--set", "steps=2", "--set", "patch_size=16", "--set", "batch_size=2"]
    packed = tmp_path / "crops.safetensors"
    assert "52 crops of 4 photographs" in run("pack", photo_folder, "-o", packed, "--crop-size", 64).output
    pair = run("pretrain", packed, "-o", tmp_path / "pre", *small)
    assert pair.exit_code == 0, pair.output
    tuned = run("finetune", packed, "-o", tmp_path / "fine", "--from", tmp_path / "pre/model", *small)
    assert tuned.exit_code == 0, tuned.output
    result = run("restore", photo_folder / "0.png", "-o", tmp_path / "out.png", "--model", tmp_path / "fine/model")
    assert result.exit_code == 0, result.output


def test_evaluate_prints_tables_and_json(model_folder, tmp_path):
    clean = tmp_path / "clean"
    clean.mkdir()
    Image.fromarray(as_uint8(make_picture(256, 256))).save(clean / "a.png")
    evaluate = ["evaluate", "synthetic-10d", "--data", clean, "--model", model_folder, "--device", "cpu"]
    table = run(*evaluate)
    assert table.exit_code == 0, table.output
    assert "| noise (sigma 25) |" in table.output and "mean of ten" in table.output
    # A head of three classes: one picture each of noise and haze, and a clean one.
    report = json.loads(run(*evaluate, "--json").stdout, parse_constant=lambda name: pytest.fail(name))
    assert report["scores"][-1]["psnr_lq"] is None and len(report["scores"]) == 12
    confusion = json.loads(run(*evaluate, "--classify", "--json").stdout)
    assert confusion["labels"] == ["noise", "haze", "clean"]
    assert [sum(row) for row in confusion["counts"]] == [1, 1, 1]


def test_list_names_the_bundled_weights():
    assert "nafnet-small-10d" in run("list").output


BAD_INPUTS = {
    "a missing file": lambda folder: folder / "missing.png",
    "text": lambda folder: write(folder / "text.png", b"hello"),
    "no bytes": lambda folder: write(folder / "empty.png", b""),
    "an empty folder": lambda folder: make_folder(folder / "none"),
}


def write(path, data):
    path.write_bytes(data)
    return path


def make_folder(path):
    path.mkdir()
    return path


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.parametrize("verb", [["restore"], ["degrade", "--haze", "0.5"]])
def test_bad_input_is_one_line_and_writes_nothing(case, verb, model_folder, tmp_path):
    source = BAD_INPUTS[case](tmp_path)
    before = sorted(tmp_path.iterdir())
    model = ["--model", model_folder] if verb == ["restore"] else []
    result = run(verb[0], source, "-o", tmp_path / "out.png", *verb[1:], *model)
    assert_one_line(result)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000)])
def test_extreme_shapes_are_restored(shape, model_folder, tmp_path):
    Image.fromarray(as_uint8(make_picture(*shape))).save(tmp_path / "in.png")
    result = run("restore", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", model_folder)
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out.png").size == shape[::-1]


def test_unknown_models_and_bad_outputs_are_one_line(photo, model_folder, tmp_path):
    original = photo.read_bytes()
    good = ["--model", model_folder]
    assert "did you mean 'nafnet-small-10d'" in assert_one_line(
        run("restore", photo, "-o", tmp_path / "out.png", "--model", "nafnet-small-10")
    )
    assert "is the input itself" in assert_one_line(run("restore", photo, "-o", photo, "--overwrite", *good))
    assert "ending in one of" in assert_one_line(run("restore", photo, "-o", tmp_path / "out.txt", *good))
    (tmp_path / "old.png").write_bytes(b"old")
    assert "--overwrite" in assert_one_line(run("restore", photo, "-o", tmp_path / "old.png", *good))
    assert "cannot write" in assert_one_line(run("restore", photo, "-o", photo / "below.png", *good))
    assert photo.read_bytes() == original and (tmp_path / "old.png").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.png", "photo.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_one_line(photo, model_folder, tmp_path):
    locked = make_folder(tmp_path / "locked")
    locked.chmod(0o500)
    assert_one_line(run("restore", photo, "-o", locked / "out.png", "--model", model_folder))


def test_wrong_settings_are_one_line(photo, photo_folder, model_folder, tmp_path):
    assert "at least one degradation" in assert_one_line(run("degrade", photo, "-o", tmp_path / "o.png"))
    assert "KEY=VALUE" in assert_one_line(run("pretrain", photo_folder, "-o", tmp_path / "run", "--set", "steps"))
    assert "no.safetensors" in assert_one_line(run("pretrain", tmp_path / "no.safetensors", "-o", tmp_path / "run"))
    assert ".safetensors" in assert_one_line(run("pack", photo_folder, "-o", tmp_path / "crops.bin"))
    assert "none at" in assert_one_line(run("evaluate", "synthetic-10d", "--data", tmp_path / "no"))
    assert run("degrade", photo, "-o", tmp_path / "o.png", "--haze", "2").exit_code == 2
    assert_one_line(run("restore", "x" * 5000, "-o", tmp_path / "o.png"))
    assert_one_line(run("degrade", photo, "-o", tmp_path / ("x" * 300 + ".png"), "--haze", "1"))
    for device in ("gpu", "meta"):
        assert "cannot use device" in assert_one_line(
            run("restore", photo, "-o", tmp_path / "o.png", "--model", model_folder, "--device", device)
        )
    assert not (tmp_path / "run").exists()


def test_a_real_process_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "dcpt", "restore", "missing.png", "-o", "out.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: expected a picture") and done.stderr.count("\n") == 1


def assert_one_line(result):
    assert result.exit_code == 1, result.output
    assert result.output.strip().count("\n") == 0 and "Traceback" not in result.output, result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    return result.output


def test_readme_commands_exist():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    verbs = {line.split()[1] for line in readme.splitlines() if line.strip().startswith("dcpt ")}
    assert verbs <= set(main.commands)


def test_export_and_inspect_tell_a_checkpoint(model_folder, tmp_path):
    result = run("export", model_folder, "-o", tmp_path / "out.pth", "--dialect", "dcpt")
    assert result.exit_code == 0, result.output
    facts = json.loads(run("inspect", tmp_path / "out.pth", "--json").output)
    assert (facts["family"], facts["dialect"]) == ("nafnet", "dcpt")
    assert facts["found"]["width"] == 8 and facts["assumed"]["pooling"] == "global"
    assert facts["size_multiple"] == 4 and facts["feature_channels"] == [8, 16]
    assert facts["parameters"] == sum(p.numel() for p in dcpt.create_backbone("nafnet_test").parameters())
    lines = run("inspect", tmp_path / "out.pth").output
    assert "dialect" in lines and "width=8" in lines


def test_inspect_tells_the_classes_of_a_pair(model_folder):
    facts = json.loads(run("inspect", model_folder, "--json").output)
    assert facts["variant"] == "nafnet_test" and facts["classes"] == ["noise", "haze", "clean"]


def test_a_warning_and_a_refusal_are_one_line_each(model_folder, photo, tmp_path):
    backbone = dcpt.create_backbone("restormer_test")
    export_checkpoint(backbone, tmp_path / "weights.pth", dialect="dcpt")
    result = run("restore", photo, "-o", tmp_path / "out.png", "--model", tmp_path / "weights.pth")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: the weights in") and "attention='relu'" in result.stderr
    (tmp_path / "weights.pth").write_bytes(b"")
    result = run("inspect", tmp_path / "weights.pth")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1 and "weights.pth" in result.stderr
