"""Stage ``evaluate``: the policy on held-out prompts with the reference's noise, compared, and put before the gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from avpref import __version__
from avpref.config.gate_settings import BootstrapProcedure, SequentialProcedure
from avpref.datasets import tables
from avpref.datasets.evidence import sequential as looks
from avpref.datasets.evidence.decision import Decision, DecisionInputs, rewards_of, take
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationKind, EvaluationRow, EvaluationSide, QuarantineRow
from avpref.domain import Candidate, Dimension, Prompt, ScoreStatus, Split
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.adapter_lineage import adapter_files, lineage
from avpref.flows.stages.candidates import make_candidates, read_candidates
from avpref.flows.stages.pair import read_norm
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.score import sealed_candidates
from avpref.flows.stages.score_stage import score_candidates
from avpref.flows.stages.sft import sft_network
from avpref.flows.stages.train import policy_network, training_summary
from avpref.flows.workers.scorers import metrics_of, sources
from avpref.identity import derive_seed, digest
from avpref.observability.progress import say
from avpref.registry import decisions
from avpref.storage.run_folder import RunFolder, open_root
from avpref.storage.score_files import distinct

STAGE = "evaluate"
VERDICT_FILE = "evaluation.json"
QUARANTINE_FILE = "quarantine-evaluate.json"
NO_SCORES = pd.DataFrame()


@dataclass(frozen=True)
class SideClips:
    """One side's held-out candidates and their scores, a frame with the columns of the score table."""

    candidates: list[Candidate]
    scores: pd.DataFrame

    def joined(self, other: SideClips) -> SideClips:
        """The clips of both."""
        frames = [frame for frame in (self.scores, other.scores) if len(frame)]
        return SideClips(self.candidates + other.candidates, pd.concat(frames) if frames else other.scores)


@reporting.stage("evaluate")
def evaluate(run_dir: str) -> int:
    """Compare policy and reference of the run in ``run_dir`` and decide; returns the number of held-out prompts compared.

    A sequential procedure stops at the first look that decides; what it did not look at is not made.
    """
    folder = open_root(Path(run_dir))
    parts = held_out_parts(folder)
    sides = {side: SideClips([], NO_SCORES) for side in EvaluationSide}
    prompts: list[Prompt] = []
    lost: list[QuarantineRow] = []
    for part in parts:
        policy, given_up = _policy(folder, part)
        sides = {
            EvaluationSide.REFERENCE: sides[EvaluationSide.REFERENCE].joined(_reference(folder, part)),
            EvaluationSide.POLICY: sides[EvaluationSide.POLICY].joined(policy),
        }
        prompts, lost = prompts + part, lost + given_up
        inputs = _inputs(folder, prompts, sum(map(len, parts)))
        decision = take(inputs, {side: _wide(clips, inputs) for side, clips in sides.items()})
        say(f"{len(prompts)} of {inputs.num_held_out} held-out prompts compared: {decision.verdict.verdict}")
        if decision.is_final:
            break
    folder.write_json(QUARANTINE_FILE, [vars(row) for row in lost])
    _write(folder, sides, decision)
    return len(prompts)


def held_out_parts(folder: RunFolder) -> list[list[Prompt]]:
    """Held-out prompts in the portions in which they are looked at: all at once, or a look's worth in a hashed order.

    The order is drawn from the run's seed, so that an early look is no worse a sample of the prompts than the whole.
    """
    settings = folder.settings
    held_out = [prompt for prompt in read_prompts(folder) if prompt.split == Split.HELD_OUT]
    match settings.evaluation.procedure:
        case BootstrapProcedure():
            return [held_out]
        case SequentialProcedure(look_prompts=size):
            ordered = sorted(held_out, key=lambda prompt: derive_seed("look", settings.run.seed, prompt.prompt_id))
            planned = looks.plan(len(ordered), size, settings.evaluation.confidence)
            ends = [0, *(look.num_prompts for look in planned)]
            return [ordered[start:end] for start, end in pairwise(ends)]


def _inputs(folder: RunFolder, prompts: list[Prompt], num_held_out: int) -> DecisionInputs:
    norm, policy = read_norm(folder), policy_network(folder)
    scale = {found.metric: found for found in norm.metrics}
    return DecisionInputs(
        run_id=folder.run_id,
        product_version=__version__,
        settings=folder.settings.evaluation,
        bootstrap_seed=folder.settings.run.seed,
        norm_id=norm.norm_id,
        metrics=tuple(
            MetricScale(m.name, m.dimension, m.higher_is_better, scale[m.name].mean, scale[m.name].std)
            for m in metrics_of(folder.settings.scoring)
        ),
        prompts=tuple(prompt.prompt_id for prompt in prompts),
        num_held_out=num_held_out,
        displacement=vars(training_summary(folder).displacement),
        meaningless=tuple(found.name for found in sources(folder.settings.scoring) if not found.terms.is_meaningful),
        policy_hash=policy.hash,
        adapter_hash=policy.adapter_hash,
        reference_hash=sft_network(folder).hash,
    )


def _reference(folder: RunFolder, prompts: list[Prompt]) -> SideClips:
    """The reference's clips were made and scored with the candidates."""
    wanted = {prompt.prompt_id for prompt in prompts}
    candidates = [candidate for candidate in sealed_candidates(folder) if candidate.prompt_id in wanted]
    ids = pa.array([candidate.candidate_id for candidate in candidates], pa.string())
    scores = [rows.filter(pc.is_in(rows["candidate_id"], ids)) for rows in folder.batches(tables.SCORES)]
    return SideClips(candidates, pa.concat_tables(scores).to_pandas())


def _policy(folder: RunFolder, prompts: list[Prompt]) -> tuple[SideClips, list[QuarantineRow]]:
    units = make_candidates(folder, STAGE, prompts, policy_network(folder))
    candidates = read_candidates(folder, units)
    scored = score_candidates(folder, "evaluate_score", candidates, prompts)
    rows, quarantined = folder.units(tables.SCORES).read(scored)
    lost = folder.units(tables.CANDIDATES).read(units)[1] + distinct(quarantined)
    return SideClips(candidates, rows.to_pandas()), lost


def _wide(side: SideClips, inputs: DecisionInputs) -> pd.DataFrame:
    """Prompt × metric of valid raw values, NaN where there is none, in the order of the inputs' prompts."""
    prompt_of = {candidate.candidate_id: candidate.prompt_id for candidate in side.candidates}
    valid = side.scores[side.scores.status == ScoreStatus.OK]
    table = valid.assign(prompt_id=valid.candidate_id.map(prompt_of)).pivot(
        index="prompt_id", columns="metric", values="value"
    )
    return table.reindex(index=list(inputs.prompts), columns=[metric.name for metric in inputs.metrics]).astype(float)


def _write(folder: RunFolder, sides: dict[EvaluationSide, SideClips], decision: Decision) -> None:
    inputs = decision.inputs
    rewards = rewards_of(inputs, {side: _wide(clips, inputs) for side, clips in sides.items()})
    rows = list(_rows(sides, rewards, inputs.norm_id))
    content = digest("evaluation", [[row.candidate_id, row.name, row.value] for row in rows])
    rows = [replace(row, evaluation_id="e" + content) for row in rows]
    sealed = folder.seal(tables.EVALUATIONS, content, tables.to_arrow(tables.EVALUATIONS, rows, content))
    decision = replace(decision, inputs=replace(inputs, evaluations=sealed.version))
    decisions.seal(folder, decision)
    decisions.record(folder, decision, lineage(folder), adapter_files(folder))
    document = decision.document()
    gated = {key: document[key] for key in ("verdict", "reasons", "rules", "decision_id")}
    folder.write_json(VERDICT_FILE, {"evaluation": document["evaluation"], "gate": gated})


def _rows(
    sides: dict[EvaluationSide, SideClips], rewards: Mapping[EvaluationSide, pd.DataFrame], norm_id: str
) -> Iterator[EvaluationRow]:
    for side, clips in sides.items():
        by_id = {candidate.candidate_id: candidate for candidate in clips.candidates}
        for row in clips.scores.itertuples():
            value = row.value if row.status == ScoreStatus.OK else None
            yield _row(
                by_id[row.candidate_id],
                side,
                EvaluationKind.SCORE,
                (row.metric, value, row.status, row.reason),
                norm_id,
            )
        for candidate in clips.candidates:
            for dimension in Dimension:
                value = float(rewards[side].at[candidate.prompt_id, dimension])
                state = (value, ScoreStatus.OK, "") if value == value else (None, ScoreStatus.SKIPPED, "no valid score")
                yield _row(candidate, side, EvaluationKind.REWARD, (str(dimension), *state), norm_id)


def _row(
    candidate: Candidate,
    side: EvaluationSide,
    kind: EvaluationKind,
    number: tuple[str, float | None, str, str],
    norm_id: str,
) -> EvaluationRow:
    name, value, status, reason = number
    return EvaluationRow(
        evaluation_id="",
        prompt_id=candidate.prompt_id,
        index=candidate.index,
        side=side,
        candidate_id=candidate.candidate_id,
        seed=candidate.seed,
        kind=kind,
        name=name,
        value=value,
        status=ScoreStatus(status),
        reason=reason,
        norm_id=norm_id,
    )
