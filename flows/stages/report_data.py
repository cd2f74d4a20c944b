"""What a report says of a run, read once: the verdict, the numbers behind it, and where it all came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avpref.config.schema import Settings
from avpref.datasets import tables
from avpref.datasets.evidence.evaluation import DimensionComparison
from avpref.datasets.evidence.gate import PROMOTE, RuleOutcome
from avpref.datasets.evidence.shortcuts import AuditRow
from avpref.datasets.rows import EvaluationKind, EvaluationSide
from avpref.domain import PUBLIC_NAME, Candidate, Dimension, Metric, Split
from avpref.errors import InputError
from avpref.flows.stages import evaluate
from avpref.flows.stages.adapter_lineage import lineage
from avpref.flows.stages.audit_tables import read_audit
from avpref.flows.stages.candidates import plan_candidates, read_candidates
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.score import sealed_candidates
from avpref.flows.stages.sft import sft_network
from avpref.flows.stages.train import policy_network, training_job
from avpref.flows.workers.scorers import metrics_of
from avpref.storage.run_folder import RESULT_FILE, RunFolder
from avpref.trainer.metrics import METRICS_FILE


@dataclass(frozen=True)
class StageTime:
    """How long a stage took in the execution that the report follows, and how many rows its result has."""

    name: str
    seconds: float
    rows: int


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Reference and policy on the same held-out prompts and noise.

    ``clips``: candidate ids, index ``prompt_id``, columns :class:`EvaluationSide`. ``rewards`` and ``scores``: values, index
    ``prompt_id``, columns (side, dimension) and (side, metric); NaN where a clip has no valid number.
    """

    clips: pd.DataFrame
    rewards: pd.DataFrame
    scores: pd.DataFrame

    @property
    def gain(self) -> pd.Series:
        """Sum over the dimensions of policy − reference, best first; prompts without all six rewards are left out."""
        deltas = self.rewards[EvaluationSide.POLICY] - self.rewards[EvaluationSide.REFERENCE]
        total = deltas.sum(axis=1, skipna=False).dropna().rename("gain").reset_index()
        return total.sort_values(["gain", "prompt_id"], ascending=[False, True]).set_index("prompt_id")["gain"]


@dataclass(frozen=True, eq=False)
class Curves:
    """Metric rows of the two trainings, one row per optimiser step, in order."""

    sft: pd.DataFrame
    dpo: pd.DataFrame


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the report shows. Frames have the columns of their tables; ``rewards`` adds ``origin``."""

    run_id: str
    settings: Settings
    metrics: tuple[Metric, ...]
    verdict: str
    rules: tuple[RuleOutcome, ...]
    comparisons: Mapping[Dimension, DimensionComparison]
    held_out: HeldOut
    texts: Mapping[str, str]
    num_train_prompts: int
    candidates: Mapping[str, Candidate]
    rewards: pd.DataFrame
    pairs: pd.DataFrame
    skipped: pd.DataFrame
    excluded: pd.DataFrame
    quarantine: pd.DataFrame
    audit: tuple[AuditRow, ...]
    curves: Curves
    stages: tuple[StageTime, ...]
    origin: tuple[tuple[str, str], ...]

    @property
    def is_promoted(self) -> bool:
        """Whether the gate said yes."""
        return self.verdict == PROMOTE


def collect(folder: RunFolder) -> ReportData:
    """Read a finished run. Raises InputError where a stage is missing, TableError for a damaged table."""
    verdict = folder.read_json(evaluate.VERDICT_FILE)
    if verdict is None:
        fix = f"avpref runs resume {folder.run_id} --runs {folder.root.parent}"
        raise InputError(f"run {folder.run_id} has not been evaluated", "a finished run", fix)
    prompts = read_prompts(folder)
    candidates = {found.candidate_id: found for found in sealed_candidates(folder) + _policy_candidates(folder)}
    quarantine = (
        folder.read(tables.QUARANTINE) if folder.has(tables.QUARANTINE) else tables.to_arrow(tables.QUARANTINE, [])
    )
    return ReportData(
        run_id=folder.run_id,
        settings=folder.settings,
        metrics=tuple(metrics_of(folder.settings.scoring)),
        verdict=verdict["gate"]["verdict"],
        rules=tuple(RuleOutcome(**rule) for rule in verdict["gate"]["rules"]),
        comparisons={
            dimension: DimensionComparison(**verdict["evaluation"][name]) for dimension, name in PUBLIC_NAME.items()
        },
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
    numbers = {kind: rows[rows.kind == kind] for kind in EvaluationKind}
    wide = {
        kind: found.pivot(index="prompt_id", columns=["side", "name"], values="value").astype(float)
        for kind, found in numbers.items()
    }
    return HeldOut(clips, wide[EvaluationKind.REWARD], wide[EvaluationKind.SCORE])


def _with_origin(rewards: pd.DataFrame, candidates: Mapping[str, Candidate]) -> pd.DataFrame:
    return rewards.assign(origin=[str(candidates[found].origin) for found in rewards.candidate_id])


def _curve(folder: Path) -> pd.DataFrame:
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def _stages(folder: RunFolder) -> tuple[StageTime, ...]:
    document = folder.read_json(RESULT_FILE) or {"stages": []}
    return tuple(StageTime(stage["name"], stage["seconds"], stage["rows"]) for stage in document["stages"])


def _origin(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    """(name, value) of every id and hash that the adapter came from, flat."""
    found: dict[str, Any] = lineage(folder)
    sealed: dict[str, str] = found.pop("tables")
    scorers = folder.connect().sql("SELECT DISTINCT scorer, fingerprint FROM scores ORDER BY ALL").fetchall()
    return (
        *((name.replace("_", " "), str(value)) for name, value in found.items()),
        *((f"scorer {name}", fingerprint) for name, fingerprint in scorers),
        *((f"table {name}", version) for name, version in sealed.items()),
    )
