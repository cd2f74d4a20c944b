"""The gate's decision, taken again from what a run's evaluation has sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from avpref import config
from avpref.commands.run_state import sealed
from avpref.datasets import evaluation, gate, tables
from avpref.datasets.rows import Kind, Side
from avpref.domain import PUBLIC_NAME
from avpref.errors import ConfigError, InputError
from avpref.flows.run_folder import CONFIG_FILE, RunFolder

SECTION = "evaluation.gate."


def decide(folder: RunFolder, given: Sequence[str]) -> dict[str, Any]:
    """Compare the sealed rewards again (same bootstrap) and apply the rules, with the overrides ``given`` of them.

    Raises ConfigError for an override of something else, InputError before the evaluation or where it is older than the
    pairs, TableError where its files were changed.
    """
    others = [override for override in given if not override.startswith(SECTION)]
    if others:
        raise ConfigError(f"--set {others[0]}", f"{SECTION}KEY=VALUE", "avpref config show")
    settings = config.load(folder.root / CONFIG_FILE, given, environment={}).settings
    rows = sealed(folder, tables.EVALUATIONS).to_pandas()
    _refuse_stale(folder, rows)
    bootstrap = evaluation.BootstrapSettings(
        settings.evaluation.bootstrap_samples, settings.evaluation.confidence, settings.run.seed
    )
    compared = evaluation.compare(_rewards(rows), bootstrap)
    verdict = gate.decide(compared, _displacement(folder), settings.evaluation.gate)
    return {
        "run_id": folder.run_id,
        "evaluation": {PUBLIC_NAME[dimension]: vars(found) for dimension, found in compared.items()},
        "verdict": verdict.verdict,
        "reasons": verdict.reasons,
        "rules": [vars(rule) for rule in verdict.rules],
    }


def _rewards(rows: pd.DataFrame) -> dict[Side, pd.DataFrame]:
    """Per side a frame prompt × dimension, in the order in which the clips were evaluated."""
    found = rows[rows.kind == str(Kind.REWARD)]
    order = list(dict.fromkeys(found.prompt_id))
    return {
        side: found[found.side == str(side)].pivot(index="prompt_id", columns="name", values="value").reindex(order)
        for side in Side
    }


def _displacement(folder: RunFolder) -> dict[str, float | None]:
    """What training measured, as the sealed decision recorded it."""
    rows = sealed(folder, tables.GATE_DECISIONS).to_pylist()
    return {row["dimension"]: row["value"] for row in rows if row["rule"] == "displacement"}


def _refuse_stale(folder: RunFolder, rows: pd.DataFrame) -> None:
    known = set(sealed(folder, tables.NORMS)["norm_id"].to_pylist())
    used = set(rows.norm_id)
    if not used <= known:
        raise InputError(
            f"the evaluation of run {folder.run_id} is on norm {', '.join(sorted(used))}",
            f"the norm of its pairs, {', '.join(sorted(known))}",
            f"avpref eval run --run {folder.run_id} --runs {folder.root.parent}",
        )
