"""Studies of a run and their results, for people and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.datasets.votes.ballots import counting
from avpref.datasets.votes.vote_results import AspectResult, StudyResult
from avpref.registry.study_files import StudyFiles
from avpref.reports.vote_plot import draw_votes
from avpref.storage.run_folder import RunFolder

Document = dict[str, Any]


def rows_of(folder: RunFolder) -> list[Document]:
    """The studies of a run: what they compare, votes that count, votes that are wanted."""
    files = StudyFiles(folder.files)
    rows = []
    for name in files.ids():
        study = files.read(name)
        rows.append(
            {
                "study_id": name,
                "kind": str(study.kind),
                "first": study.names[0],
                "second": study.names[1],
                "items": len(study.items),
                "votes": len(counting(files.votes(name))),
                "wanted": sum(map(len, study.queues)),
                "annotators": ", ".join(files.annotators(name).values()),
            }
        )
    return rows


def result_of(folder: RunFolder, study_id: str, plot: Path | None) -> Document:
    """The result of a study, with its tables; drawn into ``plot`` too. Raises InputError, TableError, ConfigError."""
    files = StudyFiles(folder.files)
    result = files.result(files.find(study_id))
    if plot is not None:
        draw_votes(result, plot)
    return {**result.document(), "table": _table(result), "agreement": _agreement(result)}


def _table(result: StudyResult) -> list[Document]:
    rows = [("all", rated) for rated in result.aspects]
    return [_row(category, rated) for category, rated in [*rows, *result.categories]]


def _row(category: str, rated: AspectResult) -> Document:
    return {
        "aspect": rated.aspect,
        "category": category,
        "items": rated.num_items,
        "wins": rated.wins.value,
        "ties": rated.ties.value,
        "losses": rated.losses.value,
        "win_rate": rated.win_rate.value,
        "ci_low": rated.win_rate.low,
        "ci_high": rated.win_rate.high,
        "alpha": rated.alpha_ordinal,
    }


def _agreement(result: StudyResult) -> list[Document]:
    return [
        {
            "reward": reward.name,
            "aspect": reward.aspect,
            "category": reward.category or "all",
            "items": reward.num_items,
            "agree": reward.agreement.value,
            "ci_low": reward.agreement.low,
            "ci_high": reward.agreement.high,
        }
        for reward in result.rewards
        if reward.agreement is not None
    ]
