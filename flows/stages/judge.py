"""The judges' part of stage ``evaluate``: they score the held-out clips of both sides, which no pair was selected from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from avpref.datasets import tables
from avpref.datasets.evidence.judging import judge_metric_name
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Candidate, Prompt
from avpref.execution.item_counts import ItemCounts
from avpref.flows.run import Run
from avpref.flows.stages.score import score_candidates
from avpref.flows.workers.judges import judges_of
from avpref.storage.score_files import distinct

STAGE = "evaluate_judge"
"""Beginning of the names of the judges' passes; each has the judge's name, because a plan is recorded per name."""


@dataclass(frozen=True)
class Judgement:
    """The judges' scores, a frame with the columns of the score table and ``metric`` as ``SCORER/METRIC``; what failed; counts."""

    scores: pd.DataFrame
    quarantined: list[QuarantineRow]
    counts: list[ItemCounts]

    def rows(self) -> list[dict[str, Any]]:
        """The scores as rows; a value that is missing is None."""
        scores = self.scores
        values = scores.value.astype(object).where(scores.value.notna(), None)
        return [
            {"candidate_id": candidate_id, "metric": metric, "value": value, "status": status}
            for candidate_id, metric, value, status in zip(
                scores.candidate_id, scores.metric, values, scores.status, strict=True
            )
        ]


def judge_clips(run: Run, candidates: Sequence[Candidate], prompts: Sequence[Prompt]) -> Judgement:
    """Score ``candidates`` with every judge; those with scores are not scored again. Without judges or candidates nothing is done.

    Raises as :func:`avpref.flows.stages.score.score_items`.
    """
    judges = judges_of(run.settings)
    if not judges or not candidates:
        return Judgement(pd.DataFrame(columns=tables.SCORES.schema.names), [], [])
    scores: list[pd.DataFrame] = []
    quarantined: list[QuarantineRow] = []
    counts: list[ItemCounts] = []
    for judge in judges:
        scored = score_candidates(run, f"{STAGE}-{judge.name}", list(candidates), list(prompts), judge.scoring)
        rows, lost = run.units(tables.SCORES).read(scored.units)
        judged = rows.to_pandas()
        scores.append(judged.assign(metric=[judge_metric_name(judge.name, metric) for metric in judged.metric]))
        quarantined += lost
        counts += scored.counts
    return Judgement(pd.concat(scores), distinct(quarantined), counts)
