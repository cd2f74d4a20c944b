"""Everything that a run's adapter came from, and the note of it that a promoted run keeps: whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avpref.datasets import tables
from avpref.datasets.evidence.gate import PROMOTE
from avpref.flows.run import Run
from avpref.flows.stages.training_record import origin
from avpref.registry.decisions import ADAPTER, CHECKPOINT, SUMMARY
from avpref.storage.file_hashes import sha256_of
from avpref.trainer.run_job import SUMMARY_FILE

FOLDER = "promoted"
SEALED = (
    tables.PROMPTS,
    tables.CANDIDATES,
    tables.SCORES,
    tables.NORMS,
    tables.PAIRS,
    tables.EVALUATIONS,
    tables.GATE_DECISIONS,
)


def lineage(run: Run) -> dict[str, Any]:
    """Everything that the run's adapter came from: network, tables, norm, pairs, settings, versions."""
    own = {"pairs_hash": run.pairs_hash, "scorers": scorers_of(run)}
    return origin(run, SEALED) | own


def adapter_files(run: Run) -> list[dict[str, Any]]:
    """The files that serving needs and those that the gate believed: role, path relative to the runs, hash, bytes."""
    policy = run.policy
    assert policy.adapter is not None
    summary = policy.adapter.parent / SUMMARY_FILE
    found = [(CHECKPOINT, policy.checkpoint), (SUMMARY, summary)]
    found += [(ADAPTER, path) for path in sorted(policy.adapter.iterdir()) if not path.name.startswith(".")]
    return [_file(role, path, run.runs) for role, path in found]


def _file(role: str, path: Path, runs: Path) -> dict[str, Any]:
    num_bytes = path.stat().st_size
    return {"role": role, "path": os.path.relpath(path, runs), "sha256": sha256_of(path), "num_bytes": num_bytes}


def scorers_of(run: Run) -> list[dict[str, Any]]:
    """Who gave the run's scores, and what may be done with them: name, fingerprint, licence, commercial use, meaning."""
    scores = run.tables.read(tables.SCORES)
    columns = ["scorer", "fingerprint", "licence", "commercial_use", "is_meaningful"]
    found = scores.group_by(columns).aggregate([]).sort_by([("scorer", "ascending"), ("fingerprint", "ascending")])
    return found.to_pylist()


def record_adapter(run: Run, evaluation: Mapping[str, Any], verdict: str, reasons: Sequence[str]) -> None:
    """Record the adapter if the gate promoted it."""
    if verdict != PROMOTE:
        return
    gate = {"verdict": verdict, "reasons": list(reasons)}
    record = lineage(run) | {"evaluation": evaluation, "gate": gate}
    name = f"{record['policy_hash'][:16]}-{record['tables']['gate_decisions']}.json"
    run.files.commit_once(f"{FOLDER}/{name}", json.dumps(record, indent=1).encode())
