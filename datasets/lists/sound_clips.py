"""Windows of recordings with sound for the training of the audio branch: a CSV of files and texts, pictures not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.datasets.lists.listed_files import inspect_clip
from avpref.datasets.prompts.clips import RefusedRow, read_rows
from avpref.errors import InputError
from avpref.identity import derive_seed, digest
from avpref.media.geometry import ClipShape, window_starts_s
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules


@dataclass(frozen=True)
class SoundItem:
    """One window of a recording's sound: ``start_s`` seconds from the beginning of ``path``, of the length of a run's shape."""

    item_id: str
    path: str
    sha256: str
    start_s: float
    text: str
    shape: ClipShape


def read_sound_clips(
    table: Path, shapes: Sequence[ClipShape], seed: int, rules: ReadingRules = DEFAULT_READING
) -> tuple[list[SoundItem], list[RefusedRow]]:
    """The windows of the recordings that ``table`` (columns ``file,text``) lists, and the rows that give none.

    The windows of a recording have one length: of a shape that fits, drawn from a hash of ``seed`` and the recording's bytes. Raises
    InputError where the table cannot be read.
    """
    items: list[SoundItem] = []
    refused: list[RefusedRow] = []
    for row in read_rows(table):
        outcome = (
            row
            if isinstance(row, RefusedRow)
            else _windows(row.line, row.file, row.path, row.text, shapes, seed, rules)
        )
        if isinstance(outcome, RefusedRow):
            refused.append(outcome)
        else:
            items += outcome
    return list({item.item_id: item for item in items}.values()), refused


def _windows(
    line: int, file: str, path: Path, text: str, shapes: Sequence[ClipShape], seed: int, rules: ReadingRules
) -> list[SoundItem] | RefusedRow:
    try:
        info, sha256 = inspect_clip(path, rules)
    except InputError as error:
        return RefusedRow(line, file, error.found)
    if not text.strip():
        return RefusedRow(line, file, "empty text")
    if info.audio is None:
        return RefusedRow(line, file, "no sound")
    length_s = info.audio.duration_s
    fitting = [shape for shape in shapes if window_starts_s(length_s, shape.duration_s)]
    if not fitting:
        return RefusedRow(line, file, f"{length_s:.3f} s of sound, shorter than every clip of the run")
    shape = fitting[derive_seed("sound shape", seed, sha256) % len(fitting)]
    return [
        SoundItem(
            "a" + digest("sound", sha256, start_s, text, shape.num_frames), str(path), sha256, start_s, text, shape
        )
        for start_s in window_starts_s(length_s, shape.duration_s)
    ]
