"""Fréchet distance: this product's formula against scipy's general matrix square root, as published tools compute it.

    python benchmarks/frechet.py                          10,000 × 2,048 features; writes benchmarks/frechet.md (minutes)
    python benchmarks/frechet.py --rows 200 --dims 32     another size: prints the result and writes nothing

Both start from the same float32 features and take turns in one process; times are of processor and wall clock, minimum of the rounds.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from scipy import linalg

from avpref.datasets.distances.frechet import frechet_distance, moments

ROWS, DIMS, ROUNDS = 10_000, 2_048, 2


def drawn(rows: int, dims: int, seed: int) -> np.ndarray:
    """Features with a spectrum that falls as those of networks do."""
    random = np.random.default_rng(seed)
    scales = 1 / np.sqrt(np.arange(1, dims + 1))
    return (random.standard_normal((rows, dims)) * scales + 0.01 * random.standard_normal(dims)).astype(np.float32)


def ours(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(moments(first), moments(second))


def general_root(first: np.ndarray, second: np.ndarray) -> float:
    """Mean and covariance by NumPy, the square root of the product by scipy."""
    shift = first.mean(0) - second.mean(0)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(one @ two)
    return float(shift @ shift + np.trace(one) + np.trace(two) - 2 * np.trace(root.real))


def timed(compute: Callable[[np.ndarray, np.ndarray], float], pair: tuple[np.ndarray, np.ndarray]) -> tuple[float, ...]:
    """(value, processor seconds, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    value = compute(*pair)
    return value, time.process_time() - cpu, time.perf_counter() - wall


def table(rows: int, dims: int, rounds: int) -> str:
    pair = drawn(rows, dims, 1), drawn(rows, dims, 2)
    runs = [(timed(ours, pair), timed(general_root, pair)) for _ in range(rounds)]
    ((value, expected),) = {(own[0], theirs[0]) for own, theirs in runs}
    cpu, wall = ([min(run[side][index] for run in runs) for side in (0, 1)] for index in (1, 2))
    return "\n".join(
        [
            "| | this product | scipy's matrix square root | ratio |",
            "|---|---|---|---|",
            f"| processor seconds | {cpu[0]:.3f} | {cpu[1]:.3f} | {cpu[0] / cpu[1]:.3f} |",
            f"| wall seconds | {wall[0]:.3f} | {wall[1]:.3f} | {wall[0] / wall[1]:.3f} |",
            f"| distance | {value:.6f} | {expected:.6f} | relative difference {abs(value / expected - 1):.1e} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--dims", type=int, default=DIMS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    result = table(options.rows, options.dims, options.rounds)
    print(result)
    if (options.rows, options.dims, options.rounds) == (ROWS, DIMS, ROUNDS):
        versions = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
        heading = f"# Fréchet distance of two sets of {ROWS:,} × {DIMS:,} features"
        where = f"{datetime.date.today()}, {os.cpu_count()} cores shared with other work, {versions}."
        note = "Features in float32 with a falling spectrum; minimum of two alternating rounds in one process (benchmarks/frechet.py)."
        Path(__file__).with_suffix(".md").write_text(f"{heading}\n\n{where}\n{note}\n\n{result}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
