"""The tables of a selection: pairs with the scores of both sides, prompts without a pair, and scores that candidates lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.block_table import BlockTable
from avpref.datasets.metric_tables import SIDES, pairs_table, scored_columns
from avpref.datasets.population import is_finite
from avpref.datasets.reward_formula import normalised
from avpref.datasets.selection.candidate_index import CandidateIndex
from avpref.datasets.selection.candidate_rewards import CandidateRewards, applied_norm_id, strategy_label
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pair_search import ALL, PairSearch, SelectedPairs
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.selection.text_columns import constant
from avpref.datasets.tables import EXCLUDED, ROWS_PER_GROUP, conform
from avpref.datasets.views import Limits, open_connection, sql
from avpref.domain import ALL_DIMENSIONS, Origin

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MISSING = "missing"


@dataclass(frozen=True, eq=False)
class Shapes:
    """Of every selected pair [S]: height / width of the side with fewer pixels (the rejected one if equal), and frames of the
    longer side / frames of the shorter."""

    aspect_ratio: Floats
    length_ratio: Floats

    def is_shape_kept(self, settings: PairSettings) -> NDArray[np.bool_]:
        """Whether the aspect ratio lies strictly between the bounds."""
        return (self.aspect_ratio > settings.min_aspect_ratio) & (self.aspect_ratio < settings.max_aspect_ratio)

    def is_length_kept(self, settings: PairSettings) -> NDArray[np.bool_]:
        """Whether the longer side is at most so many times as long as the shorter."""
        return ~(self.length_ratio > settings.max_length_ratio)


def shapes_of(matrix: ScoreMatrix, rewards: CandidateRewards, pairs: SelectedPairs) -> Shapes:
    """Shapes of the selected pairs. They are checked after the margins, as in the published ranking."""
    shapes = Shapes(np.empty(len(pairs.prompt)), np.empty(len(pairs.prompt)))

    def fill(start: int) -> None:
        rows = slice(start, start + ROWS_PER_GROUP)
        sides = (rewards.ordinals_at(pairs.chosen[rows]), rewards.ordinals_at(pairs.rejected[rows]))
        (frames, height, width), (other_frames, other_height, other_width) = map(matrix.index.sizes_of, sides)
        is_smaller = height * width < other_height * other_width
        sizes = np.where(is_smaller, height, other_height), np.where(is_smaller, width, other_width)
        with np.errstate(divide="ignore", invalid="ignore"):
            np.divide(*sizes, out=shapes.aspect_ratio[rows])
            longer, shorter = np.maximum(frames, other_frames), np.minimum(frames, other_frames)
            np.divide(longer, shorter, out=shapes.length_ratio[rows])

    with ThreadPoolExecutor(matrix.threads) as pool:
        list(pool.map(fill, range(0, len(pairs.prompt), ROWS_PER_GROUP)))
    return shapes


def pair_table(
    matrix: ScoreMatrix, rewards: CandidateRewards, pairs: SelectedPairs, settings: PairSettings, norm: Norm
) -> BlockTable:
    """Table ``pairs``, in the order of ``pairs``. Raises TableError where a margin overflowed."""
    table = pairs_table(matrix.metrics)
    texts = {"strategy": strategy_label(settings), "norm_id": applied_norm_id(settings, norm)}
    pair_ids = PairIds()

    def make(start: int, end: int) -> pa.Table:
        own = pairs.part(start, end)
        ordinals = {side: rewards.ordinals_at(vars(own)[side]) for side in SIDES}
        columns = {
            **_names(matrix.index, rewards.rewards.dimensions, own, ordinals),
            "rank": pa.array(own.rank),
            "margin_total": pa.array(own.margin),
            **_numbers(matrix, rewards, own, ordinals),
            **{name: constant(text, len(own)) for name, text in texts.items()},
        }
        sides = pa.table({name: columns[name] for name in ("chosen", "rejected", "dimension")})
        return conform(table, pa.table({**columns, "pair_id": pair_ids.of(sides)}))

    blocks = BlockTable(len(pairs), make, matrix.threads)
    if not is_finite(pairs.margin):
        blocks.whole()  # the check of a block names the column
    return blocks


def _names(
    index: CandidateIndex, dimensions: Sequence[str], pairs: SelectedPairs, ordinals: Mapping[str, Ints]
) -> dict[str, pa.Array]:
    """The columns of texts that differ between pairs."""
    names = [*dimensions, ALL_DIMENSIONS]
    origins = pa.array([str(Origin.GENERATED), str(Origin.GROUND_TRUTH)])
    dimension = np.where(pairs.dimension == ALL, len(names) - 1, pairs.dimension)
    columns = {"dimension": pa.array(names, pa.string()).take(pa.array(dimension))}
    for side, own in ordinals.items():
        columns[side] = index.ids(own)
        columns[f"{side}_origin"] = origins.take(pa.array(index.is_ground_truth[own].astype(np.int8)))
    return {**columns, "prompt_id": index.prompt_ids(pairs.prompt)}


def _numbers(
    matrix: ScoreMatrix, rewards: CandidateRewards, pairs: SelectedPairs, ordinals: Mapping[str, Ints]
) -> dict[str, pa.Array]:
    """Margins of every dimension, and raw and normalised score of both sides for each metric of the pair table; null where it is not
    configured."""
    columns = {}
    for name, line in zip(rewards.rewards.dimensions, rewards.rewards.by_dimension, strict=True):
        columns[f"margin_{name}"] = pa.array(line[pairs.chosen] - line[pairs.rejected])
    for side, own in ordinals.items():
        for metric, line, scale in zip(matrix.metrics, matrix.values, rewards.scales, strict=True):
            raw = line[own]
            columns[f"{side}_{metric.name}"] = pa.array(raw)
            columns[f"{side}_{metric.name}_normalised"] = pa.array(normalised(raw, scale))
    nothing = pa.nulls(len(pairs), pa.float64())
    absent = set(scored_columns(matrix.metrics)) - {metric.name for metric in matrix.metrics}
    lacking = [f"{side}_{name}{suffix}" for side in SIDES for name in absent for suffix in ("", "_normalised")]
    return columns | dict.fromkeys(lacking, nothing)


def excluded_table(matrix: ScoreMatrix) -> pa.Table:
    """Table ``excluded``: every configured score that a candidate lacks, and the reason: missing (no row), skipped or quarantined
    (the row's status), not_finite (NaN or infinite)."""
    position, ordinal = np.nonzero(np.isnan(matrix.values[:, ~matrix.is_complete]))
    ordinal = np.flatnonzero(~matrix.is_complete)[ordinal]
    order = np.lexsort((position, ordinal))
    position, ordinal = position[order], ordinal[order]
    unusable = matrix.unusable
    known = unusable["position"].to_numpy() + unusable["ordinal"].to_numpy() * len(matrix.metrics)
    places = np.argsort(known)
    cells = position + ordinal * len(matrix.metrics)
    place = np.searchsorted(known[places], cells)
    is_known = np.zeros(len(cells), dtype=bool)
    inside = place < len(known)
    is_known[inside] = known[places[place[inside]]] == cells[inside]
    row = pa.array(
        np.where(is_known, places[np.minimum(place, max(len(known) - 1, 0))] if len(known) else 0, 0), mask=~is_known
    )
    columns = {
        "candidate_id": matrix.index.ids(ordinal),
        "prompt_id": matrix.index.prompt_ids(matrix.index.prompt[ordinal]),
        "metric": pa.array([metric.name for metric in matrix.metrics], pa.string()).take(pa.array(position)),
        "reason": unusable["reason"].take(row).fill_null(MISSING),
        "detail": unusable["detail"].take(row).fill_null(""),
    }
    return conform(EXCLUDED, pa.table(columns))


def kept_pairs(found: PairSearch, shapes: Shapes, settings: PairSettings) -> SelectedPairs:
    """The selected pairs whose shapes are allowed."""
    is_kept = shapes.is_shape_kept(settings) & shapes.is_length_kept(settings)
    if is_kept.all():
        return found.pairs
    return SelectedPairs(**{name: values[is_kept] for name, values in vars(found.pairs).items()})


class PairIds:
    """Makes ids of pairs, in any thread, with one database in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._database: duckdb.DuckDBPyConnection | None = None

    def of(self, sides: pa.Table) -> pa.ChunkedArray:
        """The ids of pairs with these columns ``chosen``, ``rejected`` and ``dimension``."""
        with self._lock:
            self._database = self._database or open_connection(Limits(threads=1))
            con = self._database.cursor()
        with con:
            con.register("sides", sides)
            return con.sql(sql("pair_ids")).to_arrow_table()["pair_id"]
