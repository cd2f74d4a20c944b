"""Import of scores: one file of candidates and numbers becomes the tables that pairs are selected from.

Either one row per number (columns ``candidate_id, prompt_id, metric, value``) or one row per candidate (``candidate_id,
prompt_id`` and one column per metric). ``origin, index, height_px, width_px`` and ``num_frames`` or ``duration_s`` are
optional. An empty cell is a missing score; its candidate is left out of all pairs, with that reason.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.table_files import read_table
from avpref.datasets.tables import CANDIDATES, SCORES, conform
from avpref.domain import METRIC_BY_NAME, Metric, Origin, ScoreStatus
from avpref.errors import TableError
from avpref.identity import file_sha256

IDS = ("candidate_id", "prompt_id")
LONG = ("metric", "value")
SIZES = ("height_px", "width_px", "num_frames", "duration_s")
OPTIONAL = ("origin", "index", *SIZES)
EMPTY = pa.array(["", "na", "n/a", "null", "none"])
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
    """Tables ``candidates`` and ``scores`` of a file, and the names of its unused columns."""

    candidates: pa.Table
    scores: pa.Table
    unused: tuple[str, ...]


def read_scores(path: Path, metrics: Sequence[Metric], settings: PairSettings) -> ScoreFile:
    """Read ``path``; see the module.

    Raises TableError for missing columns or metrics (all of them at once), unknown metrics, no rows, doubled candidates or
    numbers, cells that are no numbers, and sizes that ``settings`` need and the file lacks; InputError for no file.
    """
    table = read_table(path)
    is_long = any(name in table.column_names for name in LONG)
    _require(path, table, (*IDS, *LONG) if is_long else IDS)
    if not table.num_rows:
        raise TableError(f"{path} has a header and no rows", "at least two candidates of a prompt", "export it again")
    for name in IDS:
        table = _with(table, name, _ids(path, table, name))
    others = [name for name in table.column_names if name not in (*IDS, *LONG, *OPTIONAL)]
    _require_metrics(path, _metric_names(path, table, metrics) if is_long else others, metrics)
    numbers = _long_numbers(path, table) if is_long else _wide_numbers(path, table, metrics)
    known = {*IDS, *OPTIONAL, *(LONG if is_long else METRIC_BY_NAME), *(metric.name for metric in metrics)}
    unused = tuple(name for name in table.column_names if name not in known)
    return ScoreFile(_candidates(path, table, settings), _scores(path, numbers), unused)


def _require(path: Path, table: pa.Table, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise TableError(
            f"{path} lacks column(s) {', '.join(missing)}; it has {', '.join(table.column_names)}",
            "candidate_id, prompt_id and either metric, value or one column per metric",
            f"add the column(s) to {path.name}",
        )


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


def _ids(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table[name].cast(pa.string())
    empty = pc.or_kleene(pc.is_null(column), pc.equal(pc.utf8_trim_whitespace(column), ""))
    if pc.any(empty).as_py():
        raise TableError(f"{path}: {_row(empty)} has no {name}", f"a {name} in every row", f"edit {path.name}")
    return column


def _row(mask: pa.ChunkedArray) -> str:
    """The first row where ``mask`` is true, counted from 1 under the header."""
    return f"row {pc.index(mask, pa.scalar(True)).as_py() + 1}"


def _numbers(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column as float64; empty cells are null, NaN and infinities stay. Raises TableError naming the first bad row."""
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        is_empty = pc.is_in(pc.utf8_lower(text), value_set=EMPTY)
        column = pc.if_else(is_empty, pa.scalar(None, pa.string()), text)
    try:
        return column.cast(pa.float64())
    except pa.ArrowException:
        raise _not_a_number(path, name, column) from None


def _not_a_number(path: Path, name: str, column: pa.ChunkedArray) -> TableError:
    expected, fix = "a number, or an empty cell", f"edit {path.name}"
    for row, value in enumerate(column.to_pylist(), 1):
        try:
            float(value or 0)
        except (TypeError, ValueError):
            return TableError(f"{path}: row {row} has {name} {value!r}", expected, fix)
    return TableError(f"{path}: {name} is of type {column.type}", expected, fix)


def _wide_numbers(path: Path, table: pa.Table, metrics: Sequence[Metric]) -> pa.Table:
    """One row per number: candidate_id, metric, value."""
    ids = table["candidate_id"]
    _refuse_doubled(path, ids, "candidates")
    parts = [_part(ids, metric.name, _numbers(path, table, metric.name)) for metric in metrics]
    return pa.concat_tables(parts).filter(pc.field("value").is_valid())


def _part(ids: pa.ChunkedArray, metric: str, values: pa.ChunkedArray) -> pa.Table:
    names = pa.array([metric] * len(ids), pa.string())
    return pa.table({"candidate_id": ids, "metric": names, "value": values})


def _metric_names(path: Path, table: pa.Table, metrics: Sequence[Metric]) -> list[str]:
    """The metrics of a file with one row per number. Raises TableError for one that is neither configured nor of the paper."""
    names = sorted({str(name) for name in pc.unique(table["metric"].cast(pa.string())).to_pylist()})
    known = list(dict.fromkeys([*METRIC_BY_NAME, *(metric.name for metric in metrics)]))
    unknown = [name for name in names if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        expected = ", ".join(known)
        raise TableError(f"{path}: unknown metric(s) {', '.join(unknown)}{hint}", expected, f"edit {path.name}")
    return names


def _long_numbers(path: Path, table: pa.Table) -> pa.Table:
    ids, metric = table["candidate_id"], table["metric"].cast(pa.string())
    _refuse_doubled(path, pc.binary_join_element_wise(ids, metric, " "), "scores")
    numbers = pa.table({"candidate_id": ids, "metric": metric, "value": _numbers(path, table, "value")})
    return numbers.filter(pc.field("value").is_valid())


def _refuse_doubled(path: Path, keys: pa.ChunkedArray, what: str) -> None:
    counts = pc.value_counts(keys.combine_chunks())
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if doubled:
        raise TableError(
            f"{path}: {len(doubled)} {what} are there more than once: {', '.join(doubled[:3])}",
            "each candidate once per metric",
            f"remove the doubled rows from {path.name}",
        )


def _scores(path: Path, numbers: pa.Table) -> pa.Table:
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
    return conform(SCORES, _filled(numbers, rest))


def _candidates(path: Path, table: pa.Table, settings: PairSettings) -> pa.Table:
    """One row per candidate. Missing columns that no setting needs get the values of :data:`NEUTRAL`."""
    _require_sizes(path, table, settings)
    columns = _checked(path, table.select([name for name in (*IDS, *OPTIONAL) if name in table.column_names]))
    distinct = columns.group_by(columns.column_names).aggregate([]).sort_by([(name, "ascending") for name in IDS[::-1]])
    _refuse_doubled(path, distinct["candidate_id"], "candidates whose rows disagree")
    if "num_frames" not in distinct.column_names and "duration_s" in distinct.column_names:
        # Only ratios of lengths are used, so milliseconds can replace frames.
        frames = pc.round(pc.multiply(distinct["duration_s"], MS_PER_S)).cast(pa.int64())
        distinct = distinct.append_column("num_frames", frames)
    return conform(CANDIDATES, _filled(distinct, NEUTRAL))


def _checked(path: Path, columns: pa.Table) -> pa.Table:
    """The optional columns as numbers. Raises TableError for an origin, index or size that cannot be."""
    for name in columns.column_names:
        if name in SIZES:
            columns = _with(columns, name, _sizes(path, columns, name))
        elif name == "index":
            columns = _with(columns, name, _whole(path, columns, name))
        elif name == "origin":
            _check_origins(path, columns)
    return columns


def _require_sizes(path: Path, table: pa.Table, settings: PairSettings) -> None:
    plain = PairSettings()
    is_shaped = (settings.min_aspect_ratio, settings.max_aspect_ratio) != (
        plain.min_aspect_ratio,
        plain.max_aspect_ratio,
    )
    if is_shaped:
        _require(path, table, ("height_px", "width_px"))
    has_length = {"num_frames", "duration_s"} & set(table.column_names)
    if settings.max_length_ratio != plain.max_length_ratio and not has_length:
        _require(path, table, ("num_frames",))


def _sizes(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    values = _numbers(path, table, name) if name == "duration_s" else _whole(path, table, name)
    bad = pc.invert(pc.fill_null(pc.and_(pc.greater(values, 0), pc.is_finite(values)), False))
    if pc.any(bad).as_py():
        raise TableError(f"{path}: {_row(bad)} has no usable {name}", "a positive number", f"edit {path.name}")
    return values


def _whole(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    values = _numbers(path, table, name)
    bad = pc.invert(pc.fill_null(pc.equal(values, pc.round(values)), False))
    if pc.any(bad).as_py():
        raise TableError(f"{path}: {_row(bad)} has no whole {name}", "a whole number in every row", f"edit {path.name}")
    return values.cast(pa.int64())


def _check_origins(path: Path, table: pa.Table) -> None:
    known = pc.is_in(table["origin"], value_set=pa.array([str(origin) for origin in Origin]))
    if not pc.all(known).as_py():
        bad = pc.invert(known)
        value = table["origin"].filter(bad)[0].as_py()
        expected = " or ".join(Origin)
        raise TableError(f"{path}: {_row(bad)} has origin {value!r}", expected, f"edit {path.name}")


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _filled(table: pa.Table, values: Constants) -> pa.Table:
    """``table`` with a constant column for every one of ``values`` that it lacks."""
    for name, value in values.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows))
    return table
