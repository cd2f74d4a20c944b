"""The pairs of the round before that a round trains on again."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets import tables
from avpref.domain import Candidate
from avpref.flows.stages.candidate_plan import first_index
from avpref.identity import SEED_BITS, derive_seed
from avpref.storage.run_folder import RunFolder, open_root
from avpref.storage.table_readers import as_candidates


def previous_folder(run: RunFolder) -> RunFolder | None:
    """The run of the round before; None in the first round."""
    name = run.settings.rounds.previous
    return open_root(run.runs / name) if name else None


def earlier_pairs(run: RunFolder) -> pa.Table | None:
    """Rows of the pair table of the round before, a share of them drawn by hash; None where a round takes none.

    Pairs that the round before had taken over itself are among them.
    """
    previous, rounds = previous_folder(run), run.settings.rounds
    if previous is None or not rounds.earlier_share:
        return None
    pairs = previous.tables.read(tables.PAIRS)
    seed = run.settings.run.seed
    is_kept = [
        is_drawn(rounds.earlier_share, "earlier pair", seed, rounds.round, x) for x in pairs["pair_id"].to_pylist()
    ]
    return pairs.filter(pa.array(is_kept, pa.bool_()))


def is_drawn(share: float, *parts: object) -> bool:
    """Whether the item that ``parts`` name belongs to a random ``share`` of all items."""
    return derive_seed(*parts) < share * 2**SEED_BITS


def earlier_candidates(run: RunFolder) -> list[Candidate]:
    """The candidates of :func:`earlier_pairs`, in the order of the earlier table."""
    pairs, previous = earlier_pairs(run), previous_folder(run)
    if pairs is None or previous is None:
        return []
    ids = pa.array(sorted({*pairs["chosen"].to_pylist(), *pairs["rejected"].to_pylist()}), pa.string())
    rows = previous.tables.read(tables.CANDIDATES)
    return as_candidates(rows.filter(pc.is_in(rows["candidate_id"], ids)))


def without_earlier(run: RunFolder, candidates: pa.Table) -> pa.Table:
    """The rows of ``candidates`` that the round itself has sampled, and ground truth: pairs are selected among them."""
    first = first_index(run.settings)
    is_own = pc.or_(pc.greater_equal(candidates["index"], first), pc.equal(candidates["index"], 0))
    return candidates.filter(is_own)
