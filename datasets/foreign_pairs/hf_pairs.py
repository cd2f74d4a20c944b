"""Pairs in the layout of Hugging Face's ``datasets``: Parquet shards with the clips, or a list of files (``metadata.jsonl``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets.foreign_pairs.clip_bytes import ClipPlace, is_clip_column
from avpref.datasets.foreign_pairs.listed_pairs import ListedPair, Refuse
from avpref.datasets.foreign_pairs.pair_layout import FILE_NAME, REQUIRED_COLUMNS, SPLIT
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.metric_tables import SIDES
from avpref.domain import ALL_DIMENSIONS
from avpref.errors import InputError, TableError

LIST_NAME = "metadata.jsonl"
FIX = "export the pairs again, or list them in a CSV with columns chosen,rejected,text"
NUMBERS = ("margins", *(f"{side}_scores" for side in SIDES))


def pair_files(folder: Path) -> list[Path]:
    """The Parquet shards of ``folder``, or else its lists of files, by name; of several splits those of ``train`` alone.

    Raises InputError where there is none.
    """
    parquet = sorted(path for path in folder.rglob("*.parquet") if path.name != "metadata.parquet")
    files = parquet or sorted(folder.rglob(LIST_NAME))
    if not files:
        expected = f"Parquet files with columns {', '.join(REQUIRED_COLUMNS)}, or {LIST_NAME} beside clips"
        raise InputError(f"{folder} holds no pairs", expected, FIX)
    names = {path: path.relative_to(folder).as_posix() for path in files}
    return [path for path in files if SPLIT in names[path]] or files


def hf_pairs(folder: Path, refuse: Refuse) -> Iterator[ListedPair]:
    """The pairs in ``folder``; clips are found and not opened. ``line`` counts rows over all files, in the order of their names.

    Refused: a row without a clip, with a file outside of ``folder``, or with ``label`` 0. Raises InputError where there are
    no pairs, TableError for a file that cannot be read or lacks a column.
    """
    line = 0
    for path in pair_files(folder):
        rows = _parquet_rows(folder, path) if path.suffix == ".parquet" else _listed_rows(folder, path)
        for document, places in rows:
            line += 1
            try:
                yield _pair(line, document, places)
            except InputError as error:
                refuse(line, printable(str(document.get("pair_id") or f"row {line}")), error.found)


Places = Mapping[str, ClipPlace | str]
"""The clip of each side, or the reason why there is none."""


def _pair(line: int, document: Mapping[str, Any], places: Places) -> ListedPair:
    clips = []
    for side in SIDES:
        place = places[side]
        if isinstance(place, str):
            raise InputError(f"{side}: {place}", "a clip", FIX)
        clips.append(place)
    if document.get("label") == 0:
        raise InputError("label is 0: the clip in 'chosen' is not preferred", "label 1", "exchange the clips")
    facts = [document.get(f"{side}_clip") or {} for side in SIDES]
    return ListedPair(
        line=line,
        text=str(document.get("prompt") or ""),
        chosen=clips[0],
        rejected=clips[1],
        dimension=str(document.get("dimension") or ALL_DIMENSIONS),
        taxonomy=str(document.get("taxonomy") or ""),
        foreign_id=str(document.get("pair_id") or ""),
        sha256=(str(facts[0].get("sha256") or ""), str(facts[1].get("sha256") or "")),
        scores=json.dumps({name: document[name] for name in NUMBERS if document.get(name)}, sort_keys=True),
    )


def _parquet_rows(folder: Path, path: Path) -> Iterator[tuple[Mapping[str, Any], Places]]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _require_columns(path, schema)
            others = [name for name in schema.names if name not in SIDES]
            name, row = path.relative_to(folder).as_posix(), 0
            for batch in file.iter_batches(1024, columns=others):
                for document in batch.to_pylist():
                    yield document, {side: ClipPlace(name, row, side) for side in SIDES}
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: {error}", "a readable Parquet file", FIX) from error


def _require_columns(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if missing:
        found = f"{path} has no column {', '.join(missing)}, but {', '.join(schema.names)}"
        raise TableError(found, f"columns {', '.join(REQUIRED_COLUMNS)}", FIX)
    for side in SIDES:
        kind = schema.field(side).type
        if not is_clip_column(kind):
            raise TableError(f"{path}: column {side} is {kind}", "the bytes of clips", FIX)


def _listed_rows(folder: Path, path: Path) -> Iterator[tuple[Mapping[str, Any], Places]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    document = _document(path, number, line)
                    yield document, {side: _place(folder, path, document.get(side + FILE_NAME)) for side in SIDES}
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: {error}", "a JSON object in every line", FIX) from error


def _document(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise TableError(f"{path}: line {number}: {error}", "a JSON object in every line", FIX) from error
    if not isinstance(document, dict):
        raise TableError(f"{path}: line {number} is no object", "a JSON object in every line", FIX)
    return document


def _place(folder: Path, path: Path, name: object) -> ClipPlace | str:
    """The file ``name`` beside ``path``, or the reason why it is not used."""
    if not isinstance(name, str) or not name.strip():
        return "no file named"
    file = (path.parent / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        return f"{printable(name)}: a file outside of the folder of the pairs"
    return ClipPlace(file.relative_to(folder.resolve()).as_posix()) if file.is_file() else f"no file {printable(name)}"
