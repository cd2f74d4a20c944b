"""Fetching weight files over HTTP, from the Hugging Face hub or from elsewhere; a broken download goes on where it stopped.

The hub's own client gives the addresses (and with them ``HF_ENDPOINT``), but not the bytes: release 2.4 starts every broken
download from zero (decision record 22). No token is sent: all of the repositories are public.

Files grow in ``<home>/<model>/.unfinished/`` and move to their place only when they are whole and have the right hash, so a file
under its final name is complete. Each fetched file is recorded in ``weights.json`` in its folder, for ``avpref weights verify``.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from avpref import __version__
from avpref.console import say
from avpref.errors import InputError, StorageError
from avpref.identity import file_sha256
from avpref.observability.progress import Progress
from avpref.rewards.weights.catalogue import (
    HOME_VARIABLE,
    UNFINISHED,
    HubFile,
    Model,
    WebFile,
    WeightFile,
    find,
    require_size,
    size_text,
    terms_text,
    weights_home,
)
from avpref.storage.file_hashes import FetchedFile, record_fetched

CHUNK_BYTES = 2**20
TIMEOUT_S = 60.0
MEGABYTE = 1_000_000
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True)
class Plan:
    """Plan of fetching a model: the paths of the files that are present, and the files to fetch into ``target``."""

    model: Model
    present: tuple[tuple[WeightFile, Path], ...]
    missing: tuple[WeightFile, ...]
    target: Path

    @property
    def num_bytes(self) -> int:
        """Bytes still to fetch, as far as sizes are known, without the bytes that unfinished downloads already hold."""
        return sum(max(0, file.num_bytes - _held_bytes(self.target, file)) for file in self.missing)

    @property
    def free_bytes(self) -> int:
        """Bytes that are free on the disk of ``target``."""
        place = next(folder for folder in (self.target, *self.target.absolute().parents) if folder.exists())
        return shutil.disk_usage(place).free


def plan(model: Model) -> Plan:
    """Split the files of ``model`` into present and missing ones. Raises InputError for a file whose size shows that it is broken."""
    located = [(file, find(model, file)) for file in model.files]
    for file, path in located:
        if path is not None:
            require_size(model, file, path)
    missing = sorted((file for file, path in located if path is None), key=lambda file: file.num_bytes)
    present = tuple((file, path) for file, path in located if path is not None)
    return Plan(model, present, tuple(missing), weights_home() / model.name)


def fetch(planned: Plan, endpoint: str | None = None) -> dict[str, FetchedFile]:
    """Fetch what is missing, smallest first; by file name what came. Files that are there are not touched.

    ``endpoint`` is another address of the hub (by default ``HF_ENDPOINT``). Raises InputError where downloads are switched
    off, fail, or bring something else; StorageError where there is no room, or another command fetches the same model.
    """
    model, target = planned.model, planned.target
    if not planned.missing:
        return {}
    _require_online(planned)
    _require_space(planned)
    say(f"{model.name}: {size_text(planned.num_bytes)} into {target} ({terms_text(model.terms)})")
    with _locked(target / UNFINISHED):
        fetched = {file.name: _fetch_file(model, file, target, endpoint) for file in planned.missing}
        shutil.rmtree(target / UNFINISHED)
    return fetched


def _fetch_file(model: Model, file: WeightFile, target: Path, endpoint: str | None) -> FetchedFile:
    folder, final = target / UNFINISHED, target / file.place
    with _download_errors(model, file, target):
        arrived = _download(file, _address(file.source, endpoint), _partial(folder, file))
        sha256 = file_sha256(arrived)
        if file.sha256 not in (None, sha256):
            rejected = arrived.replace(folder / f"{file.name}.rejected")
            raise InputError(
                f"{model.name}: what came from {file.source} has SHA-256 {sha256}; it lies in {rejected}",
                f"SHA-256 {file.sha256}",
                f"look at {rejected}, then avpref weights fetch {model.name}",
            )
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arrived, final)
    fetched = FetchedFile(final.stat().st_size, sha256, str(file.source))
    record_fetched(target, file.place, fetched)
    say(f"{model.name}: {file.name} is there, SHA-256 {sha256}")
    return fetched


def _address(source: HubFile | WebFile, endpoint: str | None) -> str:
    if isinstance(source, WebFile):
        return source.url
    from huggingface_hub import hf_hub_url

    return hf_hub_url(source.repo, source.path, revision=source.revision, endpoint=endpoint)


def _download(file: WeightFile, url: str, partial: Path) -> Path:
    """Fetch ``url`` into ``partial``: on from where it ends if the size is known, else anew. Raises InputError for another size."""
    held = _usable_bytes(file, partial)
    if held and held == file.num_bytes:
        return partial
    headers = {"User-Agent": f"avpref/{__version__}", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        start = held if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        offered = start + int(response.headers.get("Content-Length") or file.num_bytes - start)
        if file.is_size_exact and offered != file.num_bytes:
            raise InputError(
                f"{url} offers {offered:,} bytes", f"{file.num_bytes:,} bytes", "see docs/reward-models.md"
            )
        with open(partial, "ab" if start else "wb") as stream:
            size = start + _copy(response, stream, file.name, start, offered)
    if size != offered and (file.is_size_exact or "Content-Length" in response.headers):
        raise InputError(
            f"{url} ended after {size:,} bytes", f"{offered:,} bytes", "run the same command again to go on"
        )
    return partial


def _usable_bytes(file: WeightFile, partial: Path) -> int:
    """Size of an unfinished download that can be gone on with; another one is removed."""
    held = partial.stat().st_size if partial.exists() else 0
    if held > file.num_bytes or not file.is_size_exact:
        partial.unlink(missing_ok=True)
        return 0
    return held


def _copy(response: http.client.HTTPResponse, stream: BinaryIO, name: str, start: int, total: int) -> int:
    """Bytes that came; counted in megabytes for people."""
    size = 0
    with Progress(name, total // MEGABYTE, unit="MB") as progress:
        progress.skip(start // MEGABYTE)
        while chunk := response.read(CHUNK_BYTES):
            stream.write(chunk)
            size += len(chunk)
            progress.advance((start + size) // MEGABYTE - progress.done)
    return size


def _require_online(planned: Plan) -> None:
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        names = ", ".join(file.place for file in planned.missing)
        raise InputError(
            f"{planned.model.name}: {names} absent, and HF_HUB_OFFLINE forbids downloads",
            f"a machine that may download, or the files in {planned.target}",
            f"HF_HUB_OFFLINE=0 avpref weights fetch {planned.model.name}",
        )


def _require_space(planned: Plan) -> None:
    if planned.free_bytes < planned.num_bytes:
        raise StorageError(
            f"{size_text(planned.free_bytes)} free for {planned.target}",
            f"{size_text(planned.num_bytes)} for {planned.model.name}",
            f"free disk space, or choose another folder: {HOME_VARIABLE}=DIR avpref weights fetch {planned.model.name}",
        )


def _partial(folder: Path, file: WeightFile) -> Path:
    return folder / f"{file.name}.partial"


def _held_bytes(target: Path, file: WeightFile) -> int:
    partial = _partial(target / UNFINISHED, file)
    return partial.stat().st_size if partial.exists() else 0


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Own ``folder``, which is made. Raises StorageError where another command owns it or it cannot be made."""
    lock = FileLock(folder / "lock", blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StorageError(f"another command fetches into {folder}", "one command at a time", "wait for it") from None
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _download_errors(model: Model, file: WeightFile, target: Path) -> Iterator[None]:
    """Turn what networks, servers and disks do into InputError and StorageError; what came so far is kept."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise _unwritable(target, error) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{model.name}: {file.source} did not come: {reason}",
            f"{file.name}, {size_text(file.num_bytes)}",
            f"avpref weights fetch {model.name} goes on where it stopped; docs/reward-models.md says where else to put it",
        ) from error


def _unwritable(folder: Path, error: Exception) -> StorageError:
    fix = f"choose another folder: {HOME_VARIABLE}=DIR"
    return StorageError(
        f"{folder}: {getattr(error, 'strerror', error)}", "a folder with room that can be written to", fix
    )
