"""Read a finished run into :class:`~avpref.reports.report_data.ReportData`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from avpref.datasets import tables
from avpref.datasets.evidence.evaluation import Comparison
from avpref.datasets.evidence.gate import RuleOutcome
from avpref.datasets.rows import Kind
from avpref.domain import PUBLIC_NAME, Candidate, Split
from avpref.errors import InputError
from avpref.flows.stages import evaluate
from avpref.flows.stages.adapter_lineage import lineage
from avpref.flows.stages.audit_tables import read_audit
from avpref.flows.stages.candidates import plan_candidates, read_candidates
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.score import sealed_candidates
from avpref.flows.stages.sft import sft_network
from avpref.flows.stages.train import policy_network, training_job
from avpref.flows.workers.scorers import metrics_of, sources
from avpref.reports.report_data import Curves, HeldOut, ReportData, RewardModel, StageTime
from avpref.storage.run_folder import RESULT_FILE, RunFolder
from avpref.trainer.metrics import METRICS_FILE


def collect(folder: RunFolder) -> ReportData:
    """Read a finished run. Raises InputError where a stage is missing, TableError for a damaged table."""
    verdict = folder.read_json(evaluate.VERDICT_FILE)
    if verdict is None:
        fix = f"avpref runs resume {folder.run_id} --runs {folder.root.parent}"
        raise InputError(f"run {folder.run_id} has not been evaluated", "a finished run", fix)
    prompts = read_prompts(folder)
    candidates = {clip.candidate_id: clip for clip in sealed_candidates(folder) + _policy_candidates(folder)}
    quarantine = (
        folder.read(tables.QUARANTINE) if folder.has(tables.QUARANTINE) else tables.to_arrow(tables.QUARANTINE, [])
    )
    return ReportData(
        run_id=folder.run_id,
        settings=folder.settings,
        media=folder.media,
        metrics=tuple(metrics_of(folder.settings.scoring)),
        reward_models=tuple(
            RewardModel(source.name, source.terms) for source in sources(folder.settings.scoring) if source.is_network
        ),
        verdict=verdict["gate"]["verdict"],
        rules=tuple(RuleOutcome(**rule) for rule in verdict["gate"]["rules"]),
        comparisons={dimension: Comparison(**verdict["evaluation"][name]) for dimension, name in PUBLIC_NAME.items()},
        held_out=_held_out(folder.read(tables.EVALUATIONS).to_pandas()),
        texts={prompt.prompt_id: prompt.text for prompt in prompts},
        num_train_prompts=sum(prompt.split == Split.TRAIN for prompt in prompts),
        candidates=candidates,
        rewards=_with_origin(folder.read(tables.REWARDS).to_pandas(), candidates),
        pairs=folder.read(tables.PAIRS).to_pandas(),
        skipped=folder.read(tables.SKIPPED).to_pandas(),
        excluded=folder.read(tables.EXCLUDED).to_pandas(),
        quarantine=quarantine.to_pandas(),
        audit=tuple(read_audit(folder)),
        curves=Curves(_curve(sft_network(folder).checkpoint.parent), _curve(training_job(folder).output)),
        stages=_stages(folder),
        origin=_origin(folder),
    )


def _policy_candidates(folder: RunFolder) -> list[Candidate]:
    """The evaluation's own clips; they are in no sealed table, since no pair may be made of them."""
    compared = set(folder.read(tables.EVALUATIONS)["prompt_id"].to_pylist())
    parts = [part for part in evaluate.held_out_parts(folder) if compared & {prompt.prompt_id for prompt in part}]
    plans = [plan_candidates(folder, evaluate.STAGE, part, policy_network(folder)) for part in parts]
    return read_candidates(folder, [unit for plan in plans for shard in plan for unit in shard.units])


def _held_out(rows: pd.DataFrame) -> HeldOut:
    clips = rows.drop_duplicates(["prompt_id", "side"]).pivot(index="prompt_id", columns="side", values="candidate_id")
    numbers = {kind: rows[rows.kind == kind] for kind in Kind}
    wide = {
        kind: values.pivot(index="prompt_id", columns=["side", "name"], values="value").astype(float)
        for kind, values in numbers.items()
    }
    return HeldOut(clips, wide[Kind.REWARD], wide[Kind.SCORE])


def _with_origin(rewards: pd.DataFrame, candidates: Mapping[str, Candidate]) -> pd.DataFrame:
    return rewards.assign(origin=[str(candidates[candidate].origin) for candidate in rewards.candidate_id])


def _curve(folder: Path) -> pd.DataFrame:
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def _stages(folder: RunFolder) -> tuple[StageTime, ...]:
    document = folder.read_json(RESULT_FILE) or {"stages": []}
    return tuple(StageTime(**stage) for stage in document["stages"])


def _origin(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    """(name, value) of every id and hash that the adapter was made from."""
    document: dict[str, Any] = lineage(folder)
    sealed: dict[str, str] = document.pop("tables")
    scorers = folder.connect().sql("SELECT DISTINCT scorer, fingerprint FROM scores ORDER BY ALL").fetchall()
    return (
        *((name.replace("_", " "), str(value)) for name, value in document.items()),
        *((f"scorer {name}", fingerprint) for name, fingerprint in scorers),
        *((f"table {name}", version) for name, version in sealed.items()),
    )
