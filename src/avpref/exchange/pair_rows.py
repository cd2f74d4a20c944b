"""The pairs of a run with everything that an export says about them, as one Arrow table; and the bytes of their clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avpref import __version__
from avpref.config.loading import identity_hash
from avpref.datasets import tables
from avpref.datasets.foreign_pairs.pair_layout import CLIP, FORMAT, FORMAT_VERSION, PREFERRED, pair_schema
from avpref.datasets.metric_tables import SIDES, metric_document, metrics_of_table
from avpref.datasets.table_terms import base_terms_of
from avpref.domain import Metric, dimensions_of
from avpref.errors import InputError, TableError
from avpref.identity import bytes_sha256
from avpref.storage.files import Files
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import hash_of_pairs

READERS = 4
"""Threads that read clips."""


@dataclass(frozen=True, eq=False)
class PairRows:
    """``table``: the columns of :func:`avpref.datasets.foreign_pairs.pair_layout.pair_schema` without the clips; ``paths``: those of the
    clips in ``media``, by side [S]; ``metrics``: those whose scores the table has; ``facts``: what holds for all pairs."""

    table: pa.Table
    paths: dict[str, list[str]]
    metrics: tuple[Metric, ...]
    media: Files
    facts: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Number of pairs."""
        return int(self.table.num_rows)

    def clips(self, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
        """The bytes of the chosen and of the rejected clip of these pairs, compared with their hashes.

        Raises InputError for a clip that is gone, TableError for one that was changed.
        """
        names = [self.paths[side][row] for row in range(start, stop) for side in SIDES]
        hashes = {
            side: self.table[f"{side}_clip"].slice(start, stop - start).combine_chunks().field("sha256").to_pylist()
            for side in SIDES
        }
        wanted = [hashes[side][row] for row in range(stop - start) for side in SIDES]
        with ThreadPoolExecutor(READERS) as threads:
            data = threads.map(self._read, names, wanted)
            yield from zip(data, data, strict=True)

    def _read(self, name: str, sha256: str) -> bytes:
        again = "restore it from a copy, or make the candidates again: avpref runs resume RUN"
        try:
            data = self.media.read(name)
        except FileNotFoundError as error:
            raise InputError(f"the clip {self.media.uri(name)} is gone", "the clip of a pair", again) from error
        if bytes_sha256(data) != sha256:
            raise TableError(f"the clip {self.media.uri(name)} was changed", f"sha-256 {sha256}", again)
        return data


def pair_rows(folder: RunFolder) -> PairRows:
    """The sealed pairs of a run. Raises InputError where the run has no pairs yet, TableError where a table was changed."""
    pairs = folder.tables.read(tables.PAIRS)
    if not pairs.num_rows:
        raise InputError(f"run {folder.run_id} has no pairs", "at least one pair", "avpref pairs select --run RUN")
    prompts, candidates = folder.tables.read(tables.PROMPTS), folder.tables.read(tables.CANDIDATES)
    metrics = metrics_of_table(pairs)
    metrics = tuple(metric for metric in metrics if pairs[f"chosen_{metric.name}"].null_count < pairs.num_rows)
    texts = prompts.take(pc.index_in(pairs["prompt_id"], prompts["prompt_id"].combine_chunks()))
    clips = {
        side: candidates.take(pc.index_in(pairs[side], candidates["candidate_id"].combine_chunks())) for side in SIDES
    }
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        **{name: pairs[name] for name in ("pair_id", "prompt_id", "dimension", "rank", "strategy", "norm_id")},
        "prompt": texts["text"],
        "taxonomy": texts["taxonomy"],
        "label": pa.repeat(pa.scalar(PREFERRED, pa.int64()), pairs.num_rows),
        "margins": _struct({name: pairs[f"margin_{name}"] for name in (*dimensions_of(metrics), "total")}),
        **{
            f"{side}_scores": _struct({metric.name: pairs[f"{side}_{metric.name}"] for metric in metrics})
            for side in SIDES
        },
        **{f"{side}_clip": _struct({field.name: clips[side][field.name] for field in CLIP}) for side in SIDES},
        "run_id": pa.repeat(pa.scalar(folder.run_id), pairs.num_rows),
        "product_version": pa.repeat(pa.scalar(__version__), pairs.num_rows),
    }
    names = [name for name in pair_schema(metrics, has_bytes=True).names if name not in SIDES]
    paths = {side: clips[side]["path"].to_pylist() for side in SIDES}
    return PairRows(
        pa.table({name: columns[name] for name in names}), paths, metrics, folder.media, _facts(folder, pairs, metrics)
    )


def _struct(columns: dict[str, pa.ChunkedArray]) -> pa.StructArray:
    combined = {name: column.combine_chunks() for name, column in columns.items()}
    return pa.StructArray.from_arrays(list(combined.values()), names=list(combined))


def _facts(folder: RunFolder, pairs: pa.Table, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Facts about all pairs of an export, in the order of the manifest."""
    scores = folder.tables.read(tables.SCORES)
    columns = ["scorer", "fingerprint", "licence", "commercial_use", "is_meaningful"]
    scorers = scores.group_by(columns).aggregate([]).sort_by([("scorer", "ascending"), ("fingerprint", "ascending")])
    settings, terms = folder.settings, base_terms_of(pairs)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "product_version": __version__,
        "run_id": folder.run_id,
        "settings_hash": identity_hash(settings),
        "pairs_hash": hash_of_pairs(pairs),
        "num_pairs": pairs.num_rows,
        "num_prompts": pc.count_distinct(pairs["prompt_id"]).as_py(),
        "strategy": pairs["strategy"][0].as_py(),
        "norm_id": pairs["norm_id"][0].as_py(),
        "clip": settings.clip.model_dump(mode="json"),
        "metrics": [metric_document(metric) for metric in metrics],
        "scorers": scorers.to_pylist(),
        **({} if terms is None else {"base_terms": asdict(terms)}),
    }
