"""Prompts from a CSV of texts, optionally with a recording as ground truth."""

from __future__ import annotations

from pathlib import Path

from avpref.config.data_settings import TextPrompts
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_rows import CsvRow, data_rows
from avpref.datasets.lists.listed_files import ListedRecording, inspect, locate
from avpref.datasets.prompts.clips import RefusedRow
from avpref.datasets.prompts.held_out import held_out
from avpref.domain import Prompt, Split, prompt_id
from avpref.errors import ConfigError, InputError
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules

REQUIRED, OPTIONAL = ("text",), ("file", "taxonomy")


def text_prompts(
    settings: TextPrompts, seed: int, rules: ReadingRules = DEFAULT_READING
) -> tuple[list[Prompt], list[RefusedRow]]:
    """Prompts of the CSV that ``settings.prompts`` names, in its order, and the refused rows.

    A hash of ``seed`` and the text holds out about ``held_out_share`` of them, so a text keeps its split when the list grows (see
    :func:`avpref.datasets.prompts.held_out.held_out`). RefusedRow: an empty text, a text that
    an earlier row has, a ground-truth file that cannot be read or lacks a track. Raises ConfigError where no CSV is named,
    InputError where it is absent or no row can be used, TableError as :func:`avpref.datasets.lists.csv_rows.data_rows`.
    """
    if not settings.prompts:
        raise ConfigError(
            "prompts.prompts is empty", "the path of a CSV with a column text", "--set prompts.prompts=prompts.csv"
        )
    table = Path(settings.prompts)
    usable: dict[str, tuple[CsvRow, ListedRecording | None]] = {}
    lines: dict[str, int] = {}
    refused: list[RefusedRow] = []
    for row in data_rows(table, REQUIRED, OPTIONAL):
        outcome = _checked(table, row, lines, rules)
        if isinstance(outcome, RefusedRow):
            refused.append(outcome)
        else:
            usable[row.get("text")] = row, outcome
            lines[row.get("text")] = row.line
    if not usable:
        first = f" (line {refused[0].line}: {refused[0].reason})" if refused else ""
        raise InputError(f"{table}: no prompt can be used{first}", "at least one row with a text", f"edit {table}")
    kept = set(held_out(usable, settings.held_out_share, seed))
    prompts = [
        _prompt(row, recording, Split.HELD_OUT if text in kept else Split.TRAIN)
        for text, (row, recording) in usable.items()
    ]
    return prompts, refused


def _checked(
    table: Path, row: CsvRow, lines: dict[str, int], rules: ReadingRules
) -> ListedRecording | RefusedRow | None:
    """The row's recording (None if it has none), or the refusal; ``lines`` are the lines of earlier texts."""
    if row.fault:
        return RefusedRow(row.line, row.shown, row.fault)
    file, text = row.get("file"), row.get("text")
    shown = printable(file or text)
    if not text.strip():
        return RefusedRow(row.line, shown, "empty text")
    if text in lines:
        return RefusedRow(row.line, shown, f"the same text as line {lines[text]}")
    if not file.strip():
        return None
    try:
        return inspect(locate(table.parent, file), rules)
    except InputError as error:
        return RefusedRow(row.line, shown, error.found)


def _prompt(row: CsvRow, recording: ListedRecording | None, split: Split) -> Prompt:
    text = row.get("text")
    return Prompt(
        prompt_id=prompt_id(text, "", split),
        text=text,
        split=split,
        taxonomy=row.get("taxonomy"),
        ground_truth_path="" if recording is None else str(recording.path),
        ground_truth_sha256="" if recording is None else recording.sha256,
    )
