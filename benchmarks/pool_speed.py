"""Speed of a pool against a plain script with the same functions, decoding once against once per measurer, memory, and a kill.

    python benchmarks/pool_speed.py [--clips N] [--seconds S] [--height H] [--actors N] [--decoded K] [--folder DIR]

Videos are moving patterns with notes, made first. The pool runs as a command on Ray actors; the script runs the same functions in as
many processes and writes one Parquet file. Both are timed from scan to measures, without the start of Ray and of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avpref.config.pool.pool_loading import load_pool
from avpref.config.pool.pool_settings import CutSettings, PoolConfig
from avpref.media.reading import probe
from avpref.media.reading_rules import DEFAULT_READING
from avpref.media.writing import encode_clip
from avpref.pool.cut.clip_ranges import Timeline, clip_ranges
from avpref.pool.cut.scene_cuts import Changes, cuts_of
from avpref.pool.measure.clip_window import ClipWindow, decode_clip
from avpref.pool.measure.descriptors import descriptor
from avpref.pool.measure.frame_measures import FACTS_KEY
from avpref.pool.measure.measurers import measurers
from avpref.pool.scan.pool_source import content_sha256
from avpref.pool.scan.source_profile import profile
from avpref.rewards.picture_needs import SCORED_SIZE
from avpref.rewards.protocol import ScorableClip
from avpref.storage.event_log import read_events

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "pool.yaml"
RATE_HZ, FPS_HZ = 16_000, 25.0
SETS = ("measure.optional=[]", "scan.duplicates=keep", "filter.filters=[]", "write.text=a pattern")
UNIT = 16


def make_clip(path: Path, seed: int, seconds: float, height: int) -> None:
    """A coloured pattern that moves, with notes."""
    random = np.random.default_rng(seed)
    width, number = height * 16 // 9 // 2 * 2, round(seconds * FPS_HZ)
    grids = [random.integers(10, 246, shape).astype(np.float32) for shape in ((6, 10, 3), (24, 42, 3))]
    wide = sum(share * cv2.resize(grid, (2 * width, 2 * height)) for grid, share in zip(grids, (0.6, 0.4), strict=True))
    step = random.uniform(0.3, 0.9, 2) * height / 72
    places = [(int(k * step[0]) % height, int(k * step[1]) % width) for k in range(number)]
    frames = np.stack([wide[y : y + height, x : x + width] for y, x in places]).astype(np.uint8)
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch = random.uniform(250, 1900, 64)[(times_s * 4).astype(int) % 64]
    sound = (0.3 * np.sin(2 * np.pi * pitch * times_s) * np.exp(-4 * (times_s % 0.25))).astype(np.float32)
    path.write_bytes(encode_clip(frames, FPS_HZ, sound, RATE_HZ))


def command(folder: Path, pools: Path, actors: int) -> list[str]:
    executor = f"executor={{kind: ray, num_actors: {actors}}}" if actors else "executor={kind: in_process}"
    sets = [word for value in (*SETS, executor, f"run.unit_candidates={UNIT}") for word in ("--set", value)]
    words = ["pool", "build", "--config", str(CONFIG), "--source", str(folder), "--pools", str(pools), "--json", *sets]
    return [sys.executable, "-m", "avpref.cli.main", *words]


class Memory:
    """The largest resident memory in bytes of any worker of a command: actors, or the command itself."""

    def __init__(self, process: int) -> None:
        self.process, self.largest, self._ended = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    text, words = status.read_text(), (status.parent / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"ActorProcess" in words or status.parent.name == str(self.process):
                    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
                    self.largest = max(self.largest, 1024 * int(fields.get("VmRSS", "0 kB").split()[0]))

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.largest


def run_pool(folder: Path, pools: Path, actors: int) -> tuple[dict[str, Any], int]:
    """The document of a build, and the largest memory of a worker."""
    process = subprocess.Popen(
        command(folder, pools, actors), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    memory = Memory(process.pid)
    output, _ = process.communicate()
    largest = memory.end()
    assert process.returncode == 0, f"the build ended with {process.returncode}"
    return json.loads(output), largest


def script_config() -> PoolConfig:
    return load_pool(CONFIG, SETS, environment={})


def script_file(path: Path) -> list[dict[str, Any]]:
    """One file in the plain script: hash, probe, profile, cuts, measures."""
    content_sha256(path)
    info, profiled = probe(path), profile(path, DEFAULT_READING)
    names = ("hue", "saturation", "luma", "matches")
    changes = Changes(*(np.array(getattr(profiled.changes, name)) for name in names))
    assert info.audio is not None
    timeline = Timeline(profiled.frame_times_s, profiled.end_s, info.audio.start_s, info.audio.duration_s)
    rows: list[dict[str, Any]] = []
    for entry in clip_ranges(timeline, cuts_of("adaptive", changes, 3.0, 15), CutSettings()):
        if not entry.reason:
            rows += script_clip(path, entry.start_s, entry.end_s)
    return rows


def script_clip(path: Path, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """One clip in the plain script: decoded once for all measurers."""
    decoded = decode_clip(path, ClipWindow(start_s, end_s, SCORED_SIZE, DEFAULT_READING, 512 << 20))
    clip = ScorableClip(path.stem, "", decoded.clip, {FACTS_KEY: decoded.facts})
    rows = [
        {"clip": path.stem, "measure": score.metric, "value": score.value}
        for scorer in SCORERS
        for score in scorer.score([clip])[0]
    ]
    descriptor(decoded.clip)
    return rows


SCORERS: list[Any] = []


def start_script() -> None:
    config = script_config()
    SCORERS[:] = [source.open("cpu") for source in measurers(config.measure, config.executor)]


def run_script(folder: Path, target: Path, processes: int) -> float:
    """Seconds of the plain script over all files, without the start of its processes."""
    paths = sorted(folder.glob("*.mp4"))
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, start_script) as pool:
        pool.map(script_file, paths[:processes], chunksize=1)
        started = time.perf_counter()
        rows = [row for part in pool.imap(script_file, paths, chunksize=UNIT) for row in part]
        pq.write_table(pa.Table.from_pylist(rows), target)
        return time.perf_counter() - started


def decoding_times(paths: Sequence[Path], seconds: float) -> tuple[float, float]:
    """Seconds in one process: all measurers on one decoding, and a decoding for each measurer (and for the descriptor)."""
    start_script()
    scorers = list(SCORERS)
    window = ClipWindow(0.0, seconds, SCORED_SIZE, DEFAULT_READING, 512 << 20)

    def decoded(path: Path) -> Any:
        return decode_clip(path, window)

    def score(scorer: Any, path: Path, window_of: Any) -> None:
        scorer.score([ScorableClip(path.stem, "", window_of.clip, {FACTS_KEY: window_of.facts})])

    once = apart = 0.0
    for path in paths:
        started = time.perf_counter()
        shared = decoded(path)
        for scorer in scorers:
            score(scorer, path, shared)
        descriptor(shared.clip)
        middle = time.perf_counter()
        for scorer in scorers:
            score(scorer, path, decoded(path))
        descriptor(decoded(path).clip)
        once, apart = once + middle - started, apart + time.perf_counter() - middle
    return once, apart


def events(pools: Path) -> Iterator[dict[str, Any]]:
    for log in pools.glob("*/events.jsonl"):
        yield from (event for event, _ in read_events(log))


def start_waits(pools: Path) -> dict[str, float]:
    """Seconds of each stage until its first unit was begun by a worker that had started."""
    waits: dict[str, float] = {}
    begun: dict[str, float] = {}
    for event in events(pools):
        stage = event.get("stage", "")
        if event["event"] == "stage_started":
            begun[stage] = event["time_s"]
        elif event["event"] == "unit_done" and stage not in waits:
            waits[stage] = max(0.0, event["time_s"] - event["seconds"] - begun[stage])
    return waits


def kill_and_resume(folder: Path, pools: Path, actors: int, num_units: int) -> tuple[int, int]:
    """Kill a build in stage measure, build again; returns the units that were finished before, and those that were repeated."""
    process = subprocess.Popen(
        command(folder, pools, actors),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    )
    while process.poll() is None:
        done = [event for event in events(pools) if event["event"] == "unit_done" and event["stage"] == "measure"]
        if len(done) >= max(1, num_units // 2):
            break
        time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = sum(event["event"] == "unit_done" for event in events(pools))
    run_pool(folder, pools, actors)
    started = sum(event["event"] == "unit_started" for event in events(pools))
    planned = len({(event["stage"], event["unit"]) for event in events(pools) if event["event"] == "unit_done"})
    return finished, started - planned


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=2.2)
    parser.add_argument("--height", type=int, default=72)
    parser.add_argument("--actors", type=int, default=2, help="0: in one process")
    parser.add_argument("--decoded", type=int, default=60, help="clips of the comparison of decodings")
    parser.add_argument("--decoded-height", type=int, default=360)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report(Path(name), arguments)


def report(root: Path, arguments: argparse.Namespace) -> None:
    folder, large = root / "clips", root / "large"
    folder.mkdir()
    large.mkdir()
    started = time.perf_counter()
    for number in range(arguments.clips):
        make_clip(folder / f"{number:05d}.mp4", number, arguments.seconds, arguments.height)
    print(f"made {arguments.clips} clips of {arguments.seconds} s in {time.perf_counter() - started:.1f} s")
    document, largest = run_pool(folder, root / "pools", arguments.actors)
    seconds = {stage["stage"]: stage["seconds"] for stage in document["stages"]}
    waits = start_waits(root / "pools")
    for stage, took in seconds.items():
        seconds[stage] = took - waits.get(stage, 0.0)
        rate = arguments.clips / max(seconds[stage], 1e-9)
        print(f"{stage}: {seconds[stage]:.1f} s, {rate:.1f} clips/s (start of workers: {waits.get(stage, 0.0):.1f} s)")
    print(f"largest worker: {largest / 2**30:.2f} GiB")
    script = run_script(folder, root / "script.parquet", max(1, arguments.actors))
    pool_s = seconds["scan"] + seconds["cut"] + seconds["measure"]
    print(f"pool, scan to measure: {pool_s:.1f} s; plain script: {script:.1f} s; ratio {pool_s / script:.2f}")
    paths = []
    for number in range(arguments.decoded):
        paths.append(large / f"{number}.mp4")
        make_clip(paths[-1], 900_000 + number, arguments.seconds, arguments.decoded_height)
    once, apart = decoding_times(paths, arguments.seconds)
    print(
        f"decoded once: {once:.2f} s; once per measurer: {apart:.2f} s; ratio {once / apart:.2f} ({arguments.decoded_height} rows)"
    )
    small = root / "small"
    small.mkdir()
    for path in sorted(folder.glob("*.mp4"))[: min(arguments.clips, 20 * UNIT)]:
        os.link(path, small / path.name)
    num_units = -(-len(list(small.iterdir())) // UNIT)
    finished, repeated = kill_and_resume(small, root / "killed", arguments.actors, num_units)
    print(f"killed after {finished} finished units of {num_units} per stage; repeated by the second build: {repeated}")


if __name__ == "__main__":
    main()
