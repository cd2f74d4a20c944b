"""Prompts from a CSV of texts, optionally with a recording as ground truth."""

from __future__ import annotations

from pathlib import Path

from avpref.config.data_settings import TextPrompts
from avpref.datasets.csv_rows import CsvRow, data_rows
from avpref.datasets.prompts.clips import RefusedRow
from avpref.datasets.prompts.held_out import held_out
from avpref.domain import Prompt, Split, prompt_id
from avpref.errors import ConfigError, InputError, MediaError
from avpref.identity import file_sha256
from avpref.media.reading import probe

REQUIRED, OPTIONAL = ("text",), ("file", "taxonomy")


def text_prompts(settings: TextPrompts, seed: int) -> tuple[list[Prompt], list[RefusedRow]]:
    """Prompts of the CSV that ``settings.prompts`` names, in its order, and the refused rows.

    A hash of ``seed`` and the text holds out about ``held_out_share`` of them, so a text keeps its split when the list grows (see
    :func:`avpref.datasets.prompts.held_out.held_out`). RefusedRow: an empty text, a text that
    an earlier row has, a ground-truth file that cannot be read or lacks a track. Raises ConfigError where no CSV is named,
    InputError where it is absent or no row can be used, TableError as :func:`avpref.datasets.csv_rows.data_rows`.
    """
    if not settings.prompts:
        raise ConfigError(
            "prompts.prompts is empty", "the path of a CSV with a column text", "--set prompts.prompts=prompts.csv"
        )
    table = Path(settings.prompts)
    usable: dict[str, tuple[CsvRow, str]] = {}
    refused: list[RefusedRow] = []
    for row in data_rows(table, REQUIRED, OPTIONAL):
        outcome = _checked(table, row, {text: earlier.line for text, (earlier, _) in usable.items()})
        if isinstance(outcome, RefusedRow):
            refused.append(outcome)
        else:
            usable[row.get("text")] = row, outcome
    if not usable:
        first = f" (line {refused[0].line}: {refused[0].reason})" if refused else ""
        raise InputError(f"{table}: no prompt can be used{first}", "at least one row with a text", f"edit {table}")
    kept = set(held_out(usable, settings.held_out_share, seed))
    prompts = [
        _prompt(table, row, sha256, Split.HELD_OUT if text in kept else Split.TRAIN)
        for text, (row, sha256) in usable.items()
    ]
    return prompts, refused


def _checked(table: Path, row: CsvRow, lines: dict[str, int]) -> str | RefusedRow:
    """SHA-256 of the row's recording (empty if it has none), or the refusal."""
    file, text = row.get("file"), row.get("text")
    shown = file or text[:40]
    if len(row.fields) != len(row.columns):
        return RefusedRow(
            row.line, row.fields[0][:40], f"{len(row.fields)} fields where the header has {len(row.columns)}"
        )
    if not text.strip():
        return RefusedRow(row.line, shown, "empty text")
    if text in lines:
        return RefusedRow(row.line, shown, f"the same text as line {lines[text]}")
    if not file.strip():
        return ""
    path = _recording(table, row)
    if not path.is_file():
        return RefusedRow(row.line, shown, "no such file")
    try:
        info = probe(path)
    except MediaError as error:
        return RefusedRow(row.line, shown, f"unreadable: {error.found}")
    if info.video is None or info.audio is None:
        return RefusedRow(row.line, shown, "no picture" if info.video is None else "no sound")
    return file_sha256(path)


def _recording(table: Path, row: CsvRow) -> Path:
    return (table.parent / row.get("file")).resolve()


def _prompt(table: Path, row: CsvRow, sha256: str, split: Split) -> Prompt:
    text = row.get("text")
    return Prompt(
        prompt_id=prompt_id(text, "", split),
        text=text,
        split=split,
        taxonomy=row.get("taxonomy"),
        ground_truth_path=str(_recording(table, row)) if sha256 else "",
        ground_truth_sha256=sha256,
    )
