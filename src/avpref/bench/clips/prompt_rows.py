"""The prompts of a benchmark: a CSV in JavisBench's published columns, or any CSV with a column ``text``.

Read are ``text``, ``audio_text`` (the prompt of the sound; that of the picture without it), ``path`` or ``file`` (the ground truth),
``audio_path``, ``pred_video_path``, ``pred_audio_path`` and ``cat0_ind`` to ``cat4_ind`` (indices, several separated by commas). Other
columns are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avpref.bench.preset_files import AspectCategories, taxonomy
from avpref.datasets.lists.csv_header import separator_of
from avpref.datasets.lists.csv_records import printable, read_records
from avpref.datasets.lists.csv_text import read_csv_text
from avpref.errors import TableError

TEXT = "text"
PATH_COLUMNS = ("path", "file")
Labels = tuple[int, ...]


@dataclass(frozen=True)
class PromptRow:
    """A prompt: ``row`` counts from 0 in the CSV. ``labels`` are category indices by aspect column; ``fault``: why it is unusable."""

    row: int
    text: str
    sound_text: str
    path: str = ""
    audio_path: str = ""
    predicted_video: str = ""
    predicted_sound: str = ""
    labels: dict[str, Labels] = field(default_factory=dict)
    fault: str = ""

    @property
    def key(self) -> str:
        """The row as a name, as JavisBench names its predictions."""
        return f"sample_{self.row:04d}"


@dataclass(frozen=True)
class PromptList:
    """The prompts of a CSV; ``columns`` are those of the file, ``has_sound_text`` whether sounds have prompts of their own."""

    path: Path
    rows: tuple[PromptRow, ...]
    columns: tuple[str, ...]

    @property
    def has_sound_text(self) -> bool:
        """Whether the prompt of the sound differs from that of the picture anywhere."""
        return any(row.sound_text != row.text for row in self.rows)

    @property
    def aspects(self) -> tuple[AspectCategories, ...]:
        """The aspects of the taxonomy that the list has columns for."""
        return tuple(aspect for aspect in taxonomy() if aspect.column in self.columns)


def read_prompts(path: Path) -> PromptList:
    """The prompts of a CSV, each row kept; a row that cannot be used has a fault.

    Raises InputError where there is no file, TableError where it has no column ``text``.
    """
    text = read_csv_text(path)
    header = separator_of(text, (TEXT, *PATH_COLUMNS, *(aspect.column for aspect in taxonomy())))
    columns = tuple(name.strip() for name in header.columns)
    if TEXT not in columns:
        raise TableError(
            f"{path}: columns {', '.join(columns)}", "a column text, as in JavisBench's list", f"correct {path}"
        )
    rows: list[PromptRow] = []
    for record in read_records(text.text, header.separator):
        if record.line > header.line:
            rows.append(_row(len(rows), columns, record.fields, record.fault))
    if not rows:
        raise TableError(f"{path} has no rows", "a prompt per row", f"correct {path}")
    return PromptList(path, tuple(rows), columns)


def _row(number: int, columns: Sequence[str], fields: Sequence[str], fault: str) -> PromptRow:
    if not fault and len(fields) != len(columns):
        fault = f"{len(fields)} fields where the header has {len(columns)}"
    if fault:
        return PromptRow(number, "", "", fault=f"{fault}: {printable(fields[0])}")
    values = dict(zip(columns, fields, strict=True))
    labels, wrong = _labels(values)
    path = next((values[name] for name in PATH_COLUMNS if values.get(name, "").strip()), "")
    return PromptRow(
        row=number,
        text=values[TEXT],
        sound_text=values.get("audio_text", "").strip() or values[TEXT],
        path=path,
        audio_path=values.get("audio_path", ""),
        predicted_video=values.get("pred_video_path", ""),
        predicted_sound=values.get("pred_audio_path", ""),
        labels=labels,
        fault=wrong,
    )


def _labels(values: dict[str, str]) -> tuple[dict[str, Labels], str]:
    labels: dict[str, Labels] = {}
    for aspect in taxonomy():
        cell = values.get(aspect.column, "").strip().strip("[]")
        if not cell:
            continue
        try:
            indices = tuple(dict.fromkeys(int(float(part)) for part in cell.split(",")))
        except ValueError:
            return {}, f"{aspect.column} = {printable(cell)!r}: no index of a category"
        if any(not 0 <= index < len(aspect.categories) for index in indices):
            return (
                {},
                f"{aspect.column} = {printable(cell)}: {aspect.aspect} has categories 0 to {len(aspect.categories) - 1}",
            )
        labels[aspect.column] = indices
    return labels, ""
