"""Stage ``score``: every candidate through every scorer of the set, into one long table."""

from __future__ import annotations

from pathlib import Path

from avpref.datasets import tables
from avpref.domain import Candidate
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.candidates import as_candidates
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.score_stage import score_candidates
from avpref.storage.run_folder import RunFolder, open_root
from avpref.storage.score_files import distinct

STAGE = "score"


@reporting.stage("score")
def score(run_dir: str) -> int:
    """Score the candidates of the run in ``run_dir`` and seal the score table; returns the number of score rows."""
    folder = open_root(Path(run_dir))
    units = score_candidates(folder, STAGE, sealed_candidates(folder), read_prompts(folder))
    quarantined = distinct(folder.seal_units(tables.SCORES, units))
    folder.write_json("quarantine-score.json", [vars(row) for row in quarantined])
    return folder.num_rows(tables.SCORES)


def sealed_candidates(folder: RunFolder) -> list[Candidate]:
    """The sealed candidates, in the plan's order. Raises InputError before they were made."""
    return [each for rows in folder.batches(tables.CANDIDATES) for each in as_candidates(rows)]
