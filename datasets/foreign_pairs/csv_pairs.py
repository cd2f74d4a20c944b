"""Pairs in a CSV: two files, a text, and optionally two scores, of which the chosen clip's is the larger."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from avpref.datasets.foreign_pairs.clip_bytes import ClipPlace
from avpref.datasets.foreign_pairs.listed_pairs import ListedPair, Refuse
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_rows import CsvRow, data_rows
from avpref.datasets.lists.listed_files import locate
from avpref.datasets.metric_tables import SIDES
from avpref.domain import ALL_DIMENSIONS
from avpref.errors import InputError

REQUIRED = (*SIDES, "text")
SCORES = tuple(f"{side}_score" for side in SIDES)
OPTIONAL = (*SCORES, "dimension", "taxonomy", "pair_id")


def csv_pairs(path: Path, refuse: Refuse) -> Iterator[ListedPair]:
    """The pairs of a CSV; files are relative to its folder. Files are found and not opened.

    Refused: faults of :class:`avpref.datasets.lists.csv_rows.CsvRow`, a file that is absent, a score that is no number, and scores
    that do not prefer the chosen clip. Raises as :func:`avpref.datasets.lists.csv_rows.data_rows`.
    """
    for row in data_rows(path, REQUIRED, OPTIONAL):
        if row.fault:
            refuse(row.line, row.shown, row.fault)
            continue
        try:
            yield _pair(path, row)
        except InputError as error:
            refuse(row.line, printable(f"{row.get('chosen')} > {row.get('rejected')}"), error.found)


def _pair(path: Path, row: CsvRow) -> ListedPair:
    """Raises InputError, with the reason as ``found``, for a row that cannot be used."""
    places = []
    for side in SIDES:
        try:
            places.append(ClipPlace(str(locate(path.parent, row.get(side)))))
        except InputError as error:
            raise InputError(f"{side}: {error.found}", error.expected, error.fix) from error
    return ListedPair(
        line=row.line,
        text=row.get("text"),
        chosen=places[0],
        rejected=places[1],
        dimension=row.get("dimension").strip() or ALL_DIMENSIONS,
        taxonomy=row.get("taxonomy"),
        foreign_id=row.get("pair_id"),
        scores=_scores(row),
    )


def _scores(row: CsvRow) -> str:
    """The row's scores as JSON. Raises InputError for a value that is no finite number, one score, or scores of another order."""
    values = {name: row.get(name).strip() for name in SCORES}
    if not any(values.values()):
        return "{}"
    numbers = {}
    for name, text in values.items():
        try:
            numbers[name] = float(text)
        except ValueError:
            numbers[name] = math.nan
        if not math.isfinite(numbers[name]):
            raise InputError(f"{name} is {text!r}", "a finite number", "correct the row")
    chosen, rejected = (numbers[name] for name in SCORES)
    if chosen <= rejected:
        found = f"the chosen clip's score {chosen:g} is not above the rejected clip's {rejected:g}"
        raise InputError(found, "scores of which a larger one is better", "exchange the files, or remove the scores")
    return json.dumps(numbers)
