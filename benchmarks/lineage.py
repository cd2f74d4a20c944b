"""Time of lineage queries on a folder of runs of real size.

    python benchmarks/lineage.py                                    writes benchmarks/lineage.md (two minutes)
    python benchmarks/lineage.py --runs 2 --prompts 60 --pairs 40   other sizes: prints the result and writes nothing

Ten runs of 30,000 prompts, 120,000 candidates, 840,000 scores and 22,000 pairs each; five of them share their candidates
and select other pairs. Ids and hashes are random digits, so the order of the rows helps no query.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from avpref.datasets import tables
from avpref.domain import METRICS
from avpref.identity import derive_seed
from avpref.registry.catalog import open_catalog
from avpref.registry.lineage_view import document
from avpref.storage.local_files import LocalFiles, commit_once
from avpref.storage.sealed_tables import TableStore

PER_PROMPT = 4


@dataclass(frozen=True)
class Sizes:
    """Numbers of runs, of prompts and pairs in each run, and of calls that are timed. Half of the runs share their candidates."""

    runs: int = 10
    prompts: int = 30_000
    pairs: int = 22_000
    repeats: int = 5

    @property
    def sharing(self) -> int:
        return self.runs // 2


def draws(*parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed("lineage benchmark", *parts)))


def hexes(letter: str, count: int, digits: int, *parts: object) -> pa.Array:
    text = draws(letter, digits, *parts).bytes(count * digits // 2).hex()
    return pa.array([letter + text[start : start + digits] for start in range(0, count * digits, digits)])


def filled(table: tables.Table, columns: dict[str, object], count: int) -> pa.Table:
    """A table of ``count`` rows with ``columns``; the other columns of the schema hold a constant."""
    blank = {"string": "", "int64": 0, "double": 1.0, "bool": True}
    rest = [field for field in table.schema if field.name not in columns]
    constant = {field.name: pa.repeat(pa.scalar(blank[str(field.type)], field.type), count) for field in rest}
    return tables.conform(table, pa.table({**columns, **constant}))


def prompts(count: int) -> pa.Table:
    ids = hexes("p", count, 16)
    texts = [f"a ball of kind {index} bounces on floor {prompt_id}" for index, prompt_id in enumerate(ids.to_pylist())]
    return filled(tables.PROMPTS, {"prompt_id": ids, "text": texts, "split": pa.repeat("train", count)}, count)


def candidates(prompt_ids: pa.Array, set_of: int) -> pa.Table:
    count = len(prompt_ids) * PER_PROMPT
    ids, hashes = hexes("c", count, 16, set_of), hexes("", count, 64, set_of)
    paths = [f"clips/{c[:3]}/{c}-{h[:8]}.mp4" for c, h in zip(ids.to_pylist(), hashes.to_pylist(), strict=True)]
    index = np.tile(np.arange(PER_PROMPT), len(prompt_ids))
    columns = {
        "candidate_id": ids,
        "prompt_id": prompt_ids.take(np.repeat(np.arange(len(prompt_ids)), PER_PROMPT)),
        "index": index,
        "origin": np.where(index == 0, "ground_truth", "generated"),
        "seed": draws("seed", set_of).integers(0, 2**62, count),
        "path": paths,
        "sha256": hashes,
        "checkpoint_hash": pa.repeat("ab" * 32, count),
        "sampler": pa.repeat("{}" * 150, count),
        "elapsed_s": draws("elapsed", set_of).random(count),
    }
    return filled(tables.CANDIDATES, columns, count)


def scores(ids: pa.ChunkedArray, run: int) -> pa.Table:
    """Seven scores per candidate, metric by metric, in the order in which units of scorers are sealed."""
    rows = len(ids) * len(METRICS)
    columns = {
        "candidate_id": ids.combine_chunks().take(np.tile(np.arange(len(ids)), len(METRICS))),
        "metric": np.repeat([metric.name for metric in METRICS], len(ids)),
        "value": draws("value", run).normal(size=rows),
        "status": pa.repeat("ok", rows),
        "elapsed_ms": draws("ms", run).random(rows),
    }
    return filled(tables.SCORES, columns, rows)


def pairs(candidate_rows: pa.Table, count: int, run: int) -> pa.Table:
    draw = draws("pairs", run)
    first_row = np.sort(draw.permutation(len(candidate_rows) // PER_PROMPT)[:count]) * PER_PROMPT
    chosen = draw.integers(0, PER_PROMPT, count)
    rejected = (chosen + draw.integers(1, PER_PROMPT, count)) % PER_PROMPT
    ids = candidate_rows["candidate_id"].combine_chunks()
    numbers = [field.name for field in tables.PAIRS.schema if str(field.type) == "double"]
    columns: dict[str, object] = {name: draw.normal(size=count) for name in numbers}
    columns |= {
        "pair_id": hexes("x", count, 16, run),
        "prompt_id": candidate_rows["prompt_id"].combine_chunks().take(first_row),
        "chosen": ids.take(first_row + chosen),
        "rejected": ids.take(first_row + rejected),
        "norm_id": pa.repeat(f"n{run:016x}", count),
    }
    return filled(tables.PAIRS, columns, count)


def norms(run: int) -> pa.Table:
    names = [metric.name for metric in METRICS]
    ids = pa.repeat(f"n{run:016x}", len(names))
    return filled(tables.NORMS, {"norm_id": ids, "metric": names}, len(names))


def write_run(runs: Path, sizes: Sizes, run: int) -> None:
    root = runs / f"run-{run:02d}"
    store, versions = TableStore(LocalFiles(root / "tables")), {}
    prompt_rows = prompts(sizes.prompts)
    clips = candidates(prompt_rows["prompt_id"].combine_chunks(), 0 if run < sizes.sharing else run)
    rows_of = {
        tables.PROMPTS: prompt_rows,
        tables.CANDIDATES: clips,
        tables.SCORES: scores(clips["candidate_id"], run),
        tables.NORMS: norms(run),
        tables.PAIRS: pairs(clips, sizes.pairs, run),
    }
    for table, rows in rows_of.items():
        manifest = store.seal(table.name, "benchmark", [(tables.to_bytes(rows), rows.num_rows)])
        versions[table.name] = manifest.version
    policy = hexes("", 1, 64, "policy", run)[0].as_py()
    record = {"run_id": root.name, "policy_hash": policy, "checkpoint_sha256": "ab" * 32, "norm_id": f"n{run:016x}"}
    commit_once(root / "adapters" / "1.json", json.dumps(record | {"tables": versions}).encode())
    commit_once(root / "run.json", b"{}")


@dataclass(frozen=True)
class Timing:
    """Shortest wall and processor time of some calls, milliseconds."""

    wall_ms: float
    cpu_ms: float

    def __str__(self) -> str:
        return f"{self.wall_ms:.0f} ms | {self.cpu_ms:.0f} ms"


def timed(repeats: int, function: Callable[[], object], who: int = resource.RUSAGE_SELF) -> Timing:
    wall, cpu = [], []
    for _ in range(repeats):
        started, before = time.perf_counter(), resource.getrusage(who)
        function()
        after = resource.getrusage(who)
        wall.append(time.perf_counter() - started)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Timing(1000 * min(wall), 1000 * min(cpu))


def scan(runs: Path, column: str, value: str) -> None:
    """The same lookup without the index: read the column of every run."""
    catalog = open_catalog(runs)
    assert catalog.values(catalog.versions("candidates"), column, value)


def questions(runs: Path) -> dict[str, str]:
    """An id of each kind, all about one clip that half of the runs share and that is in a pair of the first run."""
    catalog = open_catalog(runs)
    rows = catalog.rows_of("first_rows", catalog.versions("pairs", "run-00")[0], limit=Sizes.pairs)
    first = rows[len(rows) // 2]
    (_, clip), *_ = catalog.rows(catalog.versions("candidates", "run-00"), "candidate_id", [first["chosen"]])
    adapter = next(record for record in catalog.records if record.run_id == "run-00")
    return {
        "adapter → pairs, clips, scores, norm": adapter.policy_hash,
        "clip's SHA-256 → adapters": clip["sha256"],
        "candidate → adapters": clip["candidate_id"],
        "candidate, by 8 characters": clip["candidate_id"][:8],
        "pair": first["pair_id"],
        "prompt": clip["prompt_id"],
        "checkpoint": adapter.checkpoint_sha256,
        "norm": first["norm_id"],
    }


def command(runs: Path, *arguments: str) -> Callable[[], object]:
    line = [sys.executable, "-m", "avpref.cli.main", *arguments]
    return lambda: subprocess.run(line, check=True, capture_output=True)


def measure(runs: Path, repeats: int) -> list[str]:
    lines = []
    ids = questions(runs)
    for name, queried_id in ids.items():
        took = timed(repeats, lambda queried_id=queried_id: document(open_catalog(runs), queried_id, 3))
        lines.append(f"| {name} | {took} |")
        print(lines[-1], flush=True)
    clip = ids["clip's SHA-256 → adapters"]
    took = timed(repeats, lambda: scan(runs, "sha256", clip))
    lines.append(f"| finding a SHA-256 alone, without the index | {took} |")
    took = timed(repeats, lambda: scan(runs, "candidate_id", ids["candidate → adapters"]))
    lines.append(f"| finding a candidate alone, without the index | {took} |")
    for name in ("clip's SHA-256 → adapters", "adapter → pairs, clips, scores, norm"):
        took = timed(
            repeats,
            command(runs, "lineage", "show", ids[name], "--runs", str(runs), "--json"),
            resource.RUSAGE_CHILDREN,
        )
        lines.append(f"| whole command: {name} | {took} |")
    took = timed(repeats, command(runs, "--help"), resource.RUSAGE_CHILDREN)
    lines.append(f"| for comparison: `avpref --help` | {took} |")
    return lines


def report(lines: list[str], sizes: Sizes, index_bytes: int, table_bytes: int) -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    rows = "\n".join(lines)
    return f"""# Lineage

{datetime.date.today()} · {os.cpu_count()} cores ({platform.machine()}), shared with other work (load average {load} at
the end) · Python {platform.python_version()}, duckdb {duckdb.__version__}, pyarrow {pa.__version__}

Script: `benchmarks/lineage.py`. {sizes.runs} runs of {sizes.prompts:,} prompts, {sizes.prompts * PER_PROMPT:,} candidates,
{sizes.prompts * PER_PROMPT * len(METRICS):,} scores and {sizes.pairs:,} pairs each, in sealed tables;
{sizes.sharing} of them share their candidates. Each figure is the shortest of {sizes.repeats}; the first eight are
the question alone, from opening the folder to the finished document, in a
process that is running; the whole command is a process of its own. Processor time is that of all threads.

| what | wall | processor |
|---|---|---|
{rows}

The index takes {index_bytes / 2**20:.1f} MiB beside {table_bytes / 2**20:.0f} MiB of tables.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = Sizes(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        for run in range(sizes.runs):
            write_run(runs, sizes, run)
        lines = measure(runs, sizes.repeats)
        occupied = [sum(path.stat().st_size for path in runs.glob(kind)) for kind in ("*/index/*", "*/tables/*/*")]
    text = report(lines, sizes, *occupied)
    if sizes == Sizes():
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
