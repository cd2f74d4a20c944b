"""The work of ``avpref prompts cut``: a long recording becomes one file per shot and a CSV that ``prompts import`` reads."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.datasets.lists.csv_rows import data_rows
from avpref.errors import ConfigError, TableError
from avpref.media.shots import Piece, Stretch, pieces
from avpref.media.writing import encode_clip
from avpref.storage.local_files import replace

LIST_FILE = "clips.csv"
COLUMNS = ("file", "text", "group")


@dataclass(frozen=True)
class CutSettings:
    """How a recording is cut: the part of it, the height of the pictures, the longest piece, the least length of a scene."""

    stretch: Stretch
    height_px: int = 180
    max_piece_s: float = 20.0
    scene_s: float = 30.0


@dataclass(frozen=True)
class TimedText:
    """A text that holds from ``start_s`` seconds of the recording until the next one."""

    start_s: float
    text: str


def cut_settings(from_s: float, until_s: float | None, height_px: int, scene_s: float) -> CutSettings:
    """The settings of a cut of the part from ``from_s`` to ``until_s`` seconds (None: to the end)."""
    return CutSettings(Stretch(from_s, until_s), height_px, scene_s=scene_s)


def cut(recording: Path, out: Path, texts: Sequence[TimedText], settings: CutSettings) -> dict[str, Any]:
    """Write the pieces of ``recording`` and their list into folder ``out``; returns counts and the path of the list.

    Equal input gives equal files. The list is written last, so a folder with a list is complete. Raises MediaError where the
    recording cannot be decoded, StorageError where the folder cannot be written.
    """
    rows = []
    for number, (scene, piece) in enumerate(_with_scenes(recording, settings)):
        file = f"piece{number:04d}.mp4"
        replace(out / file, encode_clip(piece.frames, piece.fps_hz, piece.audio, piece.sample_rate_hz))
        rows.append((file, _text_at(texts, piece.start_s), f"scene{scene:03d}"))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    replace(out / LIST_FILE, buffer.getvalue().encode())
    return {
        "clips": str(out / LIST_FILE),
        "pieces": len(rows),
        "scenes": len({scene for _, _, scene in rows}),
        "texts": len({text for _, text, _ in rows}),
    }


def read_texts(path: Path) -> list[TimedText]:
    """The texts in a CSV with columns ``start_s,text``, in order of time. Raises TableError for a time that is no number."""
    texts = []
    for row in data_rows(path, ("start_s", "text"), ()):
        try:
            if row.fault:
                raise ValueError(row.fault)
            start_s, text = row.fields
            texts.append(TimedText(float(start_s), text.strip()))
        except ValueError as error:
            found = f"{path}: line {row.line} is {','.join(row.fields)!r}"
            raise TableError(found, "two fields: a time in seconds and a text", "correct the line") from error
    if not texts:
        raise TableError(
            f"{path}: no rows", "at least one line with a time and a text", "add a line such as: 0,a street"
        )
    return sorted(texts, key=lambda text: text.start_s)


def texts_of(text: str, texts: Path | None) -> list[TimedText]:
    """The texts of ``--text`` or ``--texts``. Raises ConfigError unless exactly one of the two is there."""
    if bool(text.strip()) == (texts is not None):
        found = "both --text and --texts" if text.strip() else "neither --text nor --texts"
        raise ConfigError(found, "a text for the whole recording, or a CSV of texts", "--text 'a street at night'")
    return [TimedText(0.0, text.strip())] if texts is None else read_texts(texts)


def _with_scenes(recording: Path, settings: CutSettings) -> Iterator[tuple[int, Piece]]:
    """The pieces with the number of their scene: a scene is whole shots, and ends at the first cut after ``scene_s`` seconds."""
    scene, scene_start_s = 0, None
    parts = pieces(recording, settings.stretch, settings.height_px, settings.max_piece_s)
    for _, shot in itertools.groupby(parts, key=lambda piece: piece.shot):
        for number, piece in enumerate(shot):
            if scene_start_s is None:
                scene_start_s = piece.start_s
            elif number == 0 and piece.start_s - scene_start_s >= settings.scene_s:
                scene, scene_start_s = scene + 1, piece.start_s
            yield scene, piece


def _text_at(texts: Sequence[TimedText], start_s: float) -> str:
    """The last text that begins at or before ``start_s``; the first one before all."""
    return next((text.text for text in reversed(texts) if text.start_s <= start_s), texts[0].text)
