"""Pair selection: time of the matrix engine compared with two Python loops over pandas groups, and with a bare scan of
ten million candidates.

    python benchmarks/pairing.py                            writes benchmarks/pairing.md (minutes; most of them are the pandas loop)
    python benchmarks/pairing.py --prompts 300 --large 3000     the same at toy size: prints the lines and writes nothing
    python benchmarks/pairing.py --prompts 0 --large 250000     the large case alone, a million candidates

Scores are random numbers: seven per candidate, desync on a 0.2 s grid; candidate 0 of every prompt is ground truth.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.block_table import BlockTable
from avpref.datasets.large_tables import to_files
from avpref.datasets.selection.compare import SelectionInputs, Snapshot, diff
from avpref.datasets.selection.leaderboard import STRATEGIES, leaderboard
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import Selection, select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.datasets.views import connect
from avpref.domain import METRICS, Dimension
from avpref.identity import derive_seed

NAMES = [metric.name for metric in METRICS]
NUM_PROMPTS, NUM_CANDIDATES = 30_000, 4
LARGE_PROMPTS, LARGE_CHUNK = 2_500_000, 250_000
Files = dict[str, list[Path]]
Result = TypeVar("Result")


def ids(prefix: str, first: int, count: int) -> pa.Array:
    """Ids of the real length whose order is not that of the numbers."""
    return pa.array(
        [f"{prefix}{number * 2654435761 % 2**32:08x}{number:08x}" for number in range(first, first + count)]
    )


def constant(kind: pa.DataType, count: int) -> pa.Array:
    """A column of one value of its type."""
    value = "" if pa.types.is_string(kind) else pa.types.is_boolean(kind) or 1
    return pa.repeat(pa.scalar(value, kind), count)


def filled(table: tables.Table, columns: dict[str, object], count: int) -> pa.Table:
    """``columns``, and a constant for every other column of ``table``."""
    others = {field.name: constant(field.type, count) for field in table.schema if field.name not in columns}
    return tables.conform(table, pa.table({**others, **columns}))


def chunk(first_prompt: int, num_prompts: int) -> tuple[pa.Table, pa.Table]:
    """Candidates and scores of some prompts."""
    count = num_prompts * NUM_CANDIDATES
    names = ids("c", first_prompt * NUM_CANDIDATES, count)
    index = np.tile(np.arange(NUM_CANDIDATES), num_prompts)
    candidates = {
        "candidate_id": names,
        "prompt_id": ids("p", first_prompt, num_prompts).take(np.repeat(np.arange(num_prompts), NUM_CANDIDATES)),
        "index": index,
        "origin": np.where(index == 0, "ground_truth", "generated"),
        **{name: np.full(count, size) for name, size in (("num_frames", 81), ("height_px", 480), ("width_px", 853))},
    }
    rng = np.random.Generator(np.random.PCG64(derive_seed("benchmark", first_prompt)))
    values = rng.normal(size=(count, len(NAMES)))
    values[:, -1] = np.abs(values[:, -1] * 2).round() / 5
    rows = count * len(NAMES)
    scores = {
        "candidate_id": names.take(np.repeat(np.arange(count), len(NAMES))),
        "metric": NAMES * count,
        "value": values.ravel(),
        "status": pa.repeat(pa.scalar("ok"), rows),
    }
    return filled(tables.CANDIDATES, candidates, count), filled(tables.SCORES, scores, rows)


def write(folder: Path, num_prompts: int, step: int) -> Files:
    files: Files = {"candidates": [], "scores": []}
    for first in range(0, num_prompts, step):
        for name, table in zip(files, chunk(first, min(step, num_prompts - first)), strict=True):
            path = folder / f"{name}-{first:08d}.parquet"
            path.write_bytes(tables.to_bytes(table))
            files[name].append(path)
    return files


def select(files: Files) -> Selection:
    """The work of stage ``pair``: from files to norm, pairs, rewards and reasons, all in memory."""
    matrix = read_matrix(source_of(files, threads=os.cpu_count() or 1), METRICS)
    selection = select_pairs(matrix, PairSettings(), measure(matrix, "all"))
    assert selection.pairs.num_rows and selection.rewards.num_rows  # they are made when they are read
    return selection


SCANNED = {
    "scores": "candidate_id, metric, value, status",
    "candidates": "candidate_id, prompt_id, index, origin, num_frames, height_px, width_px",
}
"""The columns that a selection reads."""


def scan(files: Files) -> int:
    """DuckDB, with its default threads, hands every value that a selection reads over as Arrow record batches; number of rows.

    A consumer outside DuckDB needs at least that. An aggregate is no such floor: it can be computed from statistics in the files
    (``max``) or from the dictionary of a column (``sum(strlen(…))``), without a value per row.
    """
    con = connect(files)
    return sum(
        batch.num_rows
        for name, columns in SCANNED.items()
        for batch in con.sql(f"SELECT {columns} FROM {name}").to_arrow_reader(1 << 16)
    )


def hashed_scan(files: Files) -> list[tuple[object, ...]]:
    """DuckDB hashes every value of the same columns and hands over one number a column: the scan without any output."""
    con = connect(files)
    return [
        con.sql(
            f"SELECT {', '.join(f'bit_xor(hash({column}))' for column in columns.split(', '))} FROM {name}"
        ).fetchall()[0]
        for name, columns in SCANNED.items()
    ]


def seal(table: BlockTable) -> int:
    """Bytes of the table as sealed."""
    return sum(len(data) for data, _ in to_files(table))


def pandas_rewards(files: Files) -> pd.DataFrame:
    """The rewards with pandas: pivot, z-score over the whole table, average per dimension."""
    candidates, scores = (
        pd.concat([pd.read_parquet(path) for path in files[name]]) for name in ("candidates", "scores")
    )
    frame = candidates.merge(scores.pivot(index="candidate_id", columns="metric", values="value"), on="candidate_id")
    frame = frame.sort_values(["prompt_id", "index", "candidate_id"])
    for metric in METRICS:
        z = (frame[metric.name] - frame[metric.name].mean()) / frame[metric.name].std()
        frame[metric.name] = z if metric.higher_is_better else -z
    for dimension in Dimension:
        frame[str(dimension)] = frame[[m.name for m in METRICS if m.dimension == dimension]].mean(axis=1)
    return frame


def loop_over_rows(files: Files) -> list[tuple[str, str]]:
    """A plain loop over the rows of every group and, for each, over its rows again."""
    pairs = []
    for _, group in pandas_rewards(files).groupby("prompt_id"):
        best, best_margin = None, 0.0
        for _, chosen in group.iterrows():
            for _, rejected in group.iterrows():
                margins = [chosen[dimension] - rejected[dimension] for dimension in ("video", "audio", "av")]
                if min(margins) > 0 and sum(margins) > best_margin:
                    best, best_margin = (chosen["candidate_id"], rejected["candidate_id"]), sum(margins)
        if best is not None:
            pairs.append(best)
    return pairs


def loop_over_tuples(files: Files) -> list[tuple[str, str]]:
    """The same loop over plain tuples, without pandas inside a group."""
    pairs = []
    for _, group in pandas_rewards(files)[["prompt_id", "candidate_id", "video", "audio", "av"]].groupby("prompt_id"):
        rows = list(group.itertuples(index=False, name=None))
        best, best_margin = None, 0.0
        for _, chosen, *a in rows:
            for _, rejected, *b in rows:
                margins = [x - y for x, y in zip(a, b, strict=True)]
                if min(margins) > 0 and sum(margins) > best_margin:
                    best, best_margin = (chosen, rejected), sum(margins)
        if best is not None:
            pairs.append(best)
    return pairs


@dataclass(frozen=True)
class Timing:
    """Shortest wall and processor time (all threads) of several calls, in seconds."""

    wall_s: float
    cpu_s: float

    def times(self, other: Timing) -> str:
        wall, cpu = self.wall_s / other.wall_s, self.cpu_s / other.cpu_s
        return f"{self} = {wall:.1f} × wall, {cpu:.1f} × processor"

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s (processor {self.cpu_s:.2f} s)"


def timed(function: Callable[[], Result], repeats: int = 1) -> tuple[Timing, Result]:
    """The shortest time of ``repeats`` calls, and the last result."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        result = function()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return Timing(min(wall), min(cpu)), result


@dataclass(frozen=True)
class Line:
    what: str
    figure: str


def compare_with_pandas(folder: Path, num_prompts: int) -> Iterator[Line]:
    files = write(folder, num_prompts, num_prompts)
    ours, selection = timed(lambda: select(files), repeats=7)
    sides = list(zip(*(selection.pairs[name].to_pylist() for name in ("chosen", "rejected")), strict=True))
    yield Line("avpref: files → norm, pairs, rewards, skipped (best of 7)", str(ours))
    for name, function in (("rows (`iterrows`)", loop_over_rows), ("tuples", loop_over_tuples)):
        theirs, pairs = timed(lambda function=function: function(files))
        assert pairs == sides, f"pairs differ from the loop over {name}"
        yield Line(f"pandas, loop over {name}; identical {len(pairs):,} pairs", theirs.times(ours))
    yield from compare_strategies(files, selection)


def compare_strategies(files: Files, selection: Selection) -> Iterator[Line]:
    matrix, norm = read_matrix(source_of(files), METRICS), selection.norm
    took, _ = timed(lambda: leaderboard(matrix, norm))
    yield Line(f"leaderboard of {len(STRATEGIES)} strategies with overlaps", str(took))
    candidates, scores = (tables.read(*files[table.name], table) for table in (tables.CANDIDATES, tables.SCORES))
    inputs = SelectionInputs(tables.to_arrow(tables.PROMPTS, []), candidates, scores, norm, PairSettings(), METRICS)
    macro = PairSettings(average="macro")
    after = Snapshot(select_pairs(matrix, macro, norm).pairs, replace(inputs, settings=macro))
    took, rows = timed(lambda: diff(Snapshot(selection.pairs, inputs), after))
    yield Line(f"diff of two strategies, {rows.num_rows:,} differences with cause", str(took))


def peak_gib() -> float:
    """The peak of this process's resident memory. ``getrusage`` is no substitute: it counts the parent before the exec as well."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


SCANS = {"scan": scan, "hashed_scan": hashed_scan}


def large(folder: Path, part: str) -> None:
    """In a process of its own: scan or select, and print times, peaks of the resident memory, and numbers of rows and bytes."""
    files = {name: sorted(folder.glob(f"{name}-*.parquet")) for name in ("candidates", "scores")}
    if part in SCANS:
        took, _ = timed(lambda: SCANS[part](files))
        print(took.wall_s, took.cpu_s)
        return
    filled_matrix, matrix = timed(lambda: read_matrix(source_of(files, threads=os.cpu_count() or 1), METRICS))
    measured, norm = timed(lambda: measure(matrix, "all"))
    selected, selection = timed(lambda: select_pairs(matrix, PairSettings(), norm))
    sealed, num_bytes = timed(lambda: seal(selection.pair_blocks))
    peak = peak_gib()
    sealed_rewards, num_reward_bytes = timed(lambda: seal(selection.reward_blocks))
    for took in (filled_matrix, measured, selected, sealed, sealed_rewards):
        print(took.wall_s, took.cpu_s)
    num_pairs, num_rewards = selection.pair_blocks.num_rows, selection.reward_blocks.num_rows
    print(peak, peak_gib(), num_pairs, selection.skipped.num_rows, num_rewards, num_bytes, num_reward_bytes)


def measure_large(folder: Path, num_prompts: int) -> Iterator[Line]:
    """Scans, selection and scans again, so that the ratio is of neighbours in time."""
    write(folder, num_prompts, LARGE_CHUNK)

    def run(part: str) -> list[float]:
        command = [sys.executable, __file__, "large", str(folder), part]
        return [
            float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        ]

    run("scan")  # the files come into the page cache
    before = {name: run(name) for name in SCANS}
    numbers = run("select")
    scanned = {name: Timing(*np.mean([times, run(name)], axis=0)) for name, times in before.items()}
    *parts, of_rewards = [Timing(*numbers[start : start + 2]) for start in range(0, 10, 2)]
    whole = Timing(sum(part.wall_s for part in parts), sum(part.cpu_s for part in parts))
    with_rewards = Timing(whole.wall_s + of_rewards.wall_s, whole.cpu_s + of_rewards.cpu_s)
    peak, peak_with_rewards = numbers[10:12]
    pairs, skipped, rewards, num_bytes, num_reward_bytes = map(int, numbers[12:])
    count = num_prompts * NUM_CANDIDATES
    rows = f"{count:,} candidates, {count * len(NAMES):,} scores"
    yield Line(
        f"DuckDB scans the same files ({rows}) into Arrow batches, mean of before and after", str(scanned["scan"])
    )
    yield Line("files → sealed pairs, compared with that scan", whole.times(scanned["scan"]))
    yield Line("  files → score matrix", str(parts[0]))
    yield Line("  norm", str(parts[1]))
    yield Line(f"  rewards, search: {pairs:,} pairs; prompts without one: {skipped:,} rows", str(parts[2]))
    yield Line(f"  rows of the pairs, sealed as Parquet, {num_bytes / 2**20:.0f} MiB", str(parts[3]))
    yield Line("  peak resident memory of that process", f"{peak:.2f} GiB")
    yield Line(
        f"rows of the rewards as well, sealed as Parquet: {rewards:,} rows, {num_reward_bytes / 2**20:.0f} MiB",
        str(of_rewards),
    )
    yield Line("  files → sealed pairs and rewards, compared with the scan", with_rewards.times(scanned["scan"]))
    yield Line("  peak resident memory", f"{peak_with_rewards:.2f} GiB")
    yield Line(
        "DuckDB hashes the same columns and hands nothing over, mean of before and after", str(scanned["hashed_scan"])
    )
    yield Line("files → sealed pairs, compared with the hashes", whole.times(scanned["hashed_scan"]))


def report(lines: list[Line]) -> str:
    versions = f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}, pandas {pd.__version__}, numpy {np.__version__}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    rows = "\n".join(f"| {line.what} | {line.figure} |" for line in lines)
    return f"""# Pair selection

{datetime.date.today()} · {os.cpu_count()} cores ({platform.machine()}), shared with other work (load average {load} at
the end) · Python {platform.python_version()}, {versions}

Script: `benchmarks/pairing.py`. {NUM_PROMPTS:,} prompts × {NUM_CANDIDATES} candidates × 7 metrics in Parquet files, the
default strategy (modality, micro, normalised, with ground truth). Files of the large case are in the page cache; scans and selection
are processes of their own with as many threads as cores. The aim for the large case: at most three times the wall time of the
scan into Arrow batches, and at most 4 GiB. The scan into Arrow batches is the floor of any engine outside DuckDB that reads
candidate_id, metric, value and status of every score and seven columns of every candidate.

| what | measured |
|---|---|
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=NUM_PROMPTS, help="prompts of the comparison with pandas")
    parser.add_argument("--large", type=int, default=LARGE_PROMPTS, help="prompts of the memory measurement")
    sizes = parser.parse_args()
    lines: list[Line] = []
    for part, num_prompts in ((compare_with_pandas, sizes.prompts), (measure_large, sizes.large)):
        with tempfile.TemporaryDirectory() as name:
            if not num_prompts:
                continue
            for line in part(Path(name), num_prompts):
                print(line.figure, line.what, flush=True)
                lines.append(line)
    if (sizes.prompts, sizes.large) == (NUM_PROMPTS, LARGE_PROMPTS):
        Path(__file__).with_suffix(".md").write_text(report(lines), encoding="utf-8")


if __name__ == "__main__":
    large(Path(sys.argv[2]), sys.argv[3]) if sys.argv[1:2] == ["large"] else main()
