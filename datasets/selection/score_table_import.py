"""Import of scores: one file of candidates and numbers becomes the tables that pairs are selected from.

Either one row per number (columns ``candidate_id, prompt_id, metric, value``) or one row per candidate (``candidate_id,
prompt_id`` and one column per metric). ``origin, index, height_px, width_px`` and ``num_frames`` or ``duration_s`` are
optional. An empty cell is a missing score; its candidate is left out of all pairs, with that reason. A row with a value that cannot be
used is refused (:mod:`avpref.datasets.selection.score_rows`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.lists.csv_header import rename_command
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.selection.score_rows import (
    MAX_INDEX,
    MAX_SIZE,
    RefusedScore,
    ScoreRows,
    durations,
    one_of,
    read_score_rows,
    refuse_doubled,
    require_rows,
    scores,
    texts,
    whole_numbers,
)
from avpref.datasets.tables import CANDIDATES, SCORES, conform
from avpref.domain import METRIC_BY_NAME, Metric, Origin, ScoreStatus
from avpref.errors import TableError
from avpref.identity import file_sha256

IDS = ("candidate_id", "prompt_id")
LONG = ("metric", "value")
SIZES = ("height_px", "width_px", "num_frames", "duration_s")
OPTIONAL = ("origin", "index", *SIZES)
MS_PER_S = 1000

Constants = Mapping[str, str | int | float | bool]

NEUTRAL: Constants = {
    **{"origin": str(Origin.GENERATED), "index": 0, "height_px": 1, "width_px": 1, "num_frames": 1, "duration_s": 0.0},
    **{"seed": 0, "fps_hz": 0.0, "sample_rate_hz": 0},
    **{"elapsed_s": 0.0},
    **dict.fromkeys(
        ("checkpoint_hash", "sampler_hash", "path", "sha256", "adapter_hash", "sampler", "latents_path"), ""
    ),
}
"""Column values of imported candidates where the file lacks the column."""


@dataclass(frozen=True)
class ScoreFile:
    """Tables ``candidates`` and ``scores`` of a file, the names of its unused columns, and its refused rows."""

    candidates: pa.Table
    scores: pa.Table
    unused: tuple[str, ...]
    refused: tuple[RefusedScore, ...] = ()


def read_scores(path: Path, metrics: Sequence[Metric], settings: PairSettings) -> ScoreFile:
    """Read ``path``; see the module.

    Refused rows: no candidate or prompt, a cell that is no number, a number beyond its type, an unknown metric or origin, a candidate
    or score that another row has too, rows of a candidate that disagree. Raises TableError for missing columns or metrics (all of
    them at once), no usable row, and sizes that ``settings`` need and the file lacks; InputError for no file.
    """
    rows = read_score_rows(path, (*IDS, *LONG, *METRIC_BY_NAME))
    is_long = any(name in rows.table.column_names for name in LONG)
    _require(rows, (*IDS, *LONG) if is_long else IDS)
    if rows.csv is None or not rows.csv.refused:
        require_rows(rows)
    for name in IDS:
        rows.table = _with(rows.table, name, texts(rows, name))
    others = [name for name in rows.table.column_names if name not in (*IDS, *LONG, *OPTIONAL)]
    names = _metric_names(rows, metrics) if is_long else others
    _require_metrics(path, names, metrics)
    _require_sizes(rows, settings)
    columns = _optional_columns(rows)
    values = _long_numbers(rows) if is_long else _wide_numbers(rows, metrics)
    _refuse_disagreeing(rows, columns)
    require_rows(rows)
    known = {*IDS, *OPTIONAL, *(LONG if is_long else METRIC_BY_NAME), *(metric.name for metric in metrics)}
    unused = tuple(name for name in rows.table.column_names if name not in known)
    numbers_of = pa.concat_tables([rows.kept(part) for part in values]).filter(pc.field("value").is_valid())
    return ScoreFile(_candidates(rows.kept(columns)), _scores(path, numbers_of), unused, tuple(rows.refused()))


def _require(rows: ScoreRows, names: Sequence[str]) -> None:
    """Raises TableError for missing columns, with the command that renames them where similar ones are there."""
    columns = rows.table.column_names
    missing = [name for name in names if name not in columns]
    if not missing:
        return
    near = {match: name for name in missing for match in _near(name, columns)}
    hints = "".join(f"; is {match!r} meant to be {name}?" for match, name in near.items())
    fix = f"add the column(s) to {rows.path.name}"
    if rows.csv is not None and len(near) == len(missing):
        fix = rename_command(rows.csv.text, rows.csv.header, [near.get(column, column) for column in columns])
    raise TableError(
        f"{rows.path} lacks column(s) {', '.join(missing)}; it has {', '.join(columns)}{hints}",
        "candidate_id, prompt_id and either metric, value or one column per metric",
        fix,
    )


def _near(name: str, columns: Sequence[str]) -> list[str]:
    plain = {column.strip().lower().replace(" ", "_"): column for column in columns}
    return [plain[match] for match in difflib.get_close_matches(name, plain, n=1)]


def _require_metrics(path: Path, names: Sequence[str], metrics: Sequence[Metric]) -> None:
    """``names``: the metrics of the file. Raises TableError naming every missing metric."""
    missing = [metric.name for metric in metrics if metric.name not in names]
    if not missing:
        return
    odd = [name for name in names if name not in METRIC_BY_NAME]
    near = [(name, match) for name in missing for match in difflib.get_close_matches(name, odd, n=1)]
    hints = "".join(f"; is {match} meant to be {name}?" for name, match in near)
    present = [metric.name for metric in metrics if metric.name in names]
    raise TableError(
        f"{path} lacks metric(s) {', '.join(missing)}; found {', '.join(names) or 'none'}{hints}",
        f"the metrics {', '.join(metric.name for metric in metrics)}",
        f"add them to {path.name}, or do without: --set 'scoring.metrics=[{', '.join(present)}]'",
    )


def _metric_names(rows: ScoreRows, metrics: Sequence[Metric]) -> list[str]:
    """The metrics of a file with one row per number; rows with one that is neither configured nor of the paper are refused."""
    column = texts(rows, "metric")
    rows.table = _with(rows.table, "metric", column)
    names = sorted(set(pc.unique(column).to_pylist()) - {""})
    known = list(dict.fromkeys([*METRIC_BY_NAME, *(metric.name for metric in metrics)]))
    unknown = {name: difflib.get_close_matches(name, known, n=1) for name in names if name not in known}
    if unknown:
        for row, name in enumerate(column.to_pylist()):
            if name in unknown:
                hint = f" (did you mean {unknown[name][0]}?)" if unknown[name] else ""
                rows.refuse(row, f"has unknown metric {printable(name)!r}{hint}")
        require_rows(rows)
    return names


def _wide_numbers(rows: ScoreRows, metrics: Sequence[Metric]) -> list[pa.Table]:
    """For every metric a table candidate_id, metric, value with the rows of the file."""
    ids = rows.table["candidate_id"]
    refuse_doubled(rows, ids, "the candidate of")
    return [_part(ids, metric.name, scores(rows, metric.name)) for metric in metrics]


def _part(ids: pa.ChunkedArray, metric: str, values: pa.ChunkedArray) -> pa.Table:
    names = pa.array([metric] * len(ids), pa.string())
    return pa.table({"candidate_id": ids, "metric": names, "value": values})


def _long_numbers(rows: ScoreRows) -> list[pa.Table]:
    """The table candidate_id, metric, value with the rows of the file."""
    ids, metric = rows.table["candidate_id"], rows.table["metric"]
    values = scores(rows, "value")
    refuse_doubled(rows, pc.binary_join_element_wise(ids, metric, " "), "as has")
    return [pa.table({"candidate_id": ids, "metric": metric, "value": values})]


def _scores(path: Path, values: pa.Table) -> pa.Table:
    rest: Constants = {
        "status": str(ScoreStatus.OK),
        "reason": "",
        "scorer": "file",
        "fingerprint": file_sha256(path)[:16],
        "elapsed_ms": 0.0,
        "gpu_s": 0.0,
        "licence": "",
        "commercial_use": False,
        "is_meaningful": True,
    }
    return conform(SCORES, _filled(values, rest))


def _optional_columns(rows: ScoreRows) -> pa.Table:
    """The ids and the optional columns as numbers; rows with an origin, index or size that cannot be are refused."""
    columns = rows.table.select([name for name in (*IDS, *OPTIONAL) if name in rows.table.column_names])
    for name in columns.column_names:
        if name == "duration_s":
            columns = _with(columns, name, durations(rows, name, MS_PER_S))
        elif name in SIZES:
            columns = _with(columns, name, whole_numbers(rows, name, 1, MAX_SIZE, f"no usable {name}, a whole number"))
        elif name == "index":
            columns = _with(columns, name, whole_numbers(rows, name, -MAX_INDEX, MAX_INDEX, "no whole index"))
        elif name == "origin":
            columns = _with(columns, name, one_of(rows, name, [str(origin) for origin in Origin]))
    return columns


def _refuse_disagreeing(rows: ScoreRows, columns: pa.Table) -> None:
    """Refuse all rows of a candidate whose rows have different prompts, origins, indices or sizes."""
    kept = rows.kept(columns.append_column("row", pa.array(range(columns.num_rows))))
    plain = kept.select(columns.column_names)
    if plain.group_by(plain.column_names).aggregate([]).num_rows == len(pc.unique(plain["candidate_id"])):
        return
    distinct = kept.group_by(columns.column_names).aggregate([("row", "list")])
    counts = pc.value_counts(distinct["candidate_id"].combine_chunks())
    doubled = set(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())
    for candidate, members in zip(*(distinct[name].to_pylist() for name in ("candidate_id", "row_list")), strict=True):
        for row in members if candidate in doubled else ():
            rows.refuse(
                row, f"has candidate {printable(candidate)}, whose rows disagree in prompt, origin, index or size"
            )


def _candidates(columns: pa.Table) -> pa.Table:
    """One row per candidate. Missing columns that no setting needs get the values of :data:`NEUTRAL`."""
    distinct = columns.group_by(columns.column_names).aggregate([]).sort_by([(name, "ascending") for name in IDS[::-1]])
    if "num_frames" not in distinct.column_names and "duration_s" in distinct.column_names:
        # Only ratios of lengths are used, so milliseconds can replace frames.
        frames = pc.round(pc.multiply(distinct["duration_s"], MS_PER_S)).cast(pa.int64())
        distinct = distinct.append_column("num_frames", frames)
    return conform(CANDIDATES, _filled(distinct, NEUTRAL))


def _require_sizes(rows: ScoreRows, settings: PairSettings) -> None:
    plain = PairSettings()
    is_shaped = (settings.min_aspect_ratio, settings.max_aspect_ratio) != (
        plain.min_aspect_ratio,
        plain.max_aspect_ratio,
    )
    if is_shaped:
        _require(rows, ("height_px", "width_px"))
    has_length = {"num_frames", "duration_s"} & set(rows.table.column_names)
    if settings.max_length_ratio != plain.max_length_ratio and not has_length:
        _require(rows, ("num_frames",))


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _filled(table: pa.Table, values: Constants) -> pa.Table:
    """``table`` with a constant column for every one of ``values`` that it lacks."""
    for name, value in values.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows))
    return table
