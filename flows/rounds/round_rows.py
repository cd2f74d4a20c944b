"""The rows of finished rounds: gain, drift from the SFT network, yield of pairs, and diversity of the samples."""

from __future__ import annotations

import numpy as np
import pandas as pd

from avpref.datasets import tables
from avpref.datasets.rounds.round_row import RoundRow
from avpref.domain import Origin, Split
from avpref.flows.rounds.earlier_pairs import without_earlier
from avpref.flows.run import Run
from avpref.storage.documents import VERDICT_FILE
from avpref.trainer.adapter_joining import update_norm

FACTS = ("loudness_db", "silence_share", "motion", "brightness", "bit_rate_bps")
"""Facts of clips whose spread between the clips of a prompt is the diversity."""


def round_rows(run: Run) -> list[RoundRow]:
    """The rows of all rounds up to ``run``, which has finished. Raises InputError where an earlier run is gone."""
    chain = [run]
    while (previous := chain[0].previous) is not None:
        chain.insert(0, previous)
    unit = _facts(chain[0]).std()
    return [_row(member, unit) for member in chain]


def _row(run: Run, unit: pd.Series) -> RoundRow:
    verdict = run.documents.read(VERDICT_FILE)
    adapter, summary = run.policy.adapter, run.training_summary
    assert verdict is not None and adapter is not None
    own = _own_candidates(run)
    pairs = run.tables.read(tables.PAIRS)
    ids = set(own.candidate_id)
    num_new = sum({row["chosen"], row["rejected"]} <= ids for row in pairs.select(["chosen", "rejected"]).to_pylist())
    drifts = [value for value in vars(summary.drift).values() if value is not None]
    return RoundRow(
        round=run.settings.rounds.round,
        run_id=run.run_id,
        verdict=verdict["gate"]["verdict"],
        gains={name: comparison["delta_sd"] for name, comparison in verdict["evaluation"].items()},
        drift=float(np.mean(drifts)) if drifts else None,
        update_norm=update_norm(adapter),
        candidates=int((own.origin == Origin.GENERATED).sum()),
        from_sft=int((own.checkpoint_hash == run.sft.hash).sum()),
        pairs=num_new,
        earlier_pairs=pairs.num_rows - num_new,
        pair_yield=num_new / len(run.prompts_of(Split.TRAIN)),
        diversity=_diversity(_facts(run), unit),
    )


def _own_candidates(run: Run) -> pd.DataFrame:
    """Candidates of training prompts that the round sampled itself, and ground truth."""
    training = {prompt.prompt_id for prompt in run.prompts_of(Split.TRAIN)}
    rows = without_earlier(run, run.tables.read(tables.CANDIDATES)).to_pandas()
    return rows[rows.prompt_id.isin(training)]


def _facts(run: Run) -> pd.DataFrame:
    """Facts of the round's generated candidates, index ``prompt_id``; empty without an audit."""
    if not run.tables.has(tables.CLIP_FACTS):
        return pd.DataFrame(columns=list(FACTS), dtype=float)
    own = _own_candidates(run)
    generated = own[own.origin == Origin.GENERATED].set_index("candidate_id").prompt_id
    facts = run.tables.read(tables.CLIP_FACTS).to_pandas().set_index("candidate_id")[list(FACTS)].astype(float)
    return facts.join(generated, how="inner").set_index("prompt_id")


def _diversity(facts: pd.DataFrame, unit: pd.Series) -> float | None:
    within = np.sqrt(facts.groupby(level=0).var().mean())
    ratios = (within / unit.where(unit > 0)).dropna()
    return float(ratios.mean()) if len(ratios) else None
