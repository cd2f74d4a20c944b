"""Are weight files what they should be: there, whole, unaltered, and readable at all? Reads every byte; loads nothing."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from avpref.identity import file_sha256
from avpref.rewards.weights.catalogue import UNFINISHED, Model, WeightFile, again, find, size_text, weights_home
from avpref.storage.file_hashes import FetchedFile, fetched_as

POINTER = b"version https://git-lfs.github.com/spec"


class State(StrEnum):
    """State of a weight file."""

    OK = "ok"
    ABSENT = "absent"
    CUT_SHORT = "cut short"
    ANOTHER_FILE = "another file"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Finding:
    """The check of one file: found, expected, and the command that fixes it (all empty where the file is right)."""

    model: str
    file: str
    state: State
    path: str = ""
    found: str = ""
    expected: str = ""
    fix: str = ""


def verify(model: Model, folder: Path | None = None) -> Iterator[Finding]:
    """A finding for every file of ``model``, in order; ``folder`` is looked into first."""
    for file in model.files:
        path = find(model, file, folder)
        yield _absent(model, file) if path is None else _examine(model, file, path, _fetched(model, folder, path))


def _examine(model: Model, file: WeightFile, path: Path, fetched: FetchedFile | None) -> Finding:
    """Size first, then whether it opens, then the hash: the published one, or else that of the day it was fetched."""

    def bad(state: State, found: str, expected: str) -> Finding:
        return Finding(model.name, file.name, state, str(path), found, expected, again(model, path))

    size, known = path.stat().st_size, _known_bytes(file, fetched)
    if known is not None and size < known:
        return bad(State.CUT_SHORT, f"{size:,} bytes", f"{known:,} bytes")
    if known is not None and size > known:
        return bad(State.ANOTHER_FILE, f"{size:,} bytes", f"{known:,} bytes")
    if problem := unreadable(path):
        return bad(State.UNREADABLE, problem, f"a whole {path.suffix} file")
    sha256 = file_sha256(path)
    if file.sha256 not in (None, sha256):
        return bad(State.ANOTHER_FILE, f"SHA-256 {sha256}", f"SHA-256 {file.sha256}")
    if fetched is not None and fetched.sha256 != sha256:
        return bad(State.ALTERED, f"SHA-256 {sha256}", f"SHA-256 {fetched.sha256}, as it was fetched")
    return Finding(model.name, file.name, State.OK, str(path), f"SHA-256 {sha256}", _basis(file, fetched))


def unreadable(path: Path) -> str:
    """Why the file cannot be opened as what its name says; empty where it can. Weights are not loaded."""
    from safetensors import SafetensorError

    with open(path, "rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            return "a Git LFS pointer, not the file itself"
    try:
        match path.suffix:
            case ".safetensors":
                _safetensors(path)
            case ".pth" | ".pt":
                return _checkpoint(path)
            case ".json":
                json.loads(path.read_bytes())
            case ".py":
                ast.parse(path.read_bytes())
    except (ValueError, SyntaxError, zipfile.BadZipFile, SafetensorError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return ""


def _safetensors(path: Path) -> None:
    """Raises SafetensorError where the header is none, or speaks of more or fewer bytes than there are."""
    from safetensors import safe_open

    with safe_open(path, framework="np"):
        return


def _checkpoint(path: Path) -> str:
    """A zip archive with the index of a torch checkpoint."""
    with zipfile.ZipFile(path) as archive:
        has_index = any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    return "" if has_index else "a zip archive, but no torch checkpoint: data.pkl is not in it"


def _absent(model: Model, file: WeightFile) -> Finding:
    fix = f"avpref weights fetch {model.name}"
    is_begun = (weights_home() / model.name / UNFINISHED).is_dir()
    problem = "absent; an unfinished download exists" if is_begun else "absent"
    about = "" if file.is_size_exact else "about "
    return Finding(model.name, file.name, State.ABSENT, "", problem, f"{about}{size_text(file.num_bytes)}", fix)


def _fetched(model: Model, folder: Path | None, path: Path) -> FetchedFile | None:
    for parent in (folder, weights_home() / model.name):
        if parent is not None and (record := fetched_as(parent, path)):
            return record
    return None


def _known_bytes(file: WeightFile, fetched: FetchedFile | None) -> int | None:
    if file.is_size_exact:
        return file.num_bytes
    return fetched.num_bytes if fetched else None


def _basis(file: WeightFile, fetched: FetchedFile | None) -> str:
    if file.sha256:
        return "as published"
    return "as it was fetched" if fetched else "readable; nobody has published its hash"
