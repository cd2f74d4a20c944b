"""Claim: what pairs that speak for one dimension add to pairs that are better in all of them, on the toy world.

Three arms per seed, on one SFT network, one set of candidates and one set of scores, for equal numbers of optimiser steps:

    modality       the pairs of ``pairs.strategy: modality``
    routed         all pairs of ``pairs.strategy: routed``
    routed-equal   as many pairs of ``routed`` as ``modality`` gave, drawn by a hash of the pair's id

Every arm is a run of its own in one folder of runs, so that an arm computes only its pairs, training and evaluation. A call that
is interrupted continues where it stopped.

    python benchmarks/routed.py --runs FOLDER                            prints the result and writes nothing
    python benchmarks/routed.py --runs FOLDER --seeds 0 --arms routed    one piece of the work
    python benchmarks/routed.py --runs FOLDER --arms --write             computes nothing; writes benchmarks/routed.md from what is finished
    python benchmarks/routed.py --seeds 0 --config configs/tiny.yaml     toy size, in a temporary folder
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.domain import Split
from avpref.flows.run import Run
from avpref.flows.run_stages import owned, run_stages
from avpref.flows.stages.evaluate import evaluate
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.score import score
from avpref.flows.stages.sft import sft
from avpref.flows.stages.train import train
from avpref.identity import derive_seed, digest
from avpref.storage.documents import VERDICT_FILE
from avpref.storage.run_folder import RunFolder, create

CONFIG = Path(__file__).parents[1] / "configs" / "toyworld.yaml"
RESULT = Path(__file__).with_suffix(".md")
STRATEGY = {"modality": "modality", "routed": "routed", "routed-equal": "routed"}
ARMS = tuple(STRATEGY)
DIMENSIONS = ("video", "audio", "sync")


@dataclass(frozen=True)
class ArmResult:
    """One finished arm of one seed. ``by_dimension`` counts pairs by what they speak for, ``evaluation`` is that of the gate."""

    seed: int
    arm: str
    train_prompts: int
    prompts_with_pair: int
    by_dimension: dict[str, int]
    steps: int
    evaluation: dict[str, dict[str, float]]
    displacement: dict[str, float | None]
    drift: dict[str, float | None]
    accuracy: dict[str, float | None]

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return sum(self.by_dimension.values())


def arm_folder(arguments: argparse.Namespace, seed: int, arm: str) -> RunFolder:
    """The run of an arm; arms of one strategy differ by name."""
    overrides = [f"run.seed={seed}", f"run.name={arm}", f"pairs.strategy={STRATEGY[arm]}", *arguments.set]
    return create(arguments.runs, load_config(arguments.config, overrides, environment={}).settings)


def finish(arguments: argparse.Namespace, seed: int, arm: str) -> ArmResult:
    """Run the arm's stages that are not finished."""
    folder = arm_folder(arguments, seed, arm)
    run = Run.of(folder)
    with owned(run):
        run_stages(run, (prompts, sft, generate, score, pair))
        if arm == "routed-equal":
            keep(run, _result_of(arguments.runs, seed, "modality").pairs)
        run = Run.of(folder)  # the pairs of the first object are cached
        run_stages(run, (train, evaluate))
    result = _collected(run, seed, arm)
    _file(arguments.runs, seed, arm).write_text(json.dumps(asdict(result), indent=1))
    return result


def keep(run: Run, count: int) -> None:
    """Seal ``count`` of the run's pairs, those with the smallest hashes of their ids, in their order."""
    pairs = run.tables.read(tables.PAIRS)
    hashes = [derive_seed("pair of the subset", pair_id) for pair_id in pairs["pair_id"].to_pylist()]
    kept = np.sort(np.argsort(hashes, kind="stable")[:count])
    run.tables.seal(tables.PAIRS, digest("subset of pairs", run.pairs_hash, count), pairs.take(pa.array(kept)))


def _collected(run: Run, seed: int, arm: str) -> ArmResult:
    pairs, summary = run.tables.read(tables.PAIRS), run.training_summary
    dimensions = pairs["dimension"].to_pylist()
    return ArmResult(
        seed,
        arm,
        len(run.prompts_of(Split.TRAIN)),
        len(set(pairs["prompt_id"].to_pylist())),
        {name: dimensions.count(name) for name in sorted(set(dimensions))},
        summary.steps,
        run.documents.read(VERDICT_FILE)["evaluation"],
        vars(summary.displacement),
        vars(summary.drift),
        vars(summary.implicit_accuracy),
    )


def _file(runs: Path, seed: int, arm: str) -> Path:
    return runs / f"result-{seed}-{arm}.json"


def _result_of(runs: Path, seed: int, arm: str) -> ArmResult:
    path = _file(runs, seed, arm)
    if not path.exists():
        raise SystemExit(f"seed {seed} has no result of {arm}: run it before the arms that are compared with it")
    return ArmResult(**json.loads(path.read_text()))


def rows(results: Sequence[ArmResult]) -> Iterator[str]:
    """The lines of the table of ``results``."""
    yield "| seed | arm | pairs (by dimension) | prompts with a pair | video | audio | sync | displacement v / a | drift v / a |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for result in results:
        counts = ", ".join(f"{name} {count}" for name, count in result.by_dimension.items())
        gains = [
            f"{change['delta_sd']:+.3f} [{change['ci_low']:+.3f}, {change['ci_high']:+.3f}]"
            for change in (result.evaluation[name] for name in DIMENSIONS)
        ]
        share = f"{result.prompts_with_pair} of {result.train_prompts}"
        moved, drift = (_both(values) for values in (result.displacement, result.drift))
        cells = [str(result.seed), result.arm, f"{result.pairs} ({counts})", share, *gains, moved, drift]
        yield "| " + " | ".join(cells) + " |"


def means(results: Sequence[ArmResult]) -> Iterator[str]:
    """The lines of the table of means over the seeds."""
    yield "| arm | pairs | prompts with a pair | video | audio | sync | displacement v / a |"
    yield "|---|---|---|---|---|---|---|"
    for arm in dict.fromkeys(result.arm for result in results):
        own = [result for result in results if result.arm == arm]
        gains = [f"{np.mean([result.evaluation[name]['delta_sd'] for result in own]):+.3f}" for name in DIMENSIONS]
        moved = _both({name: _mean([result.displacement[name] for result in own]) for name in ("video", "audio")})
        counts = [
            f"{np.mean([result.pairs for result in own]):.0f}",
            f"{np.mean([result.prompts_with_pair for result in own]):.0f}",
        ]
        yield "| " + " | ".join([arm, *counts, *gains, moved]) + " |"


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _both(values: dict[str, float | None]) -> str:
    return " / ".join("–" if values[name] is None else f"{values[name]:+.4f}" for name in ("video", "audio"))


def page(results: Sequence[ArmResult]) -> str:
    """The benchmark's page."""
    steps = ", ".join(str(number) for number in sorted({result.steps for result in results}))
    lines = [
        "# Pairs of one dimension beside pairs of all",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch"
        f" {version('torch')}; a machine that others used at the same time. Made by `benchmarks/routed.py`.",
        "",
        f"{steps} optimiser steps in every arm. The arms of a seed share SFT network, candidates and scores.",
        "Gains on held-out prompts are in standard deviations of the SFT model, with paired bootstrap 95 % intervals.",
        "Displacement counts the pairs that move a modality. `routed-equal` has as many pairs as `modality`.",
        "",
        *rows(results),
        "",
        "Means over the seeds:",
        "",
        *means(results),
    ]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Finish the arms and print the page of those that are finished; with ``--write``, write it beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=None)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        arguments.runs = arguments.runs or Path(folder)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                finish(arguments, seed, arm)
        finished = [
            (seed, arm) for seed in arguments.seeds for arm in ARMS if _file(arguments.runs, seed, arm).exists()
        ]
        text = page([_result_of(arguments.runs, seed, arm) for seed, arm in finished])
    print(text)
    if arguments.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
