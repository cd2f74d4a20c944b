"""Read a finished run into :class:`~avpref.reports.report_data.ReportData`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from avpref.config.training_settings import SftWeights
from avpref.datasets import tables
from avpref.datasets.evidence.evaluation import DimensionComparison
from avpref.datasets.evidence.gate import RuleOutcome
from avpref.datasets.evidence.judging import metric_comparison
from avpref.datasets.rows import EvaluationKind
from avpref.datasets.selection.prompt_blind import checked_prompt_blind
from avpref.datasets.votes.vote_results import StudyResult
from avpref.domain import Candidate, Split, dimensions_of, public_name
from avpref.errors import InputError
from avpref.flows.rounds.round_rows import round_rows
from avpref.flows.run import Run
from avpref.flows.stages import evaluate
from avpref.flows.stages.adapter_lineage import lineage
from avpref.flows.stages.alignment.collected_previews import collect_previews
from avpref.flows.stages.audit_tables import read_audit
from avpref.flows.stages.generate import candidates_of, planned_units
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.judges import all_scorers, judges_of
from avpref.flows.workers.scorers import metrics_of
from avpref.registry.study_files import StudyFiles
from avpref.reports.report_data import Curves, HeldOut, ReportData, RewardModel, StageTime
from avpref.storage.documents import RESULT_FILE, VERDICT_FILE
from avpref.storage.table_readers import read_candidates
from avpref.trainer.metrics import METRICS_FILE


def collect(run: Run) -> ReportData:
    """The data of a finished run's report. Raises InputError where a stage is missing, TableError for a damaged table."""
    verdict = run.documents.read(VERDICT_FILE)
    if verdict is None:
        fix = f"avpref runs resume {run.run_id} --runs {run.runs}"
        raise InputError(f"run {run.run_id} has not been evaluated", "a finished run", fix)
    prompts = run.prompts
    candidates = {clip.candidate_id: clip for clip in read_candidates(run.tables) + _policy_candidates(run)}
    quarantine = (
        run.tables.read(tables.QUARANTINE)
        if run.tables.has(tables.QUARANTINE)
        else tables.to_arrow(tables.QUARANTINE, [])
    )
    metrics = metrics_of(run.settings.scoring, run.settings.executor)
    rewards, pairs = run.tables.read(tables.REWARDS).to_pandas(), run.tables.read(tables.PAIRS).to_pandas()
    is_own = pairs.chosen.isin(rewards.candidate_id) & pairs.rejected.isin(rewards.candidate_id)
    return ReportData(
        run_id=run.run_id,
        settings=run.settings,
        media=run.media,
        metrics=metrics,
        reward_models=tuple(
            RewardModel(source.name, source.terms) for source in all_scorers(run.settings) if source.is_network
        ),
        base_terms=base_of(run.settings).terms,
        verdict=verdict["gate"]["verdict"],
        rules=tuple(RuleOutcome(**rule) for rule in verdict["gate"]["rules"]),
        comparisons={
            dimension: DimensionComparison(**verdict["evaluation"][public_name(dimension)])
            for dimension in dimensions_of(metrics)
        },
        held_out=_held_out(run.tables.read(tables.EVALUATIONS).to_pandas()),
        texts={prompt.prompt_id: prompt.text for prompt in prompts},
        num_train_prompts=len(run.prompts_of(Split.TRAIN)),
        candidates=candidates,
        rewards=_with_origin(rewards, candidates),
        pairs=pairs[is_own],  # without those of an earlier round
        skipped=run.tables.read(tables.SKIPPED).to_pandas(),
        excluded=run.tables.read(tables.EXCLUDED).to_pandas(),
        quarantine=quarantine.to_pandas(),
        audit=tuple(read_audit(run)),
        curves=Curves(_sft_curve(run), _curve(run.training_job.output)),
        stages=_stages(run),
        origin=_origin(run),
        studies=_studies(run),
        metric_changes=tuple(metric_comparison(metric) for metric in verdict.get("metrics", ())),
        prompt_blind=checked_prompt_blind(
            metrics_of(run.settings.scoring, run.settings.executor), run.settings.audit.prompt_blind
        ),
        previews=tuple(collect_previews(run.training_job.output, [prompt.prompt_id for prompt in prompts])),
        rounds=tuple(round_rows(run)) if run.previous else (),
    )


def _studies(run: Run) -> tuple[StudyResult, ...]:
    """The results of the run's studies that have votes, in the order of their ids."""
    files = StudyFiles(run.files)
    results = [files.result(files.read(name)) for name in files.ids()]
    return tuple(result for result in results if result.aspects)


def _policy_candidates(run: Run) -> list[Candidate]:
    """The policy's held-out clips; no sealed table lists them, because they must not enter pairs."""
    compared = set(run.tables.read(tables.EVALUATIONS)["prompt_id"].to_pylist())
    parts = [part for part in evaluate.held_out_parts(run) if compared & {prompt.prompt_id for prompt in part}]
    return candidates_of(run, [unit for part in parts for unit in planned_units(run, evaluate.STAGE, part, run.policy)])


def _held_out(rows: pd.DataFrame) -> HeldOut:
    clips = rows.drop_duplicates(["prompt_id", "side"]).pivot(index="prompt_id", columns="side", values="candidate_id")
    numbers = {kind: rows[rows.kind == kind] for kind in EvaluationKind}
    wide = {
        kind: values.pivot(index="prompt_id", columns=["side", "name"], values="value").astype(float)
        for kind, values in numbers.items()
    }
    return HeldOut(clips, wide[EvaluationKind.REWARD], wide[EvaluationKind.SCORE])


def _with_origin(rewards: pd.DataFrame, candidates: Mapping[str, Candidate]) -> pd.DataFrame:
    return rewards.assign(origin=[str(candidates[candidate].origin) for candidate in rewards.candidate_id])


def _sft_curve(run: Run) -> pd.DataFrame:
    """The curve of the SFT training; empty where the run started from given weights, whose training left none here."""
    return pd.DataFrame() if isinstance(run.settings.sft, SftWeights) else _curve(run.sft_output)


def _curve(folder: Path) -> pd.DataFrame:
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def _stages(run: Run) -> tuple[StageTime, ...]:
    document = run.documents.read(RESULT_FILE) or {"stages": []}
    return tuple(StageTime(**stage) for stage in document["stages"])


def _origin(run: Run) -> tuple[tuple[str, str], ...]:
    """(name, value) of every id and hash that the adapter depends on."""
    document: dict[str, Any] = lineage(run)
    sealed: dict[str, str] = document.pop("tables")
    scorers = run.tables.connect().sql("SELECT DISTINCT scorer, fingerprint FROM scores ORDER BY ALL").fetchall()
    judges = [(judge.name, judge.source.fingerprint) for judge in judges_of(run.settings)]
    return (
        *((name.replace("_", " "), str(value)) for name, value in document.items()),
        *((f"scorer {name}", fingerprint) for name, fingerprint in scorers),
        *((f"judge {name}", fingerprint) for name, fingerprint in judges),
        *((f"table {name}", version) for name, version in sealed.items()),
    )
