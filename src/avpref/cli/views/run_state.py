"""The state of a run, read from its files alone, without torch, Prefect or pandas."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from avpref.cli.views.run_progress import StageState, quarantined_so_far, stage_state
from avpref.config.loading import identity_hash
from avpref.config.training_settings import SftWeights
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import AvprefError, InputError
from avpref.observability import status_documents
from avpref.storage.documents import REPORT_FILE, RESULT_FILE, VERDICT_FILE
from avpref.storage.lock import is_in_use
from avpref.storage.run_folder import RunFolder, list_runs, open_root

SFT_NETWORK = "models/sft-*/network.safetensors"
ADAPTER = "models/dpo-*/adapter/adapter_model.safetensors"
Result = tuple[str, bool, int | None]
"""A stage's name, whether it has a result, and the number of rows of its table (None where it makes files)."""
FINISHED, IN_USE, UNREADABLE = "finished", "in use", "unreadable"


def stages(folder: RunFolder) -> list[StageState]:
    """The state of every stage of the loop, in order."""
    in_use, first_missing, states = is_in_use(folder.root), None, []
    for result in _results(folder):
        stage = stage_state(folder, result, first_missing, in_use)
        first_missing = first_missing or (None if stage.is_done else stage.name)
        states.append(stage)
    return states


def _results(folder: RunFolder) -> list[Result]:
    audit = [] if folder.settings.audit.action == "off" else [_table_stage(folder, "audit", tables.AUDITS)]
    return [
        _table_stage(folder, "prompts", tables.PROMPTS),
        _sft_stage(folder),
        _table_stage(folder, "generate", tables.CANDIDATES),
        _table_stage(folder, "score", tables.SCORES),
        _table_stage(folder, "pair", tables.PAIRS),
        *audit,
        _file_stage(folder, "train", ADAPTER),
        _table_stage(folder, "evaluate", tables.EVALUATIONS),
        _file_stage(folder, "report", REPORT_FILE),
    ]


def state(folder: RunFolder) -> str:
    """In use, finished, awaiting approval, or the first missing stage."""
    if is_in_use(folder.root):
        return IN_USE
    if folder.files.exists(RESULT_FILE):
        return _finished_state(folder)
    missing = [name for name, is_done, _ in _results(folder) if not is_done]
    return f"next: {missing[0]}" if missing else FINISHED


def _finished_state(folder: RunFolder) -> str:
    if folder.settings.promotion.approval != "required":
        return FINISHED
    from avpref.registry import promotion  # imports pandas and scipy, which few runs need

    return str(promotion.State.AWAITING) if promotion.state(folder) is promotion.State.AWAITING else FINISHED


def verdict(folder: RunFolder) -> str | None:
    """The gate's verdict, None before evaluation."""
    document = folder.documents.read(VERDICT_FILE)
    return document["gate"]["verdict"] if document else None


def quarantine(folder: RunFolder) -> list[QuarantineRow]:
    """Every quarantined candidate of every stage, with the recordings refused at import.

    Unfinished stages have not written their list yet: their quarantined candidates are read from the log.
    """
    rows = folder.documents.quarantined()
    if folder.files.exists(RESULT_FILE) and not is_in_use(folder.root):
        return rows
    known = {(row.candidate_id, row.stage) for row in rows}
    logged = quarantined_so_far(folder.events.path)
    return rows + [row for row in logged if (row.candidate_id, row.stage) not in known]


def rows_per_table(folder: RunFolder) -> dict[str, int]:
    """Rows of every sealed table."""
    return {table.name: folder.tables.num_rows(table) for table in tables.TABLES if folder.tables.has(table)}


def lineage(folder: RunFolder) -> dict[str, Any]:
    """The sources of the run's results: seed, settings, sealed table versions, trained files, promoted adapters."""
    sealed = {table.name: folder.tables.current(table.name) for table in tables.TABLES}
    return {
        "seed": folder.settings.run.seed,
        "settings_hash": identity_hash(folder.settings),
        "round": folder.settings.rounds.round,
        "previous_run": folder.settings.rounds.previous or None,
        "tables": {name: manifest.version for name, manifest in sealed.items() if manifest is not None},
        "models": {"sft": _sft_networks(folder), "train": _matching(folder, ADAPTER)},
        "promoted": folder.files.children("promoted"),
    }


def row_of(runs: Path, run_id: str) -> dict[str, Any]:
    """The run's row in ``runs list``; an unreadable folder is listed with the reason."""
    try:
        folder = open_root(Path(runs).resolve() / run_id)
        return {
            "run_id": run_id,
            "seed": folder.settings.run.seed,
            "round": folder.settings.rounds.round,
            "state": state(folder),
            "pairs": folder.tables.num_rows(tables.PAIRS) if folder.tables.has(tables.PAIRS) else None,
            "verdict": verdict(folder),
        }
    except (AvprefError, OSError) as error:
        reason = error.found if isinstance(error, AvprefError) else str(error)
        unknown = dict.fromkeys(("pairs", "verdict"))
        return {"run_id": run_id, "seed": None, "round": None, "state": f"{UNREADABLE}: {reason}", **unknown}


def rows_of(runs: Path) -> list[dict[str, Any]]:
    """The rows of ``runs list``, newest run first. Raises InputError where the folder is missing."""
    if not runs.is_dir():
        raise InputError(f"no folder {runs}", "a folder of runs", f"avpref retrain --runs {runs}")
    return [row_of(runs, run_id) for run_id in list_runs(runs)]


def _matching(folder: RunFolder, pattern: str) -> list[str]:
    """Paths in the run's folder that match, or else names of published models."""
    local = sorted(str(path.relative_to(folder.root)) for path in folder.root.glob(pattern))
    return local or fnmatch.filter(folder.models.published(), pattern)


def _sft_stage(folder: RunFolder) -> Result:
    """Given weights are converted into a folder that runs share, so the stage's own record says whether it is done."""
    if not isinstance(folder.settings.sft, SftWeights):
        return _file_stage(folder, "sft", SFT_NETWORK)
    status = status_documents.read_stage(folder.root, "sft")
    return "sft", status is not None and status.state == status_documents.DONE, None


def _sft_networks(folder: RunFolder) -> list[str]:
    """The network that the run trained, or the one that its settings name."""
    sft = folder.settings.sft
    return [sft.network] if isinstance(sft, SftWeights) else _matching(folder, SFT_NETWORK)


def _table_stage(folder: RunFolder, name: str, table: tables.Table) -> Result:
    return name, folder.tables.has(table), folder.tables.num_rows(table) if folder.tables.has(table) else None


def _file_stage(folder: RunFolder, name: str, pattern: str) -> Result:
    return name, bool(_matching(folder, pattern)), None
