"""Good clips for the validation of scorers: recordings of a folder or of a CSV, split into windows with the sound around them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avpref.errors import InputError, MediaError, TableError
from avpref.identity import file_sha256
from avpref.media.geometry import ClipShape, window_starts_s
from avpref.media.reading import DecodedClip, probe, read_clip
from avpref.rewards.negatives.cuts import Cut, Donor

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"})
LIST_NAME = "clips.csv"
CSV_COLUMNS = ("file", "text", "taxonomy", "group")
ONE_FRAME_PX = 16
"""Side of the single frame that is decoded when only the sound is needed."""


@dataclass(frozen=True)
class ValidationWindow:
    """A window of a usable recording; ``recording`` is the SHA-256 of the file, ``name`` the file as listed and the start."""

    name: str
    file: str
    path: Path
    recording: str
    text: str
    start_s: float
    recording_s: float


@dataclass(frozen=True)
class Unusable:
    """A recording or window that could not be used, with the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class ValidationWindows:
    """The windows to validate on, and unusable files. ``unread_list`` is a CSV in the source folder, which was not read."""

    windows: tuple[ValidationWindow, ...]
    unusable: tuple[Unusable, ...]
    unread_list: Path | None = None


@dataclass(frozen=True)
class _Listed:
    file: str
    path: Path
    text: str


def find_windows(source: Path, window_s: float) -> ValidationWindows:
    """Windows of ``window_s`` seconds of every recording of ``source``.

    ``source`` is a folder (with its subfolders), or a CSV with the column ``file`` and optionally ``text``. Windows do not overlap
    and are centred in their recording, so that it has sound on both sides of them. A file is unusable if it cannot be read,
    lacks a track, is shorter than a window, or has the same bytes as an earlier file. Raises InputError if ``source`` does not
    exist or has no usable recording, TableError for a CSV that cannot be read or has other columns.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder", "a folder of recordings, or a CSV", "check the path")
    listed = _in_folder(source) if source.is_dir() else _in_csv(source)
    windows: list[ValidationWindow] = []
    unusable: list[Unusable] = []
    known: dict[str, str] = {}
    for row in listed:
        outcome = row if isinstance(row, Unusable) else _windows(row, window_s, known)
        if isinstance(outcome, Unusable):
            unusable.append(outcome)
        else:
            windows += outcome
    if not windows:
        raise _no_recording(source, window_s, unusable)
    table = source / LIST_NAME
    return ValidationWindows(tuple(windows), tuple(unusable), table if source.is_dir() and table.is_file() else None)


def read_cut(window: ValidationWindow, window_s: float, margin_s: float) -> Cut:
    """The window at the file's own size and rates, with up to ``margin_s`` of sound before and after. Raises MediaError."""
    clip = read_clip(window.path, start_s=window.start_s, duration_s=window_s)
    rate_hz, num = clip.sample_rate_hz, _num_samples(clip)
    before = round(min(margin_s, window.start_s) * rate_hz)
    first_s = max(0.0, window.start_s - before / rate_hz)
    end_s = min(window.recording_s, window.start_s + window_s + margin_s)
    sound = _sound(window.path, rate_hz, first_s, max(end_s - first_s, (before + num) / rate_hz))
    channels = sound[:, before : before + num]
    with_same_sound = replace(clip, audio=channels.mean(axis=0), channels=channels)
    return Cut(window.name, with_same_sound, sound, before)


def read_donor(window: ValidationWindow, like: DecodedClip) -> Donor:
    """``window``, of another recording, at the size and rates of ``like``. Raises MediaError."""
    assert like.frames is not None
    num_frames, height_px, width_px = like.frames.shape[:3]
    shape = ClipShape(num_frames, height_px, width_px, like.fps_hz, like.sample_rate_hz)
    return Donor(window.name, read_clip(window.path, shape, start_s=window.start_s))


def _num_samples(clip: DecodedClip) -> int:
    assert clip.audio is not None
    return len(clip.audio)


def _sound(path: Path, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
    """Sound [C, S] of ``duration_s`` from ``start_s``; only one frame of the picture is decoded."""
    shape = ClipShape(1, ONE_FRAME_PX, ONE_FRAME_PX, 1.0 / duration_s, rate_hz)
    channels = read_clip(path, shape, start_s=start_s).channels
    assert channels is not None
    return channels


def _in_folder(folder: Path) -> list[_Listed | Unusable]:
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [_Listed(path.relative_to(folder).as_posix(), path, "") for path in sorted(paths)]


def _in_csv(table: Path) -> list[_Listed | Unusable]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            return list(_rows(table, csv.reader(stream, strict=True)))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        expected = "a comma-separated table in UTF-8 with columns file,text"
        raise TableError(f"{table}: {error}", expected, "write the CSV again, or give the folder itself") from error


def _rows(table: Path, reader: Iterator[list[str]]) -> Iterator[_Listed | Unusable]:
    names = next(reader, [])
    if "file" not in names or not set(names) <= set(CSV_COLUMNS) or len(set(names)) < len(names):
        found = f"{table}: columns {', '.join(names) or 'none'}"
        raise TableError(found, "file, and if there are texts: text", "make the first line of the CSV: file,text")
    for fields in filter(None, reader):
        if len(fields) != len(names):
            yield Unusable(fields[0], f"{len(fields)} fields where the header has {len(names)}")
            continue
        row = dict(zip(names, fields, strict=True))
        yield _Listed(row["file"], (table.parent / row["file"]).resolve(), row.get("text", "").strip())


def _windows(row: _Listed, window_s: float, known: dict[str, str]) -> list[ValidationWindow] | Unusable:
    """The windows of a file; adds its hash to ``known`` (hash → file)."""
    if not row.file.strip() or not row.path.is_file():
        return Unusable(row.file, "no such file")
    try:
        info = probe(row.path)
    except MediaError as error:
        return Unusable(row.file, f"unreadable: {error.found}")
    if info.video is None or info.audio is None:
        return Unusable(row.file, "no picture" if info.video is None else "no sound")
    sha256 = file_sha256(row.path)
    if sha256 in known:
        return Unusable(row.file, f"the same recording as {known[sha256]}")
    known[sha256] = row.file
    whole_s = min(info.duration_s, info.audio.duration_s)
    starts_s = window_starts_s(whole_s, window_s)
    if not starts_s:
        return Unusable(row.file, f"{whole_s:.3f} s long, shorter than one window of {window_s:g} s")
    offset_s = max(0.0, whole_s - len(starts_s) * window_s) / 2
    return [
        ValidationWindow(f"{row.file}@{start_s:.3f}", row.file, row.path, sha256, row.text, start_s, whole_s)
        for start_s in (round(offset_s + start_s, 3) for start_s in starts_s)
    ]


def _no_recording(source: Path, window_s: float, unusable: Sequence[Unusable]) -> InputError:
    reasons = "".join(f"\n  {row.file}: {row.reason}" for row in unusable)
    return InputError(
        found=f"{source}: no usable recording{reasons}",
        expected=f"video files with sound, at least {window_s:g} s long ({', '.join(sorted(SUFFIXES))})",
        fix="give a folder that holds such files, or a shorter window: --window-s 2",
    )
