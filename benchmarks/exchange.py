"""Export and import of preference pairs: wall time, processor time and peak memory of the commands, and of ``datasets.load_dataset``.

    python benchmarks/exchange.py                     writes benchmarks/exchange.md (25,000 pairs, some minutes)
    python benchmarks/exchange.py --pairs 40          the same at toy size: prints the lines and writes nothing

The run is synthetic: two candidates per prompt with random scores. All clips show one scene of the toy world and differ in a box that
players skip, so that no two files are equal and none has to be encoded. Every command runs in a process of its own. Loading needs
the package datasets, which is no dependency; without it that line is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.domain import METRICS, Origin, Split, prompt_id
from avpref.flows.run import Run
from avpref.flows.stages.pair import pair
from avpref.flows.workers.prompt_sources import open_prompt_source
from avpref.identity import bytes_sha256
from avpref.media.writing import encode_clip
from avpref.storage.run_folder import create

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "toyworld.yaml"
RESULT = ROOT / "benchmarks" / "exchange.md"
PAIRS = 25_000
PER_PROMPT = 2
OVERRIDES = ("executor={kind: in_process, device: cpu}", "pairs.strategy=average")
MEASURE = """
import json, resource, runpy, sys, time
before = time.perf_counter()
sys.argv = sys.argv[1:]
code = 0
try:
    runpy.run_module(sys.argv[0], run_name="__main__") if sys.argv[0].startswith("avpref") else exec(sys.argv[1])
except SystemExit as ended:
    code = ended.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
wall = time.perf_counter() - before
status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # getrusage counts the parent before the exec too
print(json.dumps([code, wall, used.ru_utime + used.ru_stime, int(status["VmHWM"].split()[0])]), file=sys.stderr)
"""
LOAD = """
import datasets
pairs = datasets.load_dataset({folder!r}, split="train", cache_dir={cache!r})
assert len(pairs) == {num}
if {is_shards}:
    assert pairs[0]["chosen"]["bytes"] and pairs[len(pairs) - 1]["rejected"]["bytes"]
"""


@dataclass(frozen=True)
class Measure:
    """A command: seconds of wall and processor time, and the largest resident memory in megabytes."""

    name: str
    wall_s: float
    cpu_s: float
    memory_mb: float

    def row(self) -> str:
        return f"| {self.name} | {self.wall_s:.1f} s | {self.cpu_s:.1f} s | {self.memory_mb:,.0f} MB |"


def measured(name: str, arguments: list[str], cwd: Path) -> Measure:
    """Run a module of the product, or code, in a process of its own."""
    command = [sys.executable, "-c", MEASURE, *arguments]
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "home")}
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    lines = done.stderr.strip().splitlines()
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    code, wall_s, cpu_s, memory_kb = json.loads(lines[-1])
    if code:
        raise RuntimeError(f"{name}: exit code {code}\n" + "\n".join(lines[-20:]))
    return Measure(name, wall_s, cpu_s, memory_kb * 1024 / 1e6)


def synthetic_run(runs: Path, num_pairs: int) -> Run:
    """A run up to its pairs, without a network: two clips per prompt, of which the scores prefer one."""
    run = Run.of(create(runs, load_config(CONFIG, OVERRIDES, environment={}).settings))
    generator, source = np.random.default_rng(0), open_prompt_source(run.settings)
    shown = source.ground_truth(source.prompts().prompts[0])
    data = encode_clip(shown.frames, run.settings.clip.fps_hz, shown.audio, run.settings.clip.sample_rate_hz)
    texts = [f"prompt number {number} of a synthetic run" for number in range(num_pairs)]
    prompts = [prompt_id(text) for text in texts]
    rows = [commit(run, data, prompts[number // PER_PROMPT], number) for number in range(PER_PROMPT * num_pairs)]
    seal(run, tables.PROMPTS, {"prompt_id": prompts, "text": texts, "split": [str(Split.TRAIN)] * num_pairs}, num_pairs)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    seal(run, tables.CANDIDATES, columns, len(rows))
    seal_scores(run, columns["candidate_id"], generator)
    pair.fn(run)
    return run


def commit(run: Run, data: bytes, prompt: str, number: int) -> dict[str, object]:
    """Write a clip, ``data`` and a box that players skip, without waiting for the disk; returns its row."""
    own = data + struct.pack(">I4sQ", 16, b"free", number)
    sha256 = bytes_sha256(own)
    name = f"c{number:015d}"
    path = run.root / "clips" / name[-3:] / f"{name}-{sha256[:8]}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(own)
    clip = run.settings.clip
    return {
        "candidate_id": name,
        "prompt_id": prompt,
        "index": 1 + number % PER_PROMPT,
        "origin": str(Origin.GENERATED),
        "path": path.relative_to(run.root).as_posix(),
        "sha256": sha256,
        **{name: getattr(clip, name) for name in ("num_frames", "height_px", "width_px", "fps_hz", "sample_rate_hz")},
        "duration_s": clip.num_frames / clip.fps_hz,
    }


def seal_scores(run: Run, names: list[object], generator: np.random.Generator) -> None:
    num = len(names) * len(METRICS)
    columns = {
        "candidate_id": pa.array(names).take(pa.array(np.repeat(np.arange(len(names)), len(METRICS)))),
        "metric": [metric.name for metric in METRICS] * len(names),
        "value": generator.normal(size=num),
        "status": ["ok"] * num,
        "scorer": ["toy"] * num,
        "licence": ["Apache-2.0"] * num,
    }
    seal(run, tables.SCORES, columns, num)


def seal(run: Run, table: tables.Table, columns: Mapping[str, object], num_rows: int) -> None:
    """Seal rows; columns that are not named are empty or zero."""
    blank = {"string": "", "int64": 0, "double": 0.0, "bool": True}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(blank[str(field.type)], field.type), num_rows)
        for field in table.schema
    ]
    run.tables.seal(table, "synthetic", tables.conform(table, pa.table(arrays, names=table.schema.names)))


def benchmark(folder: Path, num_pairs: int) -> list[str]:
    began, load = time.perf_counter(), os.getloadavg()[0]
    run = synthetic_run(folder / "runs", num_pairs)
    size = sum(path.stat().st_size for path in (run.root / "clips").rglob("*.mp4")) / 1e6
    made_s = time.perf_counter() - began
    out, others = folder / "out", folder / "others"
    cli, runs = "avpref.cli.main", str(folder / "runs")
    measures = [
        measured(
            "pairs export --format hf", [cli, "pairs", "export", str(out), "--runs", runs, "--layout", "shards"], folder
        )
    ]
    settings = [argument for value in OVERRIDES for argument in ("--set", value)]
    command = [cli, "pairs", "import", str(out), "--config", str(CONFIG), "--runs", str(others), *settings]
    measures.append(measured("pairs import", command, folder))
    again = Run.of(create(folder / "runs", run.settings))
    imported = sum(1 for _ in others.glob("*/clips/*/*.mp4"))
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("datasets")
        code = LOAD.format(folder=str(out), cache=str(folder / "cache"), num=num_pairs, is_shards=True)
        measures.append(measured(f"datasets.load_dataset (datasets {version})", ["code", code], folder))
    lines = [
        "# Export and import of pairs",
        "",
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}, "
        f"Python {platform.python_version()}, pyarrow {pa.__version__}. Made with `python benchmarks/exchange.py`. "
        f"Load of the machine at the start: {load:.1f}.",
        "",
        f"{again.tables.num_rows(tables.PAIRS):,} pairs of {num_pairs:,} prompts; {PER_PROMPT * num_pairs:,} clips, "
        f"{size:,.0f} MB (made in {made_s:.0f} s). The import wrote {imported:,} clips.",
        "",
        "| command | wall | processor | peak memory |",
        "|---|---|---|---|",
        *(measure.row() for measure in measures),
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        lines = benchmark(Path(folder), arguments.pairs)
    print("\n".join(lines))
    if arguments.pairs == PAIRS:
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
