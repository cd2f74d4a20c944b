"""False promotions and power of the gate, from simulated evaluations.

    python benchmarks/gate.py                       writes benchmarks/gate.md (minutes)
    python benchmarks/gate.py --null 2 --power 2    other numbers: prints the result and writes nothing

A reward is the sum of a normal part of the prompt, equal for both sides, and noise of one of several distributions, drawn for each
side. Comparison and rules are those of the product, with default settings.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy

from avpref.config.gate_settings import EvaluationSettings
from avpref.datasets.evidence import gate
from avpref.datasets.evidence import sequential as looks
from avpref.datasets.evidence.evaluation import BootstrapSettings, DimensionComparison, compare
from avpref.datasets.rows import EvaluationSide
from avpref.domain import Dimension

NUM_NULL, NUM_POWER = 1000, 300
"""Evaluations per cell: of equal models, and of models that differ."""
LOOKS = 4
SETTINGS = EvaluationSettings()
KEPT: dict[str, float | None] = {"video": 0.0, "audio": 0.0}
PROMPT_SHARES = (0.0, 0.5, 0.75)
"""Shares of the variance of a reward that come from the prompt, which both sides have in common."""
MARGINS = (0.05, 0.1, 0.2)

Sides = dict[EvaluationSide, pd.DataFrame]
Compared = dict[str, DimensionComparison]
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

LAWS: dict[str, Draw] = {
    "normal": lambda generator, size: generator.normal(size=size),
    "heavy tails (Student, 2.5 degrees)": lambda generator, size: generator.standard_t(2.5, size=size),
    "skewed (lognormal)": lambda generator, size: generator.lognormal(size=size),
    "two values (ties)": lambda generator, size: generator.integers(0, 2, size=size).astype(float),
    "normal, one noise for all dimensions": lambda generator, size: np.broadcast_to(
        generator.normal(size=(size[0], 1)), size
    ),
}


@dataclass(frozen=True)
class Outcome:
    """Share of simulated evaluations that promote, and the mean number of held-out prompts that were used."""

    promoted: float
    num_prompts: float


def simulate(law: str, num_prompts: int, prompt_share: float, shifts: dict[str, float], seed: int) -> Sides:
    """Both sides' rewards; ``shifts`` are in standard deviations of the reference."""
    generator = np.random.default_rng([seed, num_prompts])
    size = (num_prompts, len(Dimension))
    prompt = generator.normal(size=size) * prompt_share**0.5
    rewards = {side: prompt + LAWS[law](generator, size) * (1 - prompt_share) ** 0.5 for side in EvaluationSide}
    spread = rewards[EvaluationSide.REFERENCE].std(axis=0, ddof=1)
    rewards[EvaluationSide.POLICY] = (
        rewards[EvaluationSide.POLICY] + np.array([shifts[dimension] for dimension in Dimension]) * spread
    )
    return {side: pd.DataFrame(values, columns=list(Dimension)) for side, values in rewards.items()}


def all_at_once(sides: Sides, seed: int) -> Iterator[tuple[int, Compared]]:
    comparisons = compare(sides, BootstrapSettings(SETTINGS.bootstrap_samples, SETTINGS.confidence, seed))
    yield len(sides[EvaluationSide.POLICY]), comparisons


def in_looks(sides: Sides, seed: int) -> Iterator[tuple[int, Compared]]:
    num_prompts = len(sides[EvaluationSide.POLICY])
    for look in looks.plan(num_prompts, max(2, num_prompts // LOOKS), SETTINGS.confidence):
        part = {side: frame.iloc[: look.num_prompts] for side, frame in sides.items()}
        yield look.num_prompts, looks.compare_at(part, look)


PROCEDURES = {"bootstrap": all_at_once, f"sequential, {LOOKS} looks": in_looks}


def promotes(comparisons: Compared) -> bool:
    return gate.decide(comparisons, KEPT, SETTINGS.gate).is_promoted


def all_but_sync_better(comparisons: Compared) -> Compared:
    """Audio and video improved by two standard deviations: only the rule on sync can refuse."""
    return {
        dimension: comparison
        if dimension is Dimension.AV
        else replace(
            comparison,
            delta_sd=comparison.delta_sd + 2,
            ci_low=comparison.ci_low + 2,
            ci_high=comparison.ci_high + 2,
        )
        for dimension, comparison in comparisons.items()
    }


def measure(procedure: str, num_prompts: int, effect: float, repeats: int) -> Outcome:
    promoted = used = 0
    for seed in range(repeats):
        sides = simulate("normal", num_prompts, 0.5, dict.fromkeys(Dimension, effect), seed)
        for look_prompts, comparisons in PROCEDURES[procedure](sides, seed):
            is_promoted, num_used = promotes(comparisons), look_prompts
            if is_promoted or gate.is_hopeless(comparisons, SETTINGS.gate):
                break
        promoted, used = promoted + is_promoted, used + num_used
    return Outcome(promoted / repeats, used / repeats)


def measure_hardest(procedure: str, law: str, num_prompts: int, repeats: int) -> tuple[float, float]:
    """Shares of false promotions: where no dimension is better, and where all but sync are better."""
    nothing = dict.fromkeys(Dimension, 0.0)
    false = hardest = 0
    for seed in range(repeats):
        sides = simulate(law, num_prompts, 0.5, nothing, seed)
        looks_taken = [comparisons for _, comparisons in PROCEDURES[procedure](sides, seed)]
        false += any(promotes(comparisons) for comparisons in looks_taken)
        hardest += any(promotes(all_but_sync_better(comparisons)) for comparisons in looks_taken)
    return false / repeats, hardest / repeats


def false_promotions(repeats: int) -> Iterator[str]:
    yield "| noise | prompts | " + " | ".join(f"{name}: nothing better | only sync not" for name in PROCEDURES) + " |"
    yield "|---|---|" + "---|---|" * len(PROCEDURES)
    for law in LAWS:
        for num_prompts in (6, 32, 128):
            shares = [
                f"{share:.1%}" for name in PROCEDURES for share in measure_hardest(name, law, num_prompts, repeats)
            ]
            yield f"| {law} | {num_prompts} | {' | '.join(shares)} |"
            print(law, num_prompts, *shares, flush=True)


def power(repeats: int) -> Iterator[str]:
    effects = (0.5, 0.6, 0.7, 1.0)
    yield "| prompts | procedure | " + " | ".join(f"{effect} sd" for effect in effects) + " |"
    yield "|---|---|" + "---|" * len(effects)
    for num_prompts in (16, 64, 256):
        for name in PROCEDURES:
            cells = []
            for effect in effects:
                outcome = measure(name, num_prompts, effect, repeats)
                used = "" if name == "bootstrap" else f" ({outcome.num_prompts:.0f})"
                cells.append(f"{outcome.promoted:.0%}{used}")
            yield f"| {num_prompts} | {name} | {' | '.join(cells)} |"
            print(num_prompts, name, *cells, flush=True)


def video_kept(repeats: int) -> Iterator[str]:
    """Power of the non-inferiority rule alone where video did not change."""
    yield (
        "| prompts | "
        + " | ".join(f"{share:.0%} of variance from the prompt, margin {m}" for share in PROMPT_SHARES for m in MARGINS)
        + " |"
    )
    yield "|---|" + "---|" * len(PROMPT_SHARES) * len(MARGINS)
    nothing = dict.fromkeys(Dimension, 0.0)
    for num_prompts in (64, 256, 1024, 4096):
        cells = []
        for share in PROMPT_SHARES:
            sides = [simulate("normal", num_prompts, share, nothing, seed) for seed in range(repeats)]
            lows = [looks.compare_at(pair, looks.Look(num_prompts, 0.025))[Dimension.VIDEO].ci_low for pair in sides]
            cells += [f"{np.mean(np.array(lows) > -margin):.0%}" for margin in MARGINS]
        yield f"| {num_prompts} | {' | '.join(cells)} |"
        print(num_prompts, *cells, flush=True)


def report(num_null: int, num_power: int) -> str:
    false, power_rows, kept = (
        list(rows) for rows in (false_promotions(num_null), power(num_power), video_kept(num_power))
    )
    line = "\n"
    return f"""# How often the gate is wrong, and what it finds

{datetime.date.today()} · {os.cpu_count()} cores ({platform.machine()}) · Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}

Script: `benchmarks/gate.py`. Simulated evaluations through the product's own `compare` (or `compare_at`) and `decide` with default settings
({SETTINGS.bootstrap_samples} resamples, confidence {SETTINGS.confidence}). Effects are in standard deviations of the reference's rewards.

## False promotions

Two equal models up to fresh noise, {num_null:,} evaluations per cell; half of a reward's variance belongs to the prompt. *Nothing better*: all
three dimensions are equal. *Only sync not*: audio and video are two standard deviations better, so one rule alone stands between the
policy and a yes; this is the hardest case, and its nominal rate is {(1 - SETTINGS.confidence) / 2:.1%}. The standard error of a cell is 0.7 points at 5 %.

{line.join(false)}

## Power

The same effect in all three dimensions, {num_power} evaluations per cell, half of the variance from the prompt; in brackets the prompts that a
sequential procedure looked at on average. At 0.5 sd the rule on audio's mean change is a coin toss at any size.

{line.join(power_rows)}

## A dimension that did not change

How often non-inferiority of video is shown where video is exactly as good as before, by margin ({num_power} evaluations per cell, all at once).

{line.join(kept)}
"""  # noqa: E501


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--null", type=int, default=NUM_NULL, help="evaluations per cell of equal models")
    parser.add_argument("--power", type=int, default=NUM_POWER, help="evaluations per cell of models that differ")
    numbers = parser.parse_args()
    text = report(numbers.null, numbers.power)
    if (numbers.null, numbers.power) == (NUM_NULL, NUM_POWER):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
