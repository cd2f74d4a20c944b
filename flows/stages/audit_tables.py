"""The audit's inputs and its rows, read from a run's tables.

Imports neither Prefect nor torch, so that commands that show an audit start quickly.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets import tables
from avpref.datasets.evidence import shortcuts
from avpref.datasets.evidence.shortcuts import AuditRow, Bounds, Selected
from avpref.domain import Split
from avpref.errors import InputError
from avpref.storage.run_folder import RunFolder


def audit_rows(folder: RunFolder, pairs: pa.Table, skipped: pa.Table) -> list[AuditRow]:
    """Audit ``pairs`` and ``skipped``, tables of a selection over the run's candidates. Raises InputError where the run has no facts."""
    if not folder.tables.has(tables.CLIP_FACTS):
        raise InputError(
            f"{folder.root.name} has no table clip_facts",
            "a run whose clips were measured: audit.action is not off, and stage audit has run",
            "avpref retrain with the same configuration and --set audit.action=flag",
        )
    prompts = folder.tables.read(tables.PROMPTS)
    train = prompts.filter(pc.field("split") == str(Split.TRAIN))
    selected = Selected(
        pairs=pairs.to_pandas(),
        skipped=skipped.filter(pc.is_in(skipped["prompt_id"], train["prompt_id"].combine_chunks())).to_pandas(),
        prompts=train.to_pandas(),
        candidates=folder.tables.read(tables.CANDIDATES).to_pandas(),
        facts=folder.tables.read(tables.CLIP_FACTS).to_pandas(),
    )
    settings = folder.settings.audit
    strategy, norm_id = (pairs[name][0].as_py() if pairs.num_rows else "" for name in ("strategy", "norm_id"))
    return shortcuts.audit(selected, Bounds(settings.max_auroc, settings.confidence), strategy, norm_id)


def read_audit(folder: RunFolder) -> list[AuditRow]:
    """The run's sealed audit; empty where there is none."""
    if not folder.tables.has(tables.AUDITS):
        return []
    return [AuditRow(**row) for row in folder.tables.read(tables.AUDITS).to_pylist()]
