"""The gate's decision, taken again from what a run's evaluation has sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from avpref.config import loading as config
from avpref.datasets import tables
from avpref.datasets.evidence.decision import Inputs, inputs_of
from avpref.errors import ConfigError, InputError
from avpref.registry import aliases, decisions
from avpref.storage.run_folder import CONFIG_FILE, RunFolder

SECTION = "evaluation.gate."


def decide(folder: RunFolder, given: Sequence[str]) -> dict[str, Any]:
    """Compare the sealed scores again (same bootstrap) and apply the rules, with the overrides ``given`` of them.

    Raises ConfigError for an override of something else, InputError before the evaluation or where it is older than the
    pairs, TableError where its files were changed.
    """
    others = [override for override in given if not override.startswith(SECTION)]
    if others:
        raise ConfigError(f"--set {others[0]}", f"{SECTION}KEY=VALUE", "avpref config show")
    settings = config.load(folder.root / CONFIG_FILE, given, environment={}).settings
    folder.tables.require(tables.EVALUATIONS)
    stored = decisions.read_decision(folder)
    inputs = inputs_of(stored.document())
    _refuse_stale(folder, inputs)
    rules = inputs.settings.model_copy(update={"gate": settings.evaluation.gate})
    taken = decisions.decide_again(folder, replace(inputs, settings=rules))
    warning = not_what_serves(folder, inputs)
    found = {key: value for key, value in taken.document().items() if key != "inputs"}
    return {"run_id": folder.run_id, **found, "warnings": [warning] if warning else []}


def replayed(folder: RunFolder, decision: str) -> dict[str, Any]:
    """A stored decision taken again from what it names, and what is not as it was. Raises InputError, TableError."""
    found = decisions.replay_decision(folder, decision)
    again = {key: value for key, value in found.again.document().items() if key != "inputs"}
    return {
        "run_id": folder.run_id,
        **again,
        "decision_id": found.stored.decision_id,
        "agrees": found.agrees,
        "differences": [asdict(each) for each in found.wrong],
        "changed_inputs": [asdict(each) for each in found.changed],
        "warnings": [],
    }


def not_what_serves(folder: RunFolder, inputs: Inputs) -> str:
    """Why a yes would not mean "better than what serves"; empty where nothing else serves."""
    runs, alias = folder.runs, folder.settings.promotion.alias
    move = aliases.current(runs, alias)
    if move is None:
        return ""
    record = aliases.registered_adapter(runs, move.adapter)
    if record.policy_hash == inputs.policy_hash:
        return ""
    base = "the same" if record.reference_hash == inputs.reference_hash else "another"
    return (
        f"{alias} is adapter {move.adapter} of run {move.run_id} (on {base} SFT network); this decision compares with the SFT"
        " network alone, not with what serves"
    )


def _refuse_stale(folder: RunFolder, inputs: Inputs) -> None:
    known = set(folder.tables.read(tables.NORMS)["norm_id"].to_pylist())
    if inputs.norm_id not in known:
        raise InputError(
            f"the evaluation of run {folder.run_id} is on norm {inputs.norm_id}",
            f"the norm of its pairs, {', '.join(sorted(known))}",
            f"avpref eval run --run {folder.run_id} --runs {folder.runs}",
        )
