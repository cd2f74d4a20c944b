"""Claim: what rounds add to one round with the same total number of candidates and optimiser steps, on the toy world.

Arms per seed, all from one SFT network and compared with it on the same held-out prompts and noise:

    one           one round: K times the candidates per prompt and K times the steps
    rounds        K rounds, the reference of each is the SFT network
    previous      K rounds, the reference of each is the policy before
    informative   as rounds, with more candidates where they tell more, and half of the pairs before

The gate of every arm passes, so that all rounds are made. A call that is interrupted continues where it stopped.

    python benchmarks/rounds.py --runs FOLDER                               prints the result and writes nothing
    python benchmarks/rounds.py --runs FOLDER --seeds 0 --arms rounds       one piece of the work
    python benchmarks/rounds.py --runs FOLDER --arms --write                writes benchmarks/rounds.md from what is finished
    python benchmarks/rounds.py --seeds 0 --rounds 2 --config configs/tiny.yaml   toy size, in a temporary folder
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from avpref.config.loading import load_config
from avpref.flows.retrain import run_loop
from avpref.flows.rounds.round_rows import round_rows
from avpref.flows.rounds.round_sequence import run_rounds
from avpref.flows.run import Run
from avpref.storage.documents import VERDICT_FILE
from avpref.storage.run_folder import create, open_root

CONFIG = Path(__file__).parents[1] / "configs" / "toyworld.yaml"
RESULT = Path(__file__).with_suffix(".md")
PASSES = "evaluation.gate.rules=[{kind: displacement, maximum: 1000000}]"
CHANGES = {
    "one": [],
    "rounds": [],
    "previous": ["rounds.reference=previous"],
    "informative": ["rounds.allocation=informative", "rounds.earlier_share=0.5"],
}
ARMS = tuple(CHANGES)
DIMENSIONS = ("video", "audio", "sync")


@dataclass(frozen=True)
class RoundResult:
    """One finished round of one arm: its row, steps, and the gate's comparison by dimension."""

    seed: int
    arm: str
    steps: int
    row: Mapping[str, Any]
    evaluation: Mapping[str, Mapping[str, float]]
    is_last: bool


def finish(arguments: argparse.Namespace, seed: int, arm: str) -> list[RoundResult]:
    """Run what is missing of an arm; returns its rounds."""
    base = load_config(arguments.config, arguments.set, environment={}).settings
    factor = arguments.rounds if arm == "one" else 1
    overrides = [
        *arguments.set,
        f"run.seed={seed}",
        PASSES,
        f"rounds.count={1 if arm == 'one' else arguments.rounds}",
        f"sampling.num_candidates={factor * base.sampling.num_candidates}",
        f"dpo.loop.steps={factor * base.dpo.loop.steps}",
        *CHANGES[arm],
    ]
    folder = create(arguments.runs, load_config(arguments.config, overrides, environment={}).settings)
    last = run_rounds(folder, run_loop).rounds[-1]
    rows = round_rows(Run.of(open_root(Path(last.run_dir))))
    results = [_result(arguments.runs, seed, arm, row.document(), row is rows[-1]) for row in rows]
    _file(arguments.runs, seed, arm).write_text(json.dumps([asdict(result) for result in results], indent=1))
    return results


def _result(runs: Path, seed: int, arm: str, row: dict[str, Any], is_last: bool) -> RoundResult:
    run = Run.of(open_root(runs / row["run_id"]))
    verdict = run.documents.read(VERDICT_FILE)
    assert verdict is not None
    return RoundResult(seed, arm, run.training_summary.steps, row, verdict["evaluation"], is_last)


def _file(runs: Path, seed: int, arm: str) -> Path:
    return runs / f"rounds-{seed}-{arm}.json"


def table(results: Sequence[RoundResult]) -> Iterator[str]:
    """The lines of the table of all rounds."""
    yield "| seed | arm | round | steps | candidates | pairs (earlier) | video | audio | sync | drift | update norm | diversity |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for result in results:
        row = result.row
        gains = [
            f"{change['delta_sd']:+.3f} [{change['ci_low']:+.3f}, {change['ci_high']:+.3f}]"
            for change in (result.evaluation[name] for name in DIMENSIONS)
        ]
        diversity = "–" if row["diversity"] is None else f"{row['diversity']:.3f}"
        drift = "–" if row["drift"] is None else f"{row['drift']:.4f}"
        cells = [str(result.seed), result.arm, str(row["round"]), str(result.steps), str(row["candidates"])]
        cells += [f"{row['pairs']} ({row['earlier_pairs']})", *gains, drift, f"{row['update_norm']:.3f}", diversity]
        yield "| " + " | ".join(cells) + " |"


def means(results: Sequence[RoundResult]) -> Iterator[str]:
    """The lines of the table of last rounds: means over the seeds, and the mean differences from arm ``one``."""
    last = {(result.seed, result.arm): result for result in results if result.is_last}
    yield "| arm | seeds | video | audio | sync | video − one | audio − one | sync − one |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm in dict.fromkeys(arm for _, arm in last):
        seeds = [seed for seed, other in last if other == arm]
        gains = [[last[seed, arm].evaluation[name]["delta_sd"] for seed in seeds] for name in DIMENSIONS]
        both = [seed for seed in seeds if (seed, "one") in last]
        changes = [
            [
                last[seed, arm].evaluation[name]["delta_sd"] - last[seed, "one"].evaluation[name]["delta_sd"]
                for seed in both
            ]
            for name in DIMENSIONS
        ]
        cells = [arm, str(len(seeds)), *(f"{np.mean(values):+.3f}" for values in gains)]
        cells += [
            f"{np.mean(values):+.3f} ({min(values):+.3f} to {max(values):+.3f})" if values else "–"
            for values in changes
        ]
        yield "| " + " | ".join(cells) + " |"


def page(results: Sequence[RoundResult]) -> str:
    """The benchmark's page."""
    lines = [
        "# Rounds beside one round of the same size",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch"
        f" {version('torch')}; a machine that others used at the same time. Made by `benchmarks/rounds.py`.",
        "",
        "Arms of a seed have the same SFT network, and in total the same number of candidates and optimiser steps.",
        "Gains on held-out prompts are against the SFT network, in standard deviations of its rewards, with paired bootstrap 95 %",
        "intervals. Drift is the mean square of policy minus reference velocity: the reference of `previous` is the policy before.",
        "Update norm and diversity are those of docs/rounds.md. Every gate passed.",
        "",
        *table(results),
        "",
        "Last rounds, means over the seeds; differences from `one` with the smallest and the largest of a seed:",
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        arguments.runs = arguments.runs or Path(folder)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                finish(arguments, seed, arm)
        files = [_file(arguments.runs, seed, arm) for seed in arguments.seeds for arm in ARMS]
        rows = [row for path in files if path.exists() for row in json.loads(path.read_text())]
        text = page([RoundResult(**row) for row in rows])
    print(text)
    if arguments.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
