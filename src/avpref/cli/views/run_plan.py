"""The stages of a run before it starts, one line each, from its settings alone: no network or library of numbers is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from avpref.config.data_settings import ToyWorldPrompts
from avpref.config.executor_settings import RayExecutor
from avpref.config.schema import Settings
from avpref.config.training_settings import LoopSettings, SftWeights
from avpref.console import say
from avpref.storage.documents import RESULT_FILE
from avpref.storage.run_folder import run_id


def say_plan(settings: Settings, runs: Path) -> None:
    """Print :func:`plan_lines` to the console."""
    for line in plan_lines(settings, runs):
        say(line)


def plan_lines(settings: Settings, runs: Path) -> Iterator[str]:
    """A line about the run, one per stage, and one about its folder."""
    root = runs / run_id(settings)
    again = " (finished before: only what is missing is done)" if (root / RESULT_FILE).exists() else ""
    yield f"{settings.run.name}, seed {settings.run.seed}: from prompts to a decision about an adapter, in nine stages{again}"
    for stage, work in _stages(settings):
        yield f"  {stage:<9} {work}"
    if settings.rounds.count > 1:
        yield f"then the same from the policy, up to {settings.rounds.count} rounds; a refused round is the last"
    yield f"results go to {root}; the same command continues an interrupted run"


def _stages(settings: Settings) -> Iterator[tuple[str, str]]:
    sampling, dpo, prompts = settings.sampling, settings.dpo, settings.prompts
    workers = "this process"
    if isinstance(settings.executor, RayExecutor):
        workers = f"{settings.executor.num_actors} Ray actors"
    counts = ""
    if isinstance(prompts, ToyWorldPrompts):
        counts = f": {prompts.num_prompts} to train on, {prompts.num_evaluation_clips} held out"
    yield "prompts", f"of kind {prompts.kind}{counts}"
    if isinstance(settings.sft, SftWeights):
        lora = f" and its adapter {settings.sft.lora}" if settings.sft.lora else ""
        yield "sft", f"the trained network {settings.sft.network}{lora}"
    else:
        yield "sft", f"{_training(settings.sft.loop, 'clips')} train the network from random values"
    yield (
        "generate",
        f"{sampling.num_candidates} candidates per prompt, {sampling.steps} sampling steps each, on {workers}",
    )
    names = [entry if isinstance(entry, str) else entry.slug for entry in settings.scoring.scorers]
    yield "score", f"every clip by {', '.join(names)}"
    yield "pair", f"chosen and rejected clips by the strategy {settings.pairs.strategy}"
    yield "audit", "facts such as loudness that could tell chosen from rejected clips"
    adapter = "SFT's LoRA adapter on" if dpo.adapter.layout == "two_adapters" else "a LoRA adapter"
    yield "train", f"{_training(dpo.loop, 'pairs')} train {adapter} by AV-DPO"
    yield "evaluate", "the adapter on held-out prompts against the network without it; the gate decides"
    yield "report", "one page with clips, curves, intervals and the decision"


def _training(loop: LoopSettings, noun: str) -> str:
    processes = f" in {loop.num_processes} processes" if loop.num_processes > 1 else ""
    return f"{loop.steps} steps of {loop.batch_size} {noun}{processes}"
