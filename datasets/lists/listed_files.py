"""Files that a list names: found and inspected, or refused with a reason that helps; no name can end the reading of the list."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_text import literal
from avpref.errors import InputError, MediaError
from avpref.identity import file_sha256
from avpref.media.reading import MediaInfo, probe
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules
from avpref.media.sound.finite_sound import require_finite_sound

NO_FILE = "no file named"
NO_SUCH_FILE = "no such file"
EXPECTED = "a file beside the list, or an absolute path"
NO_FILES = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
"""Names of what is no file, by a test of its mode."""
MAX_LISTED = 20_000
"""Largest folder that is searched for a similar name."""


@dataclass(frozen=True)
class ListedRecording:
    """A recording with both tracks: its resolved path, properties and SHA-256."""

    path: Path
    info: MediaInfo
    sha256: str

    @property
    def duration_s(self) -> float:
        """Seconds until the first of the two tracks ends."""
        assert self.info.audio is not None
        return min(self.info.duration_s, self.info.audio.duration_s)

    @property
    def height_px(self) -> int:
        """Height of the picture as it is shown."""
        assert self.info.video is not None
        return self.info.video.height_px

    @property
    def width_px(self) -> int:
        """Width of the picture as it is shown."""
        assert self.info.video is not None
        return self.info.video.width_px

    @property
    def sound_start_s(self) -> float:
        """Seconds until the sound begins."""
        assert self.info.audio is not None
        return self.info.audio.start_s


def locate(folder: Path, file: str) -> Path:
    """The resolved path of ``file``, relative to ``folder``. Raises InputError, with the reason as ``found``, unless it is a file."""
    if not file.strip():
        raise InputError(NO_FILE, EXPECTED, "name a file, or remove the row")
    joined = folder / file
    try:
        mode = os.stat(joined).st_mode
        if stat.S_ISREG(mode):
            return joined.resolve()
    except (OSError, ValueError) as error:
        raise InputError(_reason(joined, file, error), EXPECTED, "correct the row, or remove it") from error
    kind = next((name for test, name in NO_FILES if test(mode)), "a device")
    raise InputError(f"{kind}, not a file", EXPECTED, "correct the row, or remove it")


def inspect(path: Path, rules: ReadingRules = DEFAULT_READING) -> ListedRecording:
    """The recording at ``path``. Raises InputError, with the reason as ``found``, where it cannot be read or lacks a track.

    ``rules`` choose the sound.
    """
    info, sha256 = inspect_clip(path, rules)
    if info.video is None or info.audio is None:
        raise InputError("no picture" if info.video is None else "no sound", "both tracks", "remove the row")
    return ListedRecording(path, info, sha256)


def inspect_clip(path: Path, rules: ReadingRules = DEFAULT_READING) -> tuple[MediaInfo, str]:
    """Properties and SHA-256 of a media file, which may lack a track. Raises InputError, with the reason as ``found``."""
    try:
        info, sha256 = probe(path, rules), file_sha256(path)
        require_finite_sound(path, rules)
    except MediaError as error:
        raise MediaError(f"unreadable: {error.found}", error.expected, error.fix) from error
    except OSError as error:
        raise InputError(f"unreadable: {error.strerror or error}", "a readable file", "correct the row") from error
    return info, sha256


def _reason(joined: Path, file: str, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"{printable(file)}: not a file name ({error})"
    match error.errno:
        case errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in joined.parts)
            return f"a path of {len(os.fsencode(joined))} bytes with a name of {longest}: longer than the file system accepts"
        case errno.ELOOP:
            return "a link that leads back to itself"
        case errno.ENOENT | errno.ENOTDIR:
            return _missing(joined)
        case _:
            return f"unreadable: {error.strerror}"


def _missing(path: Path) -> str:
    """The reason for a file that does not exist, with the similar name that does, and the command that makes them equal."""
    if path.is_symlink():
        return f"{NO_SUCH_FILE}: a link to {os.readlink(path)}, which does not exist"
    if "\\" in path.name:
        return f"{NO_SUCH_FILE}: the name has backslashes; write folders with /"
    similar = _similar(path)
    if similar is None:
        return NO_SUCH_FILE
    command = _rename_command(path.with_name(similar), path)
    return f"{NO_SUCH_FILE}: the folder has the name {_difference(path.name, similar)}; to rename that file: {command}"


def _similar(path: Path) -> str | None:
    """The name in the folder of ``path`` that differs from its own in Unicode form, capitals or blanks at its ends alone."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for _, entry in zip(range(MAX_LISTED), entries, strict=False)]
    except OSError:
        return None
    return next((name for name in sorted(names) if _plain(name) == _plain(path.name)), None)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _difference(wanted: str, present: str) -> str:
    if unicodedata.normalize("NFC", wanted) == unicodedata.normalize("NFC", present):
        form = next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, present)), "a mixed form")
        return f"in another Unicode form ({form})"
    if wanted.strip() == present.strip():
        return f"{present!r}, with other blanks at its ends"
    return f"{present!r}, with other capitals or blanks"


def _rename_command(source: Path, target: Path) -> str:
    """A shell command in ASCII, because terminals and editors change the Unicode form of what is copied."""
    code = f"import os; os.rename({literal(source)}, {literal(target)})"
    return f"python3 -c {shlex.quote(code)}"
