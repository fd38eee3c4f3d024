"""Trained models by name, repository, folder or file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch

from dcpt.backbones import Backbone, create_backbone
from dcpt.checkpoint import CONFIG_FILE, HEAD_FILE, MODEL_FILE, check_fit, load_model, save_model
from dcpt.conversion import CHECKPOINT_SUFFIXES, load_checkpoint, read_checkpoint
from dcpt.device import pick_device
from dcpt.errors import CheckpointMismatch, HubError, InvalidSetting, NotOnHub
from dcpt.files import read_json, write_json
from dcpt.heads import DegradationClassifier
from dcpt.model_card import write_card
from dcpt.recipe import RECIPE_FILE
from dcpt.report import EVALUATION_FILE
from dcpt.repository import Repository, hash_file, matches
from dcpt.weights import WEIGHTS, Weights

MANIFEST_FILE = "manifest.json"
PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@overload
def from_pretrained(name: str | Path, *, with_head: Literal[False] = False, **options: Any) -> Backbone: ...
@overload
def from_pretrained(
    name: str | Path, *, with_head: Literal[True], **options: Any
) -> tuple[Backbone, DegradationClassifier]: ...
def from_pretrained(
    name: str | Path,
    *,
    with_head: bool = False,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    device: torch.device | str | None = None,
    **options: Any,
) -> Backbone | tuple[Backbone, DegradationClassifier]:
    """Load a trained model, in evaluation mode.

    What comes from the Hub is kept in huggingface_hub's cache and verified at every load; bundled
    and converted weights never ask the network.

    Args:
        name: A name from `list_weights()`; a folder written by training or `save_pretrained`; a
            checkpoint file of NAFNet, Restormer, PromptIR or SwinIR: published, of DCPT or of
            MaskDCPT; a repository on the Hub, "organisation/name", with "@revision" behind it or
            "hf-hub:" before it if wanted.
        with_head: Return the pair of backbone and degradation classifier; its `labels` name the
            classes.
        revision: Branch, tag or commit on the Hub. A full commit hash that was fetched before
            makes no request.
        cache_dir: Cache folder in place of huggingface_hub's usual one.
        token: Access token in place of the stored one.
        local_files_only: Ask nothing of the network.
        device: Where to put it; default the CPU.
        **options: For a checkpoint file, constructor options that its weights do not tell, such
            as `attention="softmax"`.

    Raises:
        UnknownName: If there are no such weights or options.
        CheckpointMismatch: If the files are damaged, or have no head and one was asked for.
        HubError: If they cannot be fetched; the message says what to do.
        InvalidSetting: If the device does not exist, or options are given for other than a file.

    Warns:
        UserWarning: If an option that a checkpoint file does not tell had to be assumed, or the Hub
            cannot be reached and the copy on this machine is used.
    """
    access = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    backbone, head = _load(name, options, with_head=with_head, revision=revision, **access)
    device = pick_device(device or "cpu")
    backbone = backbone.to(device)
    if not with_head:
        return backbone
    if head is None:
        raise CheckpointMismatch(f"expected weights with a classifier head, got {name}, which has none")
    return backbone, head.to(device)


def _load(
    name: str | Path, options: Mapping[str, Any], *, with_head: bool = True, **access: Any
) -> tuple[Backbone, DegradationClassifier | None]:
    path = locate(name, with_head=with_head, **access)
    if path.is_dir():
        if options:
            raise InvalidSetting(f"expected no options beside {name}, whose config has them, got {', '.join(options)}")
        backbone, head, _ = load_model(path, with_head=with_head)
        return backbone, head
    if str(name) in WEIGHTS:
        row = WEIGHTS[str(name)]
        return load_as(row, path, options), None
    return load_checkpoint(path, **options), None


def load_as(row: Weights, path: Path, options: Mapping[str, Any] | None = None) -> Backbone:
    """Load the checkpoint file of a row of the table, whose options it need not tell.

    Raises:
        CheckpointMismatch: If it is of another network.
    """
    with torch.device("meta"):
        expected = create_backbone(row.variant, **row.options)
    checkpoint = read_checkpoint(path)
    if checkpoint.family != row.variant:
        raise CheckpointMismatch(f"expected a {row.variant}, as {row.name} is, got a {checkpoint.family} in {path}")
    check_fit(expected, checkpoint.state, source=path)
    silent = {k: v for k, v in expected.silent_options.items() if k not in checkpoint.found}
    return checkpoint.build(**(silent | dict(options or {})))


def locate(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    with_head: bool = True,
) -> Path:
    """Return the model folder or checkpoint file that a name means, fetched if need be and verified.

    Args:
        name: As for `from_pretrained`.
        with_head: Whether to fetch the head, too, if there is one.
        revision: Likewise, as are the others.

    Raises:
        UnknownName, CheckpointMismatch, HubError: As `from_pretrained`.
    """
    name, path = str(name), Path(name)
    access = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    if name in WEIGHTS:
        return locate_row(WEIGHTS[name], revision, with_head=with_head, **access)
    if not name.startswith(PREFIX):
        if path.is_dir() or is_checkpoint_file(path):
            return path
        if path.exists():
            raise CheckpointMismatch(f"expected a file ending in {', '.join(CHECKPOINT_SUFFIXES)}, got {path}")
        if not _REPOSITORY.fullmatch(name):
            return locate_row(WEIGHTS[name], revision, **access)  # which says what names there are
    repo, _, inline = name.removeprefix(PREFIX).partition("@")
    return fetch_folder(Repository(repo, revision or inline or "main", **access), with_head=with_head)


def locate_row(row: Weights, revision: str | None = None, *, with_head: bool = True, **access: Any) -> Path:
    """Return the folder or file of a row of the table: bundled, converted on this machine, or fetched.

    Raises:
        CheckpointMismatch: If the files here are damaged.
        HubError: If they are not here and cannot be fetched.
    """
    if row.bundled:
        check_folder(row.folder, row.sha256, remedy="install dcpt again")
        return row.folder
    converted = converted_folder(row.name)
    if (manifest := read_json(converted / MANIFEST_FILE)) and revision is None:
        check_folder(converted, manifest.get("sha256", {}), remedy=f"convert {row.name} again")
        return converted
    repository = Repository(row.repository, revision or row.revision, **access)
    try:
        if row.file:
            return repository.fetch(row.file, repository.read_manifest(), row.sha256.get(row.file))
        return fetch_folder(repository, row.sha256, with_head=with_head)
    except NotOnHub as error:
        raise NotOnHub(f"{row.name} is not on the Hub: {advise_conversion(row)}. {error}") from error


def advise_conversion(row: Weights) -> str:
    """Say what to fetch by hand, and the one command to run then."""
    if row.original is None:
        return f"nobody is known to offer it; if you have its file, run `dcpt convert FILE --as {row.name}`"
    known = f"sha256 {row.original.sha256}" if row.original.sha256 else "its sha256 is not known"
    return (
        f"fetch {row.original.file} ({known}) by hand from {row.original.link}, then run "
        f"`dcpt convert {row.original.file} --as {row.name}` once"
    )


def fetch_folder(repository: Repository, sha256: Mapping[str, str] | None = None, *, with_head: bool = True) -> Path:
    """Fetch and verify the files of a model folder; return where they are.

    Raises:
        HubError: If they cannot be fetched, or the repository holds no such model.
    """
    manifest, known = repository.read_manifest(), sha256 or {}
    missing = {CONFIG_FILE, MODEL_FILE} - manifest.digests.keys()
    if missing:
        raise HubError(
            f"expected a model of dcpt in {repository.name}, found no {' and no '.join(sorted(missing))}; a checkpoint "
            "file of another program can be downloaded and given by its path"
        )
    files = [CONFIG_FILE, MODEL_FILE] + ([HEAD_FILE] if with_head and HEAD_FILE in manifest.digests else [])
    return [repository.fetch(file, manifest, known.get(file)) for file in files][0].parent


def check_folder(folder: Path, sha256: Mapping[str, str], *, remedy: str) -> None:
    """Compare files with their hashes before anything reads them.

    Raises:
        CheckpointMismatch: If one is missing or differs.
    """
    for file, digest in sha256.items():
        if not matches(folder / file, digest):
            raise CheckpointMismatch(f"{folder / file} is damaged or missing (its sha256 differs); {remedy}")


def converted_folder(name: str) -> Path:
    """Return where `dcpt convert --as` keeps weights: in DCPT_HOME, by default ~/.cache/dcpt."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dcpt"
    return Path(os.environ.get("DCPT_HOME") or cache).expanduser() / "weights" / name


def convert_checkpoint(
    file: str | Path, *, name: str | None = None, folder: str | Path | None = None, **options: Any
) -> Path:
    """Turn a checkpoint of another program into a model folder.

    Args:
        file: A checkpoint file of any dialect.
        name: Name of weights in the table, which from then on loads by it on this machine.
        folder: Folder to write instead.
        **options: Constructor options that the file does not tell.

    Returns:
        The folder.

    Raises:
        InvalidSetting: Unless either a name or a folder is given.
        UnknownName: If there are no weights of this name.
        CheckpointMismatch: If the file is damaged, of another network, or not the one known for the name.
        OutputError: If the folder cannot be written.
    """
    file = Path(file)
    if (name is None) == (folder is None):
        raise InvalidSetting("expected either the name of weights or a folder to convert to")
    if folder is not None:
        save_model(Path(folder), load_checkpoint(file, **options), details={"converted_from": identify(file)})
        return Path(folder)
    row = WEIGHTS[str(name)]
    if row.bundled:
        raise InvalidSetting(f"expected weights that do not come with the package, got {name}")
    backbone, source = load_as(row, file, options), identify(file)
    known = row.original.sha256 if row.original else row.sha256.get(row.file)
    if known and known != source["sha256"]:
        raise CheckpointMismatch(f"expected the file of {name} with sha256 {known}, got {source['sha256']} in {file}")
    details = {"weights": row.name, "licence": row.licence, "data": row.data, "trained_for": row.recipe}
    details |= {"degradations": list(row.degradations), "converted_from": source}
    target = converted_folder(row.name)
    (target / MANIFEST_FILE).unlink(missing_ok=True)  # it counts as there only with the manifest, written last
    save_model(target, backbone, details=details)
    hashes = {name: hash_file(target / name) for name in (CONFIG_FILE, MODEL_FILE)}
    write_json(target / MANIFEST_FILE, {"sha256": hashes, "converted_from": source})
    return target


def identify(file: Path) -> dict[str, str]:
    """Return name and sha256 of a file."""
    return {"file": file.name, "sha256": hash_file(file)}


def publish_folder(folder: str | Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a model folder to the Hub, with a model card made from its files.

    Args:
        folder: Written by training, `save_pretrained` or `dcpt convert`; `recipe.json` and
            `evaluation.json` (what `dcpt evaluate --json` prints) go with it if they are there.
        repo: "organisation/name"; created if it does not exist.
        private: Whether a new repository is for its owner alone.
        token: Access token in place of the stored one.

    Returns:
        The commit hash of the upload.

    Raises:
        CheckpointMismatch: If the folder holds no whole model.
        HubError: If the Hub refuses, or cannot be reached.
    """
    folder = Path(folder)
    load_model(folder)  # nothing that could not be loaded again is published
    files = [CONFIG_FILE, MODEL_FILE, HEAD_FILE, RECIPE_FILE, EVALUATION_FILE]
    present = [file for file in files if (folder / file).exists()]
    return Repository(repo, token=token).publish(folder, present, write_card(folder, repo), private=private)


def is_cached(row: Weights) -> bool:
    """Say whether weights are on this machine, without asking the network or reading them."""
    if row.bundled or (converted_folder(row.name) / MANIFEST_FILE).exists():
        return True
    repository = Repository(row.repository, row.revision)
    manifest = repository.recall()
    snapshot = repository.folder / "snapshots" / (manifest.commit if manifest else "")
    return manifest is not None and (snapshot / (row.file or MODEL_FILE)).exists()


def is_checkpoint_file(name: str | Path) -> bool:
    """Say whether a name means a checkpoint file, and not weights by name or a model folder."""
    path = Path(name)
    return path.suffix.lower() in CHECKPOINT_SUFFIXES and not path.is_dir()


def inspect_model(name: str | Path, **options: Any) -> dict[str, Any]:
    """Tell what trained weights are, as plain data, without computing a picture.

    Args:
        name: As for `from_pretrained`.
        **options: Likewise.

    Returns:
        Of a checkpoint file the family, the dialect and the options found and assumed; of other
        weights the variant and its options; of all the number of parameters, the multiple that
        sides must be of, and the features; the classes of a head if there is one.

    Raises:
        UnknownName, CheckpointMismatch, HubError: As `from_pretrained`.
    """
    head = None
    if is_checkpoint_file(name):
        checkpoint = read_checkpoint(name)
        backbone = checkpoint.build(**(checkpoint.assumed | options))
        facts = {"family": checkpoint.family, "dialect": checkpoint.dialect}
        facts |= {"found": checkpoint.found, "assumed": checkpoint.assumed | options}
    else:
        backbone, head = _load(name, options)
        facts = {"variant": backbone.variant, "options": backbone.overrides}
    return (
        facts
        | {
            "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "size_multiple": backbone.size_multiple,
            "feature_channels": backbone.feature_channels,
            "feature_strides": backbone.feature_strides,
        }
        | ({"classes": head.labels} if head else {})
    )
