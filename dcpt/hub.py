"""Trained models by name, repository, folder or file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch

from dcpt.backbones import Backbone, create_backbone
from dcpt.checkpoint import CONFIG_FILE, HEAD_FILE, MODEL_FILE, check_fit, load_model
from dcpt.conversion import CHECKPOINT_SUFFIXES, load_checkpoint, read_checkpoint
from dcpt.device import pick_device
from dcpt.errors import CheckpointMismatch, HubError, InvalidData, InvalidSetting
from dcpt.files import read_json
from dcpt.heads import DegradationClassifier
from dcpt.registry import unknown_name
from dcpt.repository import Manifest, Repository, matches
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
        if len(path.name) > 255:  # more than a file system takes
            raise CheckpointMismatch(f"expected the name of weights, a folder, a file or a repository, got {name}")
        if path.is_dir() or is_checkpoint_file(path):
            return path
        if path.exists():
            raise CheckpointMismatch(f"expected a file ending in {', '.join(CHECKPOINT_SUFFIXES)}, got {path}")
        if not _REPOSITORY.fullmatch(name):
            raise unknown_name("weights", name, WEIGHTS)
    repo, _, inline = name.removeprefix(PREFIX).partition("@")
    return fetch_folder(Repository(repo, revision or inline or "main", **access), with_head=with_head)


def locate_row(row: Weights, revision: str | None = None, *, with_head: bool = True, **access: Any) -> Path:
    """Return the folder or file of a row of the table: bundled, converted on this machine, or fetched.

    Raises:
        CheckpointMismatch: If the files here are damaged.
        HubError: If they are not here and cannot be fetched.
        InvalidSetting: If a revision of bundled weights is asked for.
    """
    if row.bundled:
        if revision is not None:
            raise InvalidSetting(f"expected no revision of {row.name}, which comes with the package, got {revision!r}")
        check_folder(row.folder, row.sha256, remedy="install dcpt again")
        return row.folder
    converted = converted_folder(row.name)
    if converted.exists() and revision is None:
        check_folder(converted, read_hashes(converted), remedy=f"convert {row.name} again")
        return converted
    repository = Repository(row.repository, revision or row.revision, **access)
    known = row.sha256 if repository.revision == row.revision else {}
    try:
        if row.file:
            return repository.use(lambda manifest: repository.fetch(row.file, manifest, known.get(row.file)))
        return fetch_folder(repository, known, with_head=with_head)
    except HubError as error:
        if row.file:
            raise
        raise type(error)(f"{error}. Without the Hub: {advise_conversion(row)}") from error


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
    known = sha256 or {}

    def collect(manifest: Manifest) -> Path:
        missing = {CONFIG_FILE, MODEL_FILE} - manifest.digests.keys()
        if missing:
            raise HubError(
                f"expected a model of dcpt in {repository.name}, found no {' and no '.join(sorted(missing))}; a "
                "checkpoint file of another program can be downloaded and given by its path"
            )
        config = repository.fetch(CONFIG_FILE, manifest, known.get(CONFIG_FILE))
        head = [HEAD_FILE] if with_head and "head" in read_json(config) else []
        for file in (MODEL_FILE, *head):
            repository.fetch(file, manifest, known.get(file))
        return config.parent

    return repository.use(collect)


def check_folder(folder: Path, sha256: Mapping[str, str], *, remedy: str) -> None:
    """Compare files with their hashes before anything reads them.

    Raises:
        CheckpointMismatch: If one is missing or differs.
    """
    for file, digest in sha256.items():
        if not matches(folder / file, digest):
            raise CheckpointMismatch(f"{folder / file} is damaged or missing (its sha256 differs); {remedy}")


def read_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes that a conversion kept beside its files; impossible ones if they are not in order."""
    try:
        hashes = read_json(folder / MANIFEST_FILE)["sha256"]
        return {file: str(hashes[file]) for file in (CONFIG_FILE, MODEL_FILE)}
    except (InvalidData, LookupError, TypeError):
        return {MANIFEST_FILE: ""}


def converted_folder(name: str) -> Path:
    """Return where `dcpt convert --as` keeps weights: in DCPT_HOME, by default ~/.cache/dcpt."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dcpt"
    return Path(os.environ.get("DCPT_HOME") or cache).expanduser() / "weights" / name


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
