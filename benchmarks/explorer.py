"""Claim: with 25,000 pairs the explorer answers a filter in 0.3 s, shows first rows within 1 s, and needs at most 500 MB.

A made-up run with four candidates per prompt, seven scores per candidate and a pair per prompt, served by ``avpref pairs open``; every
candidate plays one of eight clips. Wall seconds of requests, and the peak of the server's resident memory.

    python benchmarks/explorer.py                writes benchmarks/explorer.md
    python benchmarks/explorer.py --pairs 60     another size: prints the result and writes nothing
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.datasets.selection import normalise
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS
from avpref.identity import bytes_sha256
from avpref.media.writing import encode_clip
from avpref.storage.run_folder import RunFolder, create

NUM_PAIRS, CANDIDATES, NUM_CLIPS, REPEATS = 25_000, 4, 8, 5
TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
RESULT = Path(__file__).with_suffix(".md")
WORDS = ("dog", "bell", "rain", "train", "drum", "wind", "cat", "river", "saw", "crowd")


def make_run(runs: Path, num_prompts: int) -> RunFolder:
    """A run whose tables have the size of a real one."""
    folder = create(runs, load_config(TINY, ["pairs.strategy=average"], {}).settings)
    clips = [_clip(folder, number) for number in range(NUM_CLIPS)]
    generator = np.random.default_rng(0)
    prompt_ids = [f"p{number:06}" for number in range(num_prompts)]
    texts = [" and a ".join(generator.choice(WORDS, 4)) for _ in prompt_ids]
    empty, zero = [""] * num_prompts, [0.0] * num_prompts
    prompts = {
        **{"prompt_id": prompt_ids, "text": texts, "split": ["train"] * num_prompts, "source": empty},
        **{"taxonomy": empty, "ground_truth_path": empty, "ground_truth_start_s": zero, "ground_truth_sha256": empty},
    }
    num = num_prompts * CANDIDATES
    ids = [f"c{number:016x}" for number in range(num)]
    chosen = [clips[number % NUM_CLIPS] for number in range(num)]
    candidates = {
        "candidate_id": ids,
        "prompt_id": np.repeat(prompt_ids, CANDIDATES),
        "index": np.tile(np.arange(CANDIDATES), num_prompts),
        "origin": ["generated"] * num,
        "seed": np.arange(num),
        **{name: ["hash"] * num for name in ("checkpoint_hash", "sampler_hash")},
        **{name: [""] * num for name in ("adapter_hash", "sampler", "latents_path")},
        "path": [path for path, _ in chosen],
        "sha256": [sha256 for _, sha256 in chosen],
        **{name: np.full(num, value) for name, value in (("num_frames", 16), ("height_px", 96), ("width_px", 96))},
        **{name: np.full(num, value) for name, value in (("fps_hz", 8.0), ("duration_s", 2.0), ("elapsed_s", 0.1))},
        "sample_rate_hz": np.full(num, 16_000),
    }
    rows = num * len(METRICS)
    scores = {
        "candidate_id": np.repeat(ids, len(METRICS)),
        "metric": np.tile([metric.name for metric in METRICS], num),
        "value": generator.normal(size=rows),
        **{name: [value] * rows for name, value in (("status", "ok"), ("reason", ""), ("scorer", "made-up"))},
        **{name: [value] * rows for name, value in (("fingerprint", "f"), ("licence", "Apache-2.0"))},
        **{name: np.zeros(rows) for name in ("elapsed_ms", "gpu_s")},
        **{name: [True] * rows for name in ("commercial_use", "is_meaningful")},
    }
    for table, columns in ((tables.PROMPTS, prompts), (tables.CANDIDATES, candidates), (tables.SCORES, scores)):
        folder.tables.seal(table, "made up", tables.conform(table, pa.table(columns)))
    _select(folder)
    return folder


def _clip(folder: RunFolder, number: int) -> tuple[str, str]:
    frames = np.random.default_rng(number).integers(0, 256, (16, 96, 96, 3), dtype=np.uint8)
    sound = np.random.default_rng(number).uniform(-0.1, 0.1, 32_000).astype(np.float32)
    data = encode_clip(frames, 8.0, sound, 16_000)
    path, sha256 = f"clips/{number}.mp4", bytes_sha256(data)
    folder.files.commit_once(path, data)
    return path, sha256


def _select(folder: RunFolder) -> None:
    read = {table.name: folder.tables.read(table) for table in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES)}
    matrix = read_matrix(source_of(read), METRICS)
    selection = select_pairs(matrix, folder.settings.pairs, normalise.measure(matrix, folder.run_id))
    sealed = {
        tables.NORMS: selection.norm.to_arrow(),
        tables.REWARDS: selection.rewards,
        tables.SKIPPED: selection.skipped,
        tables.PAIRS: selection.pairs,
    }
    for table, part in sealed.items():
        folder.tables.seal(table, "made up", part)


@contextmanager
def served(folder: RunFolder) -> Iterator[tuple[str, int]]:
    """The address of the pairs, and the server's process id."""
    command = [sys.executable, "-m", "avpref.cli.main", "pairs", "open", folder.run_id, "--no-browser", "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--runs", str(folder.runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), server.pid
        finally:
            server.terminate()


def get(url: str) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(url, timeout=300) as answer:
        return answer.read()


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median of wall seconds."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


def peak_mb(process: int) -> float:
    """Peak of resident memory of a process in MB; 0 where the system does not tell it."""
    status = Path(f"/proc/{process}/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(match[1]) / 1000 if match else 0.0


def measure(folder: RunFolder) -> tuple[list[tuple[str, float]], float]:
    """(request, seconds), and the peak of memory in MB after all of them."""
    begun = time.perf_counter()
    with served(folder) as (pairs, process):
        base = pairs.removesuffix("/table/pairs")
        rows = [("start of the command, with the database of a run that was never opened", time.perf_counter() - begun)]
        rows.append(("first rows", seconds(lambda: get(pairs), 1)))
        pair = re.search(rb"/pair/(x\w+)", get(pairs))
        assert pair is not None
        query = urllib.parse.quote("SELECT metric, avg(value) FROM scores GROUP BY metric")
        requests = {
            "first rows again": pairs,
            "filter: margin_total > 1": f"{pairs}?where=margin_total~%3E~1",
            "search: river": f"{pairs}?q=river",
            "sort by margin_total": f"{pairs}?sort=-margin_total",
            "last page": f"{pairs}?page=1000000",
            "candidates, filtered": f"{base}/table/candidates?where=visual_quality~%3E~2",
            "a pair with its reasons": f"{base}/pair/{pair[1].decode()}?sort=-margin_total",
            "overview with distributions": base,
            "SQL over all scores": f"{base}/sql?query={query}",
        }
        rows += [(name, seconds(lambda url=url: get(url))) for name, url in requests.items()]
        candidate = re.search(rb"/clip/(c\w+)/media|/clip/(c\w+)/picture", get(requests["a pair with its reasons"]))
        assert candidate is not None
        clip = f"{base}/clip/{(candidate[1] or candidate[2]).decode()}"
        for name in ("thumbnail", "spectrogram", "curves"):
            rows.append((f"{name}, made", seconds(lambda name=name: get(f"{clip}/{name}"), 1)))
            rows.append((f"{name}, kept", seconds(lambda name=name: get(f"{clip}/{name}"))))
        rows.append(("strategies over the whole run", seconds(lambda: get(f"{base}/leaderboard"), 1)))
        return rows, peak_mb(process)


def main() -> None:
    """Measure in a temporary folder and write the result beside this file, or print that of another size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help="number of prompts, each with a pair")
    num_pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_run(Path(temporary), num_pairs)
        num_rows = folder.tables.num_rows(tables.PAIRS)
        rows, memory_mb = measure(folder)
    packages = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "starlette", "uvicorn"))
    lines = [
        "# The explorer over many pairs",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores that others used at the same time, Python"
        f" {platform.python_version()}, {packages}. {num_rows:,} pairs,",
        f"{num_pairs * CANDIDATES:,} candidates, {num_pairs * CANDIDATES * len(METRICS):,} scores. Requests over HTTP on"
        f" loopback, medians of {REPEATS} except for the first and for what is made.",
        "Made by `benchmarks/explorer.py`.",
        "",
        "| request | wall s |",
        "|---|---|",
        *(f"| {name} | {taken:.3f} |" for name, taken in rows),
        "",
        f"Peak of the server's resident memory after all of them: {memory_mb:.0f} MB.",
    ]
    text = "\n".join(lines) + "\n"
    if num_pairs == NUM_PAIRS:
        RESULT.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
