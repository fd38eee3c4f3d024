"""Weights from the Hub: published, fetched, verified, mended, and available without a network."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import fill
import numpy as np
import pytest
import torch
from conftest import GOLDEN, relative_error
from loopback import HTML, cut, hang, load_variant, sha256, status, tamper

import dcpt
from dcpt.conversion import load_checkpoint
from dcpt.errors import CheckpointMismatch, HubError, HubUnreachable, InvalidSetting, NotOnHub, UnknownName
from dcpt.hub import converted_folder
from dcpt.publishing import convert_checkpoint, copy_weights

REPO = "test-org/net"
FILES = ("config.json", "model.safetensors", "head.safetensors")


@pytest.fixture
def files(model_folder):
    return {name: (model_folder / name).read_bytes() for name in FILES}


@pytest.fixture
def commit(hub, files):
    """The commit of the test-sized model and its head, alone in the test's repository."""
    hub.commits = {key: value for key, value in hub.commits.items() if key[0] != REPO}
    hub.branches.pop((REPO, "main"), None)
    return hub.commit(REPO, files)


@pytest.fixture
def right(model_folder):
    return dcpt.from_pretrained(model_folder).state_dict()


@pytest.fixture
def load(tmp_path):
    """Load from the Hub with a cache of the test's own."""
    return lambda name=REPO, **settings: dcpt.from_pretrained(name, cache_dir=tmp_path / "cache", **settings)


def same_weights(backbone, state):
    return all(torch.equal(a, b) for a, b in zip(backbone.state_dict().values(), state.values(), strict=True))


def run_python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | environment, timeout=100,
    )  # fmt: skip


def run_dcpt(*arguments, **environment):
    return run_python("from dcpt.cli import main; main()", *arguments, **environment)


def official_file(case, path):
    """A checkpoint in the official dialect, with the reference weights."""
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())["backbone_shapes"]
    state = {name: torch.from_numpy(array) for name, array in fill.fill_state_dict(shapes).items()}
    torch.save({"params": state}, path)
    return path


RESTORE = """
import sys, numpy, dcpt
picture = numpy.load(sys.argv[1])
numpy.save(sys.argv[3], dcpt.Restorer(dcpt.from_pretrained(sys.argv[2]), device="cpu").restore(picture))
"""


def test_a_converted_checkpoint_published_loads_by_repository_and_by_name(hub, tmp_path, monkeypatch):
    original = official_file("swinir", tmp_path / "dcpt_swinir_5d.pth")
    monkeypatch.setenv("DCPT_HOME", str(tmp_path / "author"))
    converted = run_dcpt("convert", original, "--as", "swinir-5d")
    assert converted.returncode == 0, converted.stderr
    published = run_dcpt("publish", converted.stdout.strip(), "test-org/swinir-5d")
    assert published.returncode == 0 and published.stdout.startswith("test-org/swinir-5d@"), published.stderr
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "lq.npy", picture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = dcpt.Restorer(load_checkpoint(original), device="cpu").restore(picture)
    user = {"DCPT_HOME": str(tmp_path / "user"), "HF_HOME": str(tmp_path / "hf")}
    for name in ("test-org/swinir-5d", "swinir-5d"):
        done = run_python(RESTORE, tmp_path / "lq.npy", name, tmp_path / "out.npy", **user)
        assert done.returncode == 0, done.stderr
        assert np.load(tmp_path / "out.npy").tobytes() == expected.tobytes()


def test_backbone_and_head_published_load_in_another_process(hub, model_folder, tmp_path):
    backbone, head = dcpt.from_pretrained(model_folder, with_head=True)
    oid = backbone.push_to_hub("test-org/pair", head=head, licence="Apache-2.0")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, numpy, torch, dcpt\n"
        "backbone, head = dcpt.from_pretrained(sys.argv[2], with_head=True)\n"
        "x = torch.from_numpy(numpy.load(sys.argv[1]))\n"
        "numpy.save(sys.argv[3], head(backbone(x, hook=True)).detach().numpy()); print(*head.labels)"
    )
    done = run_python(code, tmp_path / "x.npy", f"test-org/pair@{oid}", tmp_path / "out.npy")
    assert done.stdout.split() == ["noise", "haze", "clean"], done.stderr
    with torch.no_grad():
        assert np.array_equal(np.load(tmp_path / "out.npy"), head(backbone(x, hook=True)).numpy())


def test_an_official_file_converted_loads_by_name_and_by_torch_hub(tmp_path, monkeypatch):
    original = official_file("nafnet", tmp_path / "dcpt_nafnet_5d.pth")
    monkeypatch.setenv("DCPT_HOME", str(tmp_path / "home"))
    converted = run_dcpt("convert", original, "--as", "nafnet-5d")
    assert converted.returncode == 0 and Path(converted.stdout.strip()) == converted_folder("nafnet-5d")
    original.unlink()
    golden = np.load(GOLDEN / "nafnet.npz")
    np.save(tmp_path / "lq.npy", golden["lq"])
    code = (
        "import sys, numpy, torch, dcpt\n"
        "a = dcpt.from_pretrained('nafnet-5d')\n"
        "b = torch.hub.load(sys.argv[3], 'dcpt_nafnet', source='local', pretrained='nafnet-5d')\n"
        "assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))\n"
        "x = torch.from_numpy(numpy.load(sys.argv[1]))\n"
        "with torch.no_grad(): numpy.save(sys.argv[2], b(x).numpy())"
    )
    done = run_python(code, tmp_path / "lq.npy", tmp_path / "out.npy", Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert relative_error(torch.from_numpy(np.load(tmp_path / "out.npy")), golden["restored"]) < 1e-4


def test_conversion_takes_the_right_file_only(tmp_path, monkeypatch):
    monkeypatch.setenv("DCPT_HOME", str(tmp_path / "home"))
    small = tmp_path / "small.pth"
    torch.save(dcpt.create_backbone("nafnet_test").state_dict(), small)
    for arguments, message in {
        ("--as", "nafnet-5d"): "do not fit NAFNet",
        ("--as", "swinir-5d"): "expected a swinir, as swinir-5d is, got a nafnet",
        ("--as", "nafnet-5"): "did you mean",
        ("--as", "nafnet-small-10d"): "do not come with the package",
        (): "either the name of weights or a folder",
        ("--as", "nafnet-5d", "-o", tmp_path / "x"): "either the name of weights or a folder",
    }.items():
        done = run_dcpt("convert", small, *arguments)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not any((tmp_path / "home").rglob("*.safetensors"))
    done = run_dcpt("convert", small, "-o", tmp_path / "folder")
    assert done.returncode == 0 and dcpt.from_pretrained(tmp_path / "folder").variant == "nafnet"


def test_conversion_refuses_a_file_other_than_the_one_known(tmp_path, monkeypatch):
    monkeypatch.setenv("DCPT_HOME", str(tmp_path / "home"))
    (tmp_path / "dcpt_nafnet_cdd.pth").write_bytes(b"<html>Google Drive cannot scan this file for viruses")
    with pytest.raises(CheckpointMismatch, match="with sha256 e837fefc"):
        convert_checkpoint(tmp_path / "dcpt_nafnet_cdd.pth", name="nafnet-cdd11")
    assert not converted_folder("nafnet-cdd11").exists()


def test_damage_to_converted_and_bundled_weights_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("DCPT_HOME", str(tmp_path / "home"))
    folder = converted_folder("nafnet-5d")
    dcpt.create_backbone("nafnet_test").save_pretrained(folder)
    hashes = {name: sha256((folder / name).read_bytes()) for name in FILES[:2]}
    (folder / "manifest.json").write_text(json.dumps({"sha256": hashes}))
    assert dcpt.from_pretrained("nafnet-5d").variant == "nafnet_test"
    flip(folder / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match="is damaged or missing .*; convert nafnet-5d again"):
        dcpt.from_pretrained("nafnet-5d")
    flip(folder / "model.safetensors")
    for manifest in ("{", "[]", "{}", '{"sha256": {}}', '{"sha256": []}', '{"sha256": {"config.json": 5}}'):
        (folder / "manifest.json").write_text(manifest)
        with pytest.raises(CheckpointMismatch, match="convert nafnet-5d again"):
            dcpt.from_pretrained("nafnet-5d")
    shutil.copytree(dcpt.weights.WEIGHTS["nafnet-small-10d"].folder, tmp_path / "bundle")
    monkeypatch.setattr(dcpt.weights.Weights, "folder", tmp_path / "bundle")
    flip(tmp_path / "bundle" / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match="install dcpt again"):
        dcpt.from_pretrained("nafnet-small-10d")


def flip(path, position=-7):
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def flipped(position):
    def change(content):
        changed = bytearray(content)
        changed[position] ^= 1
        return bytes(changed)

    return change


DOWNLOADS = {
    "first bit flipped": tamper(flipped(0)),
    "last bit flipped": tamper(flipped(-1)),
    "bit in the middle flipped": tamper(lambda content: flipped(len(content) // 2)(content)),
    "all zero": tamper(lambda content: bytes(len(content))),
    "reversed": tamper(lambda content: content[::-1]),
    "other weights": tamper(lambda content: content[:-64] + bytes(range(64))),
    "page of the same size": tamper(lambda content: HTML["html"].ljust(len(content))[: len(content)]),
    "page of a proxy": HTML,
    "shorter than announced": tamper(lambda content: content[: len(content) // 2]),
    "cut off": cut(40),
}


REFUSALS = {
    "page of a proxy": "Consistency check failed|should be of size|received 57 bytes|check the connection",
    "shorter than announced": "peer closed connection",
    "cut off": "peer closed connection",
}


@pytest.mark.parametrize("file", FILES[:2])
@pytest.mark.parametrize("damage", DOWNLOADS)
def test_bad_downloads_are_never_used_and_mended_once(hub, commit, load, right, tmp_path, monkeypatch, file, damage):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.misbehave(f"^GET .*resolve.*{file}", DOWNLOADS[damage])
    message = REFUSALS.get(damage, f"{file} of {REPO} is not what it should be")
    with pytest.raises(HubError, match=message):
        load()
    wrong = [path for path in (tmp_path / "cache").rglob(file) if path.is_file()]
    assert not wrong and not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.behave()
    assert same_weights(load(), right)
    shutil.rmtree(tmp_path / "cache")
    if damage != "page of a proxy":  # whose size is wrong already for the client
        hub.misbehave(f"^GET .*resolve.*{file}", DOWNLOADS[damage], times=1)
        assert same_weights(load(), right)


def test_a_broken_connection_is_resumed_where_it_broke(hub, commit, load, right, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.misbehave("^GET .*resolve.*model", cut(40_000), times=1)
    assert same_weights(load(), right)
    assert hub.count("^GET .*model.safetensors$") == hub.count("^GET .*model.safetensors bytes=40000-") == 1


def damage_manifests(repository):
    for path in (repository / "dcpt").iterdir():
        path.write_text("{")


def falsify_manifests(repository):
    for path in (repository / "dcpt").iterdir():
        data = json.loads(path.read_text())
        data["digests"]["model.safetensors"] = data["digests"]["model.safetensors"][::-1]
        path.write_text(json.dumps(data))


def link_elsewhere(repository, link):
    folder = repository.parent.parent / "elsewhere"
    folder.mkdir()
    (folder / "model.safetensors").write_text("precious")
    link.unlink()
    link.symlink_to(folder)


def swap(link):
    link.unlink()
    link.symlink_to(link.parent / "config.json")


def replace_by_folder(blob):
    blob.unlink()
    blob.mkdir()


CACHE_DAMAGE = {
    "bit flipped": lambda repository, link: flip(link.resolve()),
    "emptied": lambda repository, link: link.resolve().write_bytes(b""),
    "cut": lambda repository, link: os.truncate(link.resolve(), link.stat().st_size - 5),
    "deleted": lambda repository, link: link.resolve().unlink(),
    "folder instead": lambda repository, link: replace_by_folder(link.resolve()),
    "link to another file": lambda repository, link: swap(link),
    "link to a folder elsewhere": lambda repository, link: link_elsewhere(repository, link),
    "hash in the manifests wrong": lambda repository, link: falsify_manifests(repository),
    "manifests damaged": lambda repository, link: (damage_manifests(repository), flip(link.resolve())),
}


@pytest.mark.parametrize("damage", CACHE_DAMAGE)
def test_a_damaged_cache_is_never_used_and_heals(hub, commit, load, right, tmp_path, damage):
    load(revision=commit)
    repository = tmp_path / "cache" / "models--test-org--net"
    (link,) = repository.glob("snapshots/*/model.safetensors")
    CACHE_DAMAGE[damage](repository, link)
    with pytest.raises(HubError):
        load(revision=commit, local_files_only=True)
    hub.misbehave("", status(403))
    with pytest.raises(HubError):
        load(revision=commit)
    hub.behave()
    assert same_weights(load(revision=commit), right)
    hub.requests.clear()
    assert same_weights(load(revision=commit), right) and not hub.requests
    assert len(list((repository / "blobs").iterdir())) == len(FILES) - 1
    for elsewhere in tmp_path.glob("elsewhere/*"):
        assert elsewhere.read_text() == "precious"


def test_the_table_counts_before_the_hub(hub, load, files, monkeypatch):
    row = dcpt.weights.WEIGHTS["nafnet-5d"]
    forged = files | {"model.safetensors": flipped(-1)(files["model.safetensors"])}
    hub.commit("test-org/nafnet-5d", forged)
    assert load("nafnet-5d").variant == "nafnet_test"  # the Hub vouches for it, and nobody knows better
    monkeypatch.setitem(row.sha256, "model.safetensors", sha256(files["model.safetensors"]))
    hub.requests.clear()
    with pytest.raises(HubError, match="is not the one that this version of dcpt knows"):
        load("nafnet-5d")
    assert not hub.count("GET .*model.safetensors")
    assert load("nafnet-5d", revision=hub.branches["test-org/nafnet-5d", "main"]).variant == "nafnet_test"
    hub.commit("test-org/nafnet-5d", files)
    assert load("nafnet-5d").variant == "nafnet_test"


def test_a_pinned_revision_in_a_warm_cache_asks_nothing(hub, commit, load, right):
    load(f"{REPO}@{commit}")
    hub.requests.clear()
    assert same_weights(load(f"{REPO}@{commit}"), right) and same_weights(load(revision=commit), right)
    assert same_weights(load(f"hf-hub:{REPO}", local_files_only=True, revision=commit), right)
    assert not hub.requests
    load()
    assert hub.requests == [f"GET /api/models/{REPO}/revision/main"]


def test_bundled_weights_ask_nothing(hub):
    dcpt.from_pretrained("nafnet-small-10d")
    dcpt.from_pretrained("nafnet-small-10d-pretrain", with_head=True)
    assert not hub.requests


def test_a_branch_that_moved_is_followed(hub, commit, load):
    load()
    other = dcpt.create_backbone("nafnet_test")
    oid = other.push_to_hub(REPO)
    assert oid != commit and same_weights(load(), other.state_dict())


def test_a_branch_that_moved_to_files_that_do_not_come_leaves_what_was_complete(hub, commit, load, right):
    load()
    dcpt.create_backbone("nafnet_test").push_to_hub(REPO)
    hub.misbehave("^(GET|HEAD) .*resolve", status(403))
    with pytest.warns(UserWarning, match="using the copy"):
        assert same_weights(load(), right)
    assert same_weights(load(local_files_only=True), right)


def test_a_head_that_nobody_vouches_for_is_not_loaded(hub, commit, load, files, tmp_path):
    hub.commit(REPO, {"head.safetensors": files["head.safetensors"]})
    load(with_head=True)
    hub.commits = {key: {k: v for k, v in value.items() if "head" not in k} for key, value in hub.commits.items()}
    shutil.rmtree(tmp_path / "cache" / "models--test-org--net" / "dcpt")
    with pytest.raises(HubError, match="expected head.safetensors in test-org/net"):
        load(with_head=True)


def test_offline_and_cold_is_one_line_at_once(hub, commit):
    done = run_dcpt("download", REPO, HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and not hub.requests
    assert done.stderr.startswith(f"Error: {REPO} is not on this machine") and done.stderr.count("\n") == 1


def test_offline_and_warm_works_even_when_another_program_filled_the_cache(hub, commit, load, right, tmp_path):
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / "models--test-org--net" / "dcpt").exists()
    hub.requests.clear()
    assert same_weights(load(local_files_only=True), right)
    assert same_weights(load(revision=commit, local_files_only=True), right) and not hub.requests
    (link,) = (tmp_path / "cache").rglob("model.safetensors")
    flip(link.resolve())
    with pytest.raises(HubError):
        load(local_files_only=True)


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), hang(1.5), {"cut": 0}], ids=str)
def test_an_outage_leaves_what_is_cached(hub, commit, load, right, monkeypatch, fault):
    monkeypatch.setattr("dcpt.repository.ASK_TIMEOUT", 0.5)
    hub.misbehave("^GET /api", fault)
    with pytest.raises(HubUnreachable):
        load()
    hub.behave()
    load()
    hub.misbehave("^GET /api", fault)
    with pytest.warns(UserWarning, match="using the copy of test-org/net on this machine"):
        assert same_weights(load(), right)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (status(401, X_Error_Code="RepoNotFound"), NotOnHub, "no such repository, or it is private; .*hf auth login"),
        (status(401, X_Error_Message="Invalid credentials in Authorization header"), HubError, "denied .401.; log in"),
        (status(403), HubError, "access is denied .403.; log in"),
        (status(403, X_Error_Code="GatedRepo"), HubError, "wants conditions accepted"),
        (status(404, X_Error_Code="RepoNotFound"), NotOnHub, "no such repository"),
        (status(404, X_Error_Code="RevisionNotFound"), HubError, "no revision 'main'"),
        (status(418), HubError, "status 418"),
        (HTML, HubUnreachable, "not the Hub's but that of a proxy"),
        ({"status": 200, "headers": {}}, HubUnreachable, "not the Hub's but that of a proxy"),
    ],
)
def test_refusals_say_what_to_do(hub, commit, load, fault, kind, message):
    hub.misbehave("^GET /api", fault)
    with pytest.raises(kind, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_connection_that_hangs_in_the_middle_ends(hub, commit, load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.misbehave("^GET .*resolve.*model", hang(2))
    with pytest.raises(HubUnreachable, match="check the connection"):
        load()
    hub.behave()
    load()


def test_a_server_that_is_not_there(tmp_path):
    done = run_dcpt("download", REPO, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert done.returncode == 1 and "check the connection" in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk(hub, commit, tmp_path):
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import dcpt.cli, dcpt.hub\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); dcpt.cli.main()"
    )
    done = run_python(code, "download", REPO, HF_HOME=str(tmp_path / "full"))
    assert done.returncode == 1 and "cannot be written to (File too large); make room there" in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.rglob("*.incomplete"))


def test_a_cache_that_cannot_be_written_to(hub, commit, load, right, tmp_path, monkeypatch):
    load()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("os.makedirs", refuse)
    assert same_weights(load(), right)
    with pytest.raises(HubError, match=r"other cannot be written to \(Permission denied\); make room there, or choose"):
        dcpt.from_pretrained(REPO, cache_dir=tmp_path / "other")


def test_eight_processes_share_a_cold_cache(hub, commit, fork_server, tmp_path):
    for round_ in range(10):
        cache = tmp_path / str(round_)
        with fork_server.Pool(8) as pool:
            assert pool.starmap(load_variant, [(REPO, cache)] * 8, chunksize=1) == ["nafnet_test"] * 8
        blobs = [path.name for path in cache.rglob("blobs/*")]
        assert len(blobs) == len(FILES) - 1 and not [name for name in blobs if "incomplete" in name]
        assert not [path for path in cache.rglob("*") if path.name.startswith(".") and path.name != ".locks"]


def test_names_that_mean_nothing():
    with pytest.raises(UnknownName, match="did you mean 'nafnet-5d'"):
        dcpt.from_pretrained("nafnet-5")
    with pytest.raises(UnknownName, match="known are"):
        dcpt.from_pretrained("a/b/c")
    with pytest.raises(HubError, match='"organisation/name"'):
        dcpt.from_pretrained("hf-hub:a/b/c")
    with pytest.raises(CheckpointMismatch, match="expected the name of weights, a folder"):
        dcpt.from_pretrained("x" * 300)
    with pytest.raises(HubError):
        dcpt.from_pretrained("a/b", revision="c\0d")
    with pytest.raises(InvalidSetting, match="no revision of nafnet-small-10d, which comes with the package"):
        dcpt.from_pretrained("nafnet-small-10d", revision="main")
    with pytest.raises(InvalidSetting, match="no options beside"):
        dcpt.from_pretrained("nafnet-small-10d", norm_eps=1)


def test_weights_that_are_not_there_yet_say_how_to_get_them(hub, load):
    hub.commits = {key: value for key, value in hub.commits.items() if not key[0].endswith("-cdd11")}
    with pytest.raises(NotOnHub) as caught:
        load("nafnet-cdd11")
    message = str(caught.value)
    assert "fetch dcpt_nafnet_cdd.pth (sha256 e837fefc" in message and "https://drive.google.com/" in message
    assert "`dcpt convert dcpt_nafnet_cdd.pth --as nafnet-cdd11`" in message
    with pytest.raises(HubError, match="switched off.*Without the Hub: fetch dcpt_nafnet_cdd.pth"):
        load("nafnet-cdd11", local_files_only=True)
    with pytest.raises(NotOnHub, match="nobody is known to offer it"):
        load("nafnet-10d")


def test_a_checkpoint_file_on_the_hub_is_fetched_by_its_row(hub, load, tmp_path, monkeypatch):
    path = official_file("swinir", tmp_path / "swinir.pth")
    hub.commit("Jiakui/MaskDCPT", {"swinir_maskdcpt_5d.pth": path.read_bytes(), "README.md": b""})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = load("maskdcpt-swinir-5d")
    assert backbone.variant == "swinir" and not hub.count("README")
    with pytest.raises(HubError, match="expected nafnet_maskdcpt_5d.pth in Jiakui/MaskDCPT"):
        load("maskdcpt-nafnet-5d")


def test_a_repository_without_a_model_of_dcpt(hub, load):
    hub.commit("test-org/other", {"pytorch_model.bin": b"x"})
    with pytest.raises(HubError, match="found no config.json and no model.safetensors"):
        load("test-org/other")


def test_download_for_another_machine(hub, commit, right, tmp_path):
    stick = tmp_path / "stick"
    done = run_dcpt("download", REPO, "nafnet-small-10d", "--to", stick, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    assert same_weights(dcpt.from_pretrained(stick / "test-org--net"), right)
    assert dcpt.from_pretrained(stick / "nafnet-small-10d").variant == "nafnet_small"
    assert sorted(path.name for path in stick.iterdir()) == ["nafnet-small-10d", "test-org--net"]
    again = run_dcpt("download", "nafnet-small-10d", "--to", stick)
    assert again.returncode == 1 and "exists; choose another folder" in again.stderr
    model = tmp_path / "model"
    shutil.copytree(stick / "test-org--net", model)
    assert copy_weights(str(model / ".." / "model"), stick).parent == stick


def test_a_checkpoint_file_is_downloaded_as_a_model_folder(hub, tmp_path):
    path = official_file("swinir", tmp_path / "swinir.pth")
    hub.commit("Jiakui/MaskDCPT", {"swinir_maskdcpt_5d.pth": path.read_bytes()})
    folder = copy_weights("maskdcpt-swinir-5d", tmp_path / "stick")
    assert dcpt.from_pretrained(folder).variant == "swinir"


def test_publishing_replaces_what_was_there(hub, model_folder, tmp_path):
    backbone, head = dcpt.from_pretrained(model_folder, with_head=True)
    backbone.push_to_hub("test-org/twice", head=head)
    backbone.push_to_hub("test-org/twice", licence="MIT")
    _, files = hub.resolve("test-org/twice", "main")
    assert set(files) == {"README.md", "config.json", "model.safetensors"} and b"license: mit" in files["README.md"]
    hub.requests.clear()
    with pytest.raises(HubError, match='"organisation/name", got .justname.'):
        backbone.push_to_hub("justname")
    assert not hub.requests


def test_publishing_refuses_what_does_not_load_and_what_the_hub_refuses(hub, model_folder, tmp_path):
    done = run_dcpt("publish", tmp_path, "test-org/empty")
    assert done.returncode == 1 and "config.json" in done.stderr and not hub.requests
    hub.misbehave("create", status(403))
    done = run_dcpt("publish", model_folder, "test-org/forbidden")
    assert done.returncode == 1 and "cannot be published to" in done.stderr and "403" in done.stderr
    assert done.stderr.count("\n") == 1
