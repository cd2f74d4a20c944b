"""Good clips for the validation of scorers: recordings of a folder or of a CSV, split into windows with the sound around them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_rows import data_rows
from avpref.datasets.lists.listed_files import inspect, locate
from avpref.errors import InputError
from avpref.media.geometry import ClipShape, window_starts_s
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules
from avpref.media.sound.downmix import mix
from avpref.rewards.negatives.cuts import Cut, Donor

SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2", ".mkv"),
        *(".mk3d", ".webm", ".avi", ".divx", ".ts", ".m2t", ".m2ts", ".mts", ".mpg"),
        *(".mpeg", ".mpe", ".vob", ".wmv", ".asf", ".flv", ".ogv", ".ogg", ".ogm"),
        *(".mxf", ".gxf", ".dv", ".dif", ".nut", ".rm", ".rmvb", ".wtv", ".amv", ".nsv", ".y4m"),
    }
)
"""Suffixes of recordings: such a file is unusable if it cannot be read. Files with other suffixes are tried too."""
SAMPLE_BYTES = 4096
LIST_NAME = "clips.csv"
OPTIONAL_COLUMNS = ("text", "taxonomy", "group")
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
    rules: ReadingRules = DEFAULT_READING


@dataclass(frozen=True)
class Unusable:
    """A recording or window that could not be used, with the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class ValidationWindows:
    """The windows to validate on, unusable files, and the other files of the folder that were left aside.

    ``unread_list`` is a CSV in the source folder, which was not read.
    """

    windows: tuple[ValidationWindow, ...]
    unusable: tuple[Unusable, ...]
    unread_list: Path | None = None
    left_aside: tuple[Unusable, ...] = ()


@dataclass(frozen=True)
class _Listed:
    file: str
    path: Path
    text: str
    is_recording: bool = True
    """Whether the list, or the suffix, says that the file is a recording."""


def find_windows(source: Path, window_s: float, rules: ReadingRules = DEFAULT_READING) -> ValidationWindows:
    """Windows of ``window_s`` seconds of every recording of ``source``, read by ``rules``.

    ``source`` is a folder (with its subfolders), or a CSV with the column ``file`` and optionally ``text``. Windows do not overlap
    and are centred in their recording, so that it has sound on both sides of them. A file is unusable if it cannot be read,
    lacks a track, is shorter than a window, or has the same bytes as an earlier file. Files of a folder whose suffix is not that of
    a recording are used if they are recordings with both tracks, and left aside otherwise. Raises InputError if ``source`` does not
    exist or has no usable recording, TableError for a CSV that cannot be read or has other columns.
    """
    if not os.path.exists(source):
        raise InputError(f"{source}: no such file or folder", "a folder of recordings, or a CSV", "check the path")
    listed = _in_folder(source) if os.path.isdir(source) else _in_csv(source)
    windows: list[ValidationWindow] = []
    unusable: list[Unusable] = []
    left_aside: list[Unusable] = []
    known: dict[str, str] = {}
    for row in listed:
        outcome = row if isinstance(row, Unusable) else _windows(row, window_s, known, rules)
        if not isinstance(outcome, Unusable):
            windows += outcome
        elif isinstance(row, Unusable) or row.is_recording:
            unusable.append(outcome)
        else:
            left_aside.append(outcome)
    if not windows:
        raise _no_recording(source, window_s, unusable)
    table = source / LIST_NAME
    unread = table if source.is_dir() and table.is_file() else None
    return ValidationWindows(tuple(windows), tuple(unusable), unread, tuple(left_aside))


def read_cut(window: ValidationWindow, window_s: float, margin_s: float) -> Cut:
    """The window at the file's own size and rates, with up to ``margin_s`` of sound before and after. Raises MediaError."""
    clip = read_clip(window.path, start_s=window.start_s, duration_s=window_s, rules=window.rules)
    rate_hz, num = clip.sample_rate_hz, _num_samples(clip)
    before = round(min(margin_s, window.start_s) * rate_hz)
    first_s = max(0.0, window.start_s - before / rate_hz)
    end_s = min(window.recording_s, window.start_s + window_s + margin_s)
    sound = _sound(window, rate_hz, first_s, max(end_s - first_s, (before + num) / rate_hz))
    channels = sound[:, before : before + num]
    with_same_sound = replace(clip, audio=mix(channels, clip.weights), channels=channels)
    return Cut(window.name, with_same_sound, sound, before)


def read_donor(window: ValidationWindow, like: DecodedClip) -> Donor:
    """``window``, of another recording, at the size and rates of ``like``. Raises MediaError."""
    assert like.frames is not None
    num_frames, height_px, width_px = like.frames.shape[:3]
    shape = ClipShape(num_frames, height_px, width_px, like.fps_hz, like.sample_rate_hz)
    clip = read_clip(window.path, shape, start_s=window.start_s, rules=window.rules)
    return Donor(window.name, clip)


def _num_samples(clip: DecodedClip) -> int:
    assert clip.audio is not None
    return len(clip.audio)


def _sound(window: ValidationWindow, rate_hz: int, start_s: float, duration_s: float) -> np.ndarray:
    """Sound [C, S] of ``duration_s`` from ``start_s``; only one frame of the picture is decoded."""
    shape = ClipShape(1, ONE_FRAME_PX, ONE_FRAME_PX, 1.0 / duration_s, rate_hz)
    channels = read_clip(window.path, shape, start_s=start_s, rules=window.rules).channels
    assert channels is not None
    return channels


def _in_folder(folder: Path) -> list[_Listed | Unusable]:
    """Every file below ``folder`` except hidden ones, and the folders that cannot be listed, in the order of their names."""
    rows: list[_Listed | Unusable] = []

    def refuse(error: OSError) -> None:
        rows.append(
            Unusable(_relative(folder, Path(error.filename)), f"a folder that cannot be listed: {error.strerror}")
        )

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith("."):
                is_recording = path.suffix.lower() in SUFFIXES
                rows.append(_Listed(_relative(folder, path), path, "", is_recording))
    return sorted(rows, key=lambda row: row.file)


def _is_text(path: Path) -> bool:
    """Whether the beginning of ``path`` has no zero byte: it is no recording, but may be a playlist that names other files."""
    try:
        with open(path, "rb") as stream:
            return b"\0" not in stream.read(SAMPLE_BYTES)
    except OSError:
        return False


def _relative(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _in_csv(table: Path) -> Iterator[_Listed | Unusable]:
    for row in data_rows(table, ("file",), OPTIONAL_COLUMNS):
        if row.fault:
            yield Unusable(f"line {row.line}: {row.shown}", row.fault)
            continue
        file = row.get("file")
        try:
            yield _Listed(file, locate(table.parent, file), row.get("text").strip())
        except InputError as error:
            yield Unusable(f"line {row.line}: {printable(file)}", error.found)


def _windows(
    row: _Listed, window_s: float, known: dict[str, str], rules: ReadingRules
) -> list[ValidationWindow] | Unusable:
    """The windows of a file; adds its hash to ``known`` (hash → file)."""
    try:
        path = locate(row.path.parent, row.path.name)
        if not row.is_recording and _is_text(path):
            return Unusable(row.file, "a text file")
        listed = inspect(path, rules)
    except InputError as error:
        return Unusable(row.file, error.found)
    if listed.sha256 in known:
        return Unusable(row.file, f"the same recording as {known[listed.sha256]}")
    known[listed.sha256] = row.file
    whole_s = listed.duration_s - listed.sound_start_s
    starts_s = window_starts_s(whole_s, window_s)
    if not starts_s:
        return Unusable(row.file, f"{whole_s:.3f} s long, shorter than one window of {window_s:g} s")
    offset_s = listed.sound_start_s + max(0.0, whole_s - len(starts_s) * window_s) / 2
    return [
        ValidationWindow(
            f"{row.file}@{start_s:.3f}",
            row.file,
            row.path,
            listed.sha256,
            row.text,
            start_s,
            listed.duration_s,
            rules,
        )
        for start_s in (round(offset_s + start_s, 3) for start_s in starts_s)
    ]


def _no_recording(source: Path, window_s: float, unusable: Sequence[Unusable]) -> InputError:
    reasons = "".join(f"\n  {row.file}: {row.reason}" for row in unusable)
    return InputError(
        found=f"{source}: no usable recording{reasons}",
        expected=f"video files with sound, at least {window_s:g} s long ({', '.join(sorted(SUFFIXES))})",
        fix="give a folder that holds such files, or a shorter window: --window-s 2",
    )
