"""The tables of a selection: pairs with the scores of both sides, prompts without a pair, and scores that candidates lack."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.metric_tables import SIDES, pairs_table, scored_columns
from avpref.datasets.reward_formula import normalised
from avpref.datasets.selection.candidate_rewards import CandidateRewards, applied_norm_id, strategy_label
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pair_search import ALL, PairSearch, SelectedPairs
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.selection.text_columns import constant, take
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
        sides = (rewards.ordinals[pairs.chosen[rows]], rewards.ordinals[pairs.rejected[rows]])
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
) -> pa.Table:
    """Table ``pairs``, in the order of prompt and rank."""
    index, threads = matrix.index, matrix.threads
    ordinals = {"chosen": rewards.ordinals[pairs.chosen], "rejected": rewards.ordinals[pairs.rejected]}
    names = [*rewards.rewards.dimensions, ALL_DIMENSIONS]
    dimension = np.where(pairs.dimension == ALL, len(names) - 1, pairs.dimension)
    ids = {side: take(index.row_ids, index.row[ordinals[side]], threads) for side in SIDES}
    ids["dimension"] = take(pa.array(names, pa.string()), dimension, threads)
    origins = pa.array([str(Origin.GENERATED), str(Origin.GROUND_TRUTH)])
    num_pairs = len(pairs.prompt)
    columns = {
        **ids,
        "pair_id": _pair_ids(pa.table(ids)),
        "prompt_id": take(index.prompts.ids, pairs.prompt, threads),
        "rank": pa.array(pairs.rank),
        "margin_total": pa.array(pairs.margin),
        **{
            f"{side}_origin": take(origins, index.is_ground_truth[ordinals[side]].astype(np.int8), threads)
            for side in SIDES
        },
        **_numbers(matrix, rewards, pairs, ordinals),
        "strategy": constant(strategy_label(settings), num_pairs),
        "norm_id": constant(applied_norm_id(settings, norm), num_pairs),
    }
    return conform(pairs_table(matrix.metrics), pa.table(columns))


def _numbers(
    matrix: ScoreMatrix, rewards: CandidateRewards, pairs: SelectedPairs, ordinals: dict[str, Ints]
) -> dict[str, pa.Array]:
    """Margins of every dimension, and raw and normalised score of both sides for each metric of the pair table; null where it is not
    configured."""
    by_dimension = dict(zip(rewards.rewards.dimensions, rewards.rewards.by_dimension, strict=True))
    position = {metric.name: number for number, metric in enumerate(matrix.metrics)}
    scored = [(side, name) for side in SIDES for name in position]
    names = [f"{side}_{name}{suffix}" for side, name in scored for suffix in ("", "_normalised")]
    columns = {name: np.empty(len(pairs.prompt)) for name in (*(f"margin_{name}" for name in by_dimension), *names)}

    def fill(start: int) -> None:
        rows = slice(start, start + ROWS_PER_GROUP)
        for name, line in by_dimension.items():
            np.subtract(line[pairs.chosen[rows]], line[pairs.rejected[rows]], out=columns[f"margin_{name}"][rows])
        for side, name in scored:
            raw = matrix.values[position[name]][ordinals[side][rows]]
            columns[f"{side}_{name}"][rows] = raw
            columns[f"{side}_{name}_normalised"][rows] = normalised(raw, rewards.scales[position[name]])

    with ThreadPoolExecutor(matrix.threads) as pool:
        list(pool.map(fill, range(0, len(pairs.prompt), ROWS_PER_GROUP)))
    nothing = pa.nulls(len(pairs.prompt), pa.float64())
    absent = [f"{side}_{name}" for side in SIDES for name in scored_columns(matrix.metrics) if name not in position]
    lacking = {f"{name}{suffix}": nothing for name in absent for suffix in ("", "_normalised")}
    return {name: pa.array(values) for name, values in columns.items()} | lacking


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


def _pair_ids(sides: pa.Table) -> pa.ChunkedArray:
    with open_connection(Limits()) as con:
        con.register("sides", sides)
        return con.sql(sql("pair_ids")).to_arrow_table()["pair_id"]
