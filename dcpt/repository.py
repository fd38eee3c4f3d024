"""Model repositories on the Hugging Face Hub: fetched, verified, published.

The only file that knows the network. Fetching goes through huggingface_hub's own client and
cache, but that client takes wrong bytes of the right size, and a damaged cached file, without a
word. So every file is hashed here before anything reads it, against what the caller knows or
else against what the Hub itself says of it; this is kept beside the cache as a manifest, which
also answers for a commit or branch when the Hub cannot be asked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from dcpt.errors import HubError, HubUnreachable, NotOnHub, OutputError
from dcpt.files import write_json

ASK_TIMEOUT = 10  # seconds for the Hub's answer about a repository
TRANSIENT = (408, 429, 500, 502, 503, 504)  # states of the Hub that a cached copy helps over

NETWORK_OFF = "the network is switched off (HF_HUB_OFFLINE or local_files_only)"

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}


T = TypeVar("T")


class WrongContent(HubError):
    """A file whose hash is not the expected one."""


@dataclass(frozen=True)
class Manifest:
    """What a repository holds at one commit.

    Attributes:
        commit: Full hash.
        digests: By file name: the sha256 of a large file (64 digits), the git blob hash of a small
            one (40 digits).
    """

    commit: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Repository:
    """A model repository at a revision, and how to reach it.

    Attributes:
        name: "organisation/name".
        revision: Branch, tag or commit.
        cache_dir: The Hub's cache folder; None for the usual one.
        token: Access token; None for the stored one.
        local_files_only: Never ask the network.
    """

    name: str
    revision: str = "main"
    cache_dir: str | Path | None = None
    token: str | None = None
    local_files_only: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the revision is a full commit hash, which never moves."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache."""
        from huggingface_hub import constants

        cache = Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()
        return cache / f"models--{self.name.replace('/', '--')}"

    @property
    def offline(self) -> bool:
        """Whether the network may not be asked."""
        from huggingface_hub import constants

        return self.local_files_only or constants.is_offline_mode()

    def use(self, collect: Callable[[Manifest], T]) -> T:
        """Call a function with what the repository holds, asking the Hub unless the revision is pinned and known.

        Args:
            collect: Calls `fetch` for the files that it wants. If the Hub fails on the way, it is
                called once more with what was last complete on this machine.

        Raises:
            HubError: If the Hub refuses, or cannot be asked and nothing is known of the revision.

        Warns:
            UserWarning: If what was last complete has to do.
        """
        known = self._remember()
        if known and self.pinned:
            try:
                return collect(known)
            except WrongContent:  # or the manifest is wrong; the Hub knows
                if self.offline:
                    raise
        known = known or self._reconstruct()
        if self.offline:
            if known is None:
                raise HubError(f"{self.name} is not on this machine, and {NETWORK_OFF}; switch it on")
            return collect(known)
        try:
            manifest = self._ask()
            result = collect(manifest)
        except HubUnreachable as error:
            if known is None:
                raise
            with suppress(HubError):  # the first error says more
                result = collect(known)
                warnings.warn(f"{error}; using the copy of {self.name} on this machine", stacklevel=2)
                return result
            raise
        self._memorise(manifest)
        return result

    def recall(self) -> Manifest | None:
        """Return what this machine knows of the revision, possibly not the whole of it, or None."""
        return self._remember() or self._reconstruct()

    def fetch(self, file: str, manifest: Manifest, sha256: str | None = None) -> Path:
        """Return the cached path of a file, downloaded if need be, with its content verified.

        A bad file is thrown away and fetched once more.

        Args:
            file: Its name in the repository.
            manifest: What the repository holds.
            sha256: What the caller knows of the file, which counts before what the Hub says.

        Raises:
            HubError: If the file cannot be had, is wrong twice, or is not the one that the caller knows.
        """
        said = manifest.digests.get(file)
        if said is None:
            raise HubError(f"expected {file} in {self.name} at {manifest.commit[:8]}, got {sorted(manifest.digests)}")
        if sha256 and len(said) == len(sha256) and said != sha256:
            raise HubError(
                f"{file} of {self.name} on the Hub is not the one that this version of dcpt knows (sha256 {said}, "
                f"expected {sha256}); nothing of it was used"
            )
        digest = sha256 or said
        path = self._download(file, manifest.commit)
        if matches(path, digest):
            return path
        if self.offline:
            raise WrongContent(f"{file} of {self.name} is damaged on this machine, and {NETWORK_OFF}; switch it on")
        with self._repairing():
            if matches(path, digest):  # another process was faster
                return path
            self._drop(path)
            path = self._download(file, manifest.commit, anew=True)
            if matches(path, digest):
                return path
            self._drop(path)
        raise WrongContent(
            f"{file} of {self.name} is not what it should be (its hash differs), fetched again likewise; "
            "nothing of it was used. Try another network: something on the way changes downloads"
        )

    def publish(
        self, folder: Path, files: Sequence[str], card: str, *, obsolete: Sequence[str] = (), private: bool = False
    ) -> str:
        """Upload files and a model card, creating the repository if there is none.

        Args:
            folder: Where the files are.
            files: Their names.
            card: Text of the README.
            obsolete: Files to remove if the repository has them.
            private: Whether a new repository is for its owner alone.

        Returns:
            The commit hash of the upload.

        Raises:
            HubError: If the Hub refuses or cannot be reached.
        """
        if _NAME.fullmatch(self.name) is None:
            raise HubError(f'expected a repository as "organisation/name", got {self.name!r}')
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        with self._explaining("published to"):
            api = HfApi(token=self.token)
            api.create_repo(self.name, private=private, exist_ok=True)
            there = {entry.rfilename for entry in api.model_info(self.name).siblings or []}
            operations: list[Any] = [CommitOperationDelete(file) for file in obsolete if file in there]
            operations += [CommitOperationAdd(file, folder / file) for file in files]
            operations.append(CommitOperationAdd("README.md", card.encode()))
            commit = api.create_commit(self.name, operations, commit_message="Weights by dcpt")
        return str(commit.oid)

    def _ask(self) -> Manifest:
        from huggingface_hub import HfApi

        with self._explaining("read from"):
            info = HfApi(token=self.token).model_info(
                self.name, revision=self.revision, files_metadata=True, timeout=ASK_TIMEOUT
            )
            digests = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or []}
            return Manifest(str(info.sha), {name: digest for name, digest in digests.items() if digest})

    def _memorise(self, manifest: Manifest) -> None:
        """Keep what the Hub said of the revision, now that all that was wanted of it is here."""
        with suppress(OutputError):  # a cache that cannot be written to can still be read
            for revision in {self.revision, manifest.commit}:
                write_json(self._memo(revision), {"commit": manifest.commit, "digests": dict(manifest.digests)})

    def _remember(self) -> Manifest | None:
        """Return what the Hub said of the revision when it was asked last."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            data = json.loads(self._memo(self.revision).read_text(encoding="utf-8"))
            if data["digests"] and _COMMIT.fullmatch(data["commit"]):
                return Manifest(data["commit"], {str(k): str(v) for k, v in data["digests"].items()})
        return None

    def _reconstruct(self) -> Manifest | None:
        """Return what can be read off a cache that another program filled: its blobs are named by their hashes."""
        try:
            ref = self.folder / "refs" / self.revision
            commit = self.revision if self.pinned else ref.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        snapshot = self.folder / "snapshots" / commit
        links = [path for path in snapshot.rglob("*") if path.is_symlink()] if _COMMIT.fullmatch(commit) else []
        digests = {path.relative_to(snapshot).as_posix(): path.readlink().name for path in links}
        return Manifest(commit, digests) if digests else None

    def _memo(self, revision: str) -> Path:
        return self.folder / "dcpt" / f"{quote(revision, safe='')}.json"

    def _drop(self, path: Path) -> None:
        """Remove a file from the snapshot; what it links to may belong to others, and is replaced by fetching anew."""
        with suppress(OSError):
            blob = path.resolve()
            path.unlink()
            if blob.is_dir() and blob.parent == self.folder.resolve() / "blobs":
                blob.rmdir()

    def _download(self, file: str, commit: str, *, anew: bool = False) -> Path:
        from huggingface_hub import hf_hub_download

        with self._explaining("read from"):
            return Path(
                hf_hub_download(
                    self.name,
                    file,
                    revision=commit,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.local_files_only,
                    force_download=anew,
                )
            )

    @contextmanager
    def _repairing(self) -> Iterator[None]:
        from huggingface_hub.utils import WeakFileLock

        lock = self.folder.parent / ".locks" / self.folder.name / "dcpt.lock"
        with self._explaining("read from"):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                yield

    @contextmanager
    def _explaining(self, action: str) -> Iterator[None]:
        """Turn whatever the client raises into one line that says what to do."""
        try:
            yield
        except HubError:
            raise
        except Exception as error:  # the client lets errors of its HTTP library through, which are of many kinds
            raise self._explain(error, action) from error

    def _explain(self, error: Exception, action: str) -> HubError:
        from huggingface_hub import constants, errors

        what = f"{self.name} cannot be {action} {constants.ENDPOINT}"
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, errors.HfHubHTTPError):
            cause = cause.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            return explain_status(cause, what, self.revision)
        if isinstance(error, errors.LocalEntryNotFoundError) and self.offline:
            return HubError(f"{what}: it is not on this machine whole, and the network is switched off; switch it on")
        if isinstance(error, OSError) and error.errno in _DISK:
            return HubError(
                f"{what}: the cache {self.folder.parent} cannot be written to ({error.strerror}); make room there, "
                "or choose another folder with cache_dir or HF_HOME"
            )
        if "No space left" in str(error):  # as the Xet client, which is no Python, says it
            return HubError(f"{what}: no space left in {self.folder.parent}; make room there")
        if isinstance(error, (json.JSONDecodeError, KeyError, TypeError)):
            return HubUnreachable(
                f"{what}: the answer is not the Hub's but that of a proxy or login page; open it first"
            )
        if isinstance(error, errors.HFValidationError):
            return HubError(f'expected a repository as "organisation/name", got {self.name}: {first_line(error)}')
        return HubUnreachable(f"{what}: {first_line(error.__cause__ or error)}; check the connection and try again")


def explain_status(error: Any, what: str, revision: str) -> HubError:
    """Return the error for an HTTP status, with the remedy."""
    from huggingface_hub import errors

    status = error.response.status_code
    login = "log in with `hf auth login` or give a token"
    if isinstance(error, errors.GatedRepoError):
        return HubUnreachable(f"{what}: its owner wants conditions accepted on its page first; then {login}")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{what}: it has no revision {revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotOnHub(f"{what}: there is no such repository, or it is private; if it is yours, {login}")
    if status in (401, 403):
        return HubUnreachable(f"{what}: access is denied ({status}); {login} that allows it")
    if status == 429:
        return HubUnreachable(f"{what}: too many requests (429); wait some minutes, or {login}")
    if status in TRANSIENT:
        return HubUnreachable(f"{what}: the Hub has an outage ({status}); try again later")
    return HubError(f"{what}: status {status}, {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def matches(path: Path, digest: str) -> bool:
    """Say whether a file has a sha256 (64 digits) or git blob hash (40 digits); False if it cannot be read."""
    try:
        return hash_file(path, git=len(digest) == 40) == digest
    except OSError:
        return False


def hash_file(path: Path, *, git: bool = False) -> str:
    """Return the sha256 of a file, or the hash that git gives it, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if git else hashlib.sha256()
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
