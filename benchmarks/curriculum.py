"""Claim: what a curriculum of rule-made desynchronised rejected clips adds to the flat mix, on the toy world.

Arms per seed, on one SFT network, one set of candidates, scores and pairs, for equal numbers of optimiser steps:

    flat         delayed sound, all delays from the first step on (``dpo.desync_order: flat``)
    curriculum   the same delays, the largest alone at first and smaller ones epoch by epoch (``large_first``)
    kinds        a curriculum of delays, then stretched, repeated and swapped sound (``dpo.desync_kinds``)

Every arm is a run of its own in one folder of runs, so that an arm computes only its training and evaluation. A call that is
interrupted continues where it stopped.

    python benchmarks/curriculum.py --runs FOLDER                                  prints the result and writes nothing
    python benchmarks/curriculum.py --runs FOLDER --seeds 0 --arms flat --prepare  one piece of the work: up to the pairs
    python benchmarks/curriculum.py --runs FOLDER --seeds 0 --arms flat            the next piece
    python benchmarks/curriculum.py --runs FOLDER --arms --write                   writes curriculum.md from what is finished
    python benchmarks/curriculum.py --seeds 0 --config configs/tiny.yaml           toy size, in a temporary folder
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
from numpy.typing import NDArray

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
from avpref.identity import derive_seed
from avpref.storage.documents import VERDICT_FILE
from avpref.storage.run_folder import RunFolder, create

CONFIG = Path(__file__).parents[1] / "configs" / "toyworld.yaml"
RESULT = Path(__file__).with_suffix(".md")
FLAT = "flat"
LARGE_FIRST = "dpo.desync_order=large_first"
OVERRIDES: dict[str, tuple[str, ...]] = {
    FLAT: (),
    "curriculum": (LARGE_FIRST,),
    "kinds": (LARGE_FIRST, "dpo.desync_kinds=[delay, stretch, repeat, swap]"),
}
ARMS = tuple(OVERRIDES)
DIMENSIONS = ("video", "audio", "sync")
MEASURED = {"desync": "desync, ms", "audio_video": "audio-video, cosine"}
UNIT = {"desync": 1000.0, "audio_video": 1.0}
DRAWS = 2000
PREPARATION, TRAINING = (prompts, sft, generate, score, pair), (train, evaluate)


@dataclass(frozen=True)
class ArmResult:
    """One finished arm of one seed.

    ``evaluation`` is that of the gate. ``reference`` and ``policy`` have the values of the metrics of :data:`MEASURED` on every held-out
    prompt, in the order of the prompts; NaN where a clip could not be judged.
    """

    seed: int
    arm: str
    pairs: int
    steps: int
    evaluation: dict[str, dict[str, float]]
    reference: dict[str, list[float]]
    policy: dict[str, list[float]]
    displacement: dict[str, float | None]

    def change(self, metric: str) -> NDArray[np.float64]:
        """Policy minus reference of each prompt."""
        return np.array(self.policy[metric], dtype=float) - np.array(self.reference[metric], dtype=float)


def arm_folder(arguments: argparse.Namespace, seed: int, arm: str) -> RunFolder:
    """The run of an arm. Pair selection does not depend on the arm."""
    overrides = [f"run.seed={seed}", f"run.name={arm}", *OVERRIDES[arm], *arguments.set]
    return create(arguments.runs, load_config(arguments.config, overrides, environment={}).settings)


def finish(arguments: argparse.Namespace, seed: int, arm: str) -> None:
    """Run the arm's stages that are not finished; with ``--prepare`` only those up to the pairs."""
    run = Run.of(arm_folder(arguments, seed, arm))
    with owned(run):
        run_stages(run, PREPARATION if arguments.prepare else (*PREPARATION, *TRAINING))
    if not arguments.prepare:
        _file(arguments.runs, seed, arm).write_text(json.dumps(asdict(_collected(run, seed, arm)), indent=1))


def _collected(run: Run, seed: int, arm: str) -> ArmResult:
    summary, names = run.training_summary, [prompt.prompt_id for prompt in run.prompts_of(Split.HELD_OUT)]
    rows = [row for row in run.tables.read(tables.EVALUATIONS).to_pylist() if row["kind"] == "score"]
    values = {(row["side"], row["name"], row["prompt_id"]): row["value"] for row in rows}

    def of_side(side: str) -> dict[str, list[float]]:
        own = {metric: [values.get((side, metric, name)) for name in names] for metric in MEASURED}
        return {metric: [np.nan if value is None else value for value in column] for metric, column in own.items()}

    evaluation = run.documents.read(VERDICT_FILE)["evaluation"]
    moved, num_pairs = vars(summary.displacement), run.tables.num_rows(tables.PAIRS)
    sides = of_side("reference"), of_side("policy")
    return ArmResult(seed, arm, num_pairs, summary.steps, evaluation, *sides, moved)


def _file(runs: Path, seed: int, arm: str) -> Path:
    return runs / f"result-{seed}-{arm}.json"


def interval(differences: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % bootstrap interval; pairs with NaN are left out."""
    valid = differences[~np.isnan(differences)]
    if not len(valid):
        return np.nan, np.nan, np.nan
    generator = np.random.default_rng(derive_seed("interval", seed))
    means = valid[generator.integers(0, len(valid), (DRAWS, len(valid)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(valid.mean()), float(low), float(high)


def _cell(values: tuple[float, float, float], unit: float = 1.0, digits: int = 3) -> str:
    mean, low, high = (f"{value * unit:+.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def _change(result: ArmResult, metric: str, differences: NDArray[np.float64]) -> str:
    return _cell(interval(differences, result.seed), UNIT[metric], 1 if metric == "desync" else 4)


def rows(results: Sequence[ArmResult]) -> Iterator[str]:
    """The lines of the table of ``results``."""
    yield "| seed | arm | pairs | " + " | ".join((*MEASURED.values(), *DIMENSIONS)) + " | displacement v / a |"
    yield "|" + "---|" * (4 + len(MEASURED) + len(DIMENSIONS))
    for result in results:
        measured = [_change(result, metric, result.change(metric)) for metric in MEASURED]
        changes = (result.evaluation[name] for name in DIMENSIONS)
        gains = [_cell((change["delta_sd"], change["ci_low"], change["ci_high"])) for change in changes]
        moved = (result.displacement[name] for name in ("video", "audio"))
        shown = " / ".join("–" if value is None else f"{value:+.4f}" for value in moved)
        yield f"| {result.seed} | {result.arm} | {result.pairs} | " + " | ".join([*measured, *gains, shown]) + " |"


def against_flat(results: Sequence[ArmResult]) -> Iterator[str]:
    """The lines of the table of the other arms minus the flat mix, prompt by prompt, per seed and over all seeds."""
    yield "| arm | seed | " + " | ".join(MEASURED.values()) + " |"
    yield "|" + "---|" * (2 + len(MEASURED))
    flat = {result.seed: result for result in results if result.arm == FLAT}
    for arm in [name for name in ARMS if name != FLAT]:
        own = [result for result in results if result.arm == arm and result.seed in flat]
        for result in own:
            cells = [_change(result, name, result.change(name) - flat[result.seed].change(name)) for name in MEASURED]
            yield f"| {arm} | {result.seed} | " + " | ".join(cells) + " |"
        if len(own) > 1:
            joined = {
                name: np.concatenate([result.change(name) - flat[result.seed].change(name) for result in own])
                for name in MEASURED
            }
            cells = [_change(own[0], name, differences) for name, differences in joined.items()]
            yield f"| {arm} | all {len(own)} | " + " | ".join(cells) + " |"


def page(results: Sequence[ArmResult], config: Path, missing: Sequence[str] = ()) -> str:
    """The benchmark's page; ``missing`` are the arms and seeds that were not run."""
    steps = ", ".join(str(number) for number in sorted({result.steps for result in results}))
    lines = [
        "# Curriculum of desynchronised rejected clips",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch"
        f" {version('torch')}; a machine that others used at the same time. Made by `benchmarks/curriculum.py`.",
        "",
        f"`configs/{config.name}`, {steps} optimiser steps in every arm. The arms of a seed share SFT network, candidates, scores and",
        "pairs. Policy minus SFT model on held-out prompts, same noise, paired bootstrap 95 % intervals: `desync` (lower is better)",
        "and `audio_video` in their units, the dimensions of the gate in standard deviations of the SFT model.",
        "",
        *rows(results),
        "",
        "Minus the flat mix, prompt by prompt:",
        "",
        *against_flat(results),
        *(
            ["", f"Not measured yet: {', '.join(missing)}. Conclusions from fewer than three seeds are preliminary."]
            if missing
            else []
        ),
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
    parser.add_argument("--prepare", action="store_true", help="stop after the pairs")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        arguments.runs = arguments.runs or Path(folder)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                finish(arguments, seed, arm)
        paths = {f"{arm} of seed {seed}": _file(arguments.runs, seed, arm) for seed in arguments.seeds for arm in ARMS}
        results = [ArmResult(**json.loads(path.read_text())) for path in paths.values() if path.exists()]
        missing = [name for name, path in paths.items() if not path.exists()]
    text = page(results, arguments.config, missing)
    print(text)
    if arguments.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
