"""Model folders made from checkpoints of other programs, for other machines and for the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dcpt.checkpoint import CONFIG_FILE, HEAD_FILE, MODEL_FILE, load_model, save_model
from dcpt.conversion import load_checkpoint
from dcpt.errors import CheckpointMismatch, InvalidSetting, OutputError
from dcpt.files import copy_file, read_json, replaced_folder, write_json
from dcpt.hub import MANIFEST_FILE, PREFIX, converted_folder, from_pretrained, load_as, locate
from dcpt.model_card import write_card
from dcpt.recipe import RECIPE_FILE
from dcpt.report import EVALUATION_FILE
from dcpt.repository import Repository, hash_file
from dcpt.weights import WEIGHTS


def convert_checkpoint(
    file: str | Path, *, name: str | None = None, folder: str | Path | None = None, **options: Any
) -> Path:
    """Turn a checkpoint of another program into a model folder.

    Args:
        file: A checkpoint file of any dialect.
        name: Name of weights in the table, which from then on loads by it on this machine.
        folder: New folder to write instead.
        **options: Constructor options that the file does not tell.

    Returns:
        The folder.

    Raises:
        InvalidSetting: Unless either a name or a folder is given.
        UnknownName: If there are no weights of this name.
        CheckpointMismatch: If the file is damaged, of another network, or not the one known for the name.
        OutputError: If the folder cannot be written, or is there already.
    """
    file = Path(file)
    if (name is None) == (folder is None):
        raise InvalidSetting("expected either the name of weights or a folder to convert to")
    if folder is not None:
        if Path(folder).exists():
            raise OutputError(f"{folder} exists; choose a new folder")
        source = identify(file)
        save_model(Path(folder), load_checkpoint(file, **options), details={"converted_from": source})
        return Path(folder)
    row = WEIGHTS[str(name)]
    if row.bundled:
        raise InvalidSetting(f"expected weights that do not come with the package, got {name}")
    source = identify(file)
    known = row.original.sha256 if row.original else row.sha256.get(row.file)
    if known and known != source["sha256"]:
        raise CheckpointMismatch(
            f"expected the file of {name} with sha256 {known}, got {source['sha256']} in {file}; fetch it again"
        )
    details = {"weights": row.name, "licence": row.licence, "data": row.data, "trained_for": row.recipe}
    details |= {"degradations": list(row.degradations), "converted_from": source}
    target, backbone = converted_folder(row.name), load_as(row, file, options)
    with replaced_folder(target) as temporary:
        save_model(temporary, backbone, details=details)
        hashes = {written: hash_file(temporary / written) for written in (CONFIG_FILE, MODEL_FILE)}
        write_json(temporary / MANIFEST_FILE, {"sha256": hashes, "converted_from": source})
    return target


def identify(file: Path) -> dict[str, str]:
    """Return name and sha256 of a file.

    Raises:
        CheckpointMismatch: If it cannot be read.
    """
    try:
        return {"file": file.name, "sha256": hash_file(file)}
    except OSError as error:
        raise CheckpointMismatch(f"cannot read {file}: {error.strerror}") from None


def copy_weights(name: str, folder: Path) -> Path:
    """Write a model folder for another machine, from verified files.

    Args:
        name: As for `from_pretrained`.
        folder: Gets a folder named after the weights or repository.

    Raises:
        OutputError: If that folder exists or cannot be written.
        UnknownName, CheckpointMismatch, HubError: As `from_pretrained`.
    """
    path = locate(name)
    target = folder / re.sub(r"[^\w.-]+", "--", name.removeprefix(PREFIX).partition("@")[0]).strip(".")
    if target.exists():
        raise OutputError(f"{target} exists; choose another folder")
    if path.is_file():
        from_pretrained(name).save_pretrained(target)
        return target
    head = [HEAD_FILE] if "head" in read_json(path / CONFIG_FILE) else []
    with replaced_folder(target) as temporary:
        for file in (CONFIG_FILE, MODEL_FILE, *head):
            copy_file(path / file, temporary / file)
    return target


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
    _, head, _ = load_model(folder)  # nothing that could not be loaded again is published
    belonging = [CONFIG_FILE, MODEL_FILE, *([HEAD_FILE] if head else []), RECIPE_FILE, EVALUATION_FILE]
    present = [file for file in belonging if (folder / file).exists()]
    obsolete = {HEAD_FILE, RECIPE_FILE, EVALUATION_FILE}.difference(present)  # of what was published there before
    card = write_card(folder, repo)
    return Repository(repo, token=token).publish(folder, present, card, obsolete=sorted(obsolete), private=private)
