"""The gate's decision, computed again from a run's sealed evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.datasets.evidence.decision import DecisionInputs, inputs_of
from avpref.errors import ConfigError, InputError
from avpref.registry import aliases, decisions
from avpref.registry.vote_evidence import decide_with_votes
from avpref.storage.run_folder import CONFIG_FILE, RunFolder

SECTION = "evaluation.gate."


def decide(folder: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """Compare the sealed scores again (same bootstrap) and apply the rules with ``overrides`` of their bounds.

    Raises ConfigError for an override of something else, InputError before the evaluation or where it is older than the
    pairs, TableError where its files were changed.
    """
    others = [override for override in overrides if not override.startswith(SECTION)]
    if others:
        raise ConfigError(f"--set {others[0]}", f"{SECTION}KEY=VALUE", "avpref config show")
    settings = load_config(folder.root / CONFIG_FILE, overrides, environment={}).settings
    folder.tables.require(tables.EVALUATIONS)
    stored = decisions.read_decision(folder)
    inputs = inputs_of(stored.document())
    _refuse_stale(folder, inputs)
    rules = inputs.settings.model_copy(update={"gate": settings.evaluation.gate})
    taken = decisions.decide_again(folder, replace(inputs, settings=rules))
    warning = serving_warning(folder, inputs)
    decision = {key: value for key, value in taken.document().items() if key != "inputs"}
    return {"run_id": folder.run_id, **decision, "warnings": [warning] if warning else []}


def replayed(folder: RunFolder, decision: str) -> dict[str, Any]:
    """A stored decision computed again from its own inputs, with every difference. Raises InputError, TableError."""
    replay = decisions.replay_decision(folder, decision)
    again = {key: value for key, value in replay.again.document().items() if key != "inputs"}
    return {
        "run_id": folder.run_id,
        **again,
        "decision_id": replay.stored.decision_id,
        "agrees": replay.agrees,
        "differences": [asdict(change) for change in replay.wrong],
        "changed_inputs": [asdict(change) for change in replay.changed],
        "warnings": [],
    }


def with_votes(folder: RunFolder) -> dict[str, Any]:
    """The run's decision with the votes that there are now, recorded. Raises as
    :func:`avpref.registry.vote_evidence.decide_with_votes`."""
    decision = decide_with_votes(folder).document()
    votes = decision.pop("inputs")["votes"]
    return {"run_id": folder.run_id, **decision, "votes": votes, "warnings": []}


def serving_warning(folder: RunFolder, inputs: DecisionInputs) -> str:
    """A warning where another adapter serves, which the decision does not compare with; else empty."""
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
        " network alone, not with the serving adapter"
    )


def _refuse_stale(folder: RunFolder, inputs: DecisionInputs) -> None:
    known = set(folder.tables.read(tables.NORMS)["norm_id"].to_pylist())
    if inputs.norm_id not in known:
        raise InputError(
            f"the evaluation of run {folder.run_id} is on norm {inputs.norm_id}",
            f"the norm of its pairs, {', '.join(sorted(known))}",
            f"avpref eval run --run {folder.run_id} --runs {folder.runs}",
        )
