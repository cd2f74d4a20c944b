"""The lineage of a run's adapter, and the document that records it in a promoted run.

The document is committed once, as a whole: it is complete or it does not exist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avpref.datasets import tables
from avpref.datasets.evidence.gate import PROMOTE
from avpref.flows.run import Run
from avpref.flows.stages.training.training_record import adapter_origin
from avpref.registry.adapter_records import PROMOTED
from avpref.registry.decision_record import ADAPTER, CHECKPOINT, SUMMARY, RecordedFile
from avpref.storage.file_hashes import sha256_of
from avpref.trainer.run_job import SUMMARY_FILE

LINEAGE_TABLES = (
    tables.PROMPTS,
    tables.CANDIDATES,
    tables.SCORES,
    tables.NORMS,
    tables.PAIRS,
    tables.EVALUATIONS,
    tables.GATE_DECISIONS,
)
"""The tables whose versions a lineage names."""


def lineage(run: Run) -> dict[str, Any]:
    """Everything that the run's adapter depends on: networks, tables, norm, pairs, scorers, settings and versions.

    The keys are those of the public documents about adapters and decisions. Raises InputError before training has finished.
    """
    return adapter_origin(run, LINEAGE_TABLES) | {"pairs_hash": run.pairs_hash, "scorers": run.scorers}


def adapter_files(run: Run) -> list[RecordedFile]:
    """The files that serving needs and those that the gate believed: role, path relative to the runs, hash, bytes."""
    policy = run.policy
    assert policy.adapter is not None
    paths = [(CHECKPOINT, policy.checkpoint), (SUMMARY, policy.adapter.parent / SUMMARY_FILE)]
    paths += [(ADAPTER, path) for path in sorted(policy.adapter.iterdir()) if not path.name.startswith(".")]
    return [_file(role, path, run.runs) for role, path in paths]


def _file(role: str, path: Path, runs: Path) -> RecordedFile:
    return RecordedFile(role, os.path.relpath(path, runs), sha256_of(path), path.stat().st_size)


def record_adapter(run: Run, evaluation: Mapping[str, Any], verdict: str, reasons: Sequence[str]) -> None:
    """Record the adapter if the gate promoted it."""
    if verdict != PROMOTE:
        return
    gate = {"verdict": verdict, "reasons": list(reasons)}
    record = lineage(run) | {"evaluation": evaluation, "gate": gate}
    name = f"{record['policy_hash'][:16]}-{record['tables']['gate_decisions']}.json"
    run.files.commit_once(f"{PROMOTED}/{name}", json.dumps(record, indent=1).encode())
