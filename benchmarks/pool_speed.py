"""Speed of a pool against a plain script with the same functions, decoding once against once per measurer, memory, and a kill.

    python benchmarks/pool_speed.py [--clips N] [--actors N] [--parts speed decoding kill] [--rounds N]

Videos are moving patterns with notes, made first. The pool runs as a command on Ray actors. The script hashes, probes, profiles, cuts and
measures each file by the same functions in as many processes, searches for duplicates, and writes three Parquet files. Both are
commands of their own, whose whole time, work (without the start of Python, Ray and workers) and processor time are compared.
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
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avpref.config.pool.pool_loading import load_pool
from avpref.config.pool.pool_settings import CutSettings
from avpref.media.reading import probe
from avpref.media.reading_rules import DEFAULT_READING
from avpref.media.writing import encode_clip
from avpref.pool.cut.clip_ranges import Timeline, clip_ranges
from avpref.pool.cut.scene_cuts import Changes, cuts_of
from avpref.pool.measure.clip_window import ClipWindow, decode_clip
from avpref.pool.measure.descriptors import descriptor
from avpref.pool.measure.frame_measures import FACTS_KEY
from avpref.pool.measure.measurers import measurers
from avpref.pool.scan.duplicates import Fingerprints, similar
from avpref.pool.scan.pool_source import content_sha256
from avpref.pool.scan.source_profile import profile
from avpref.rewards.picture_needs import SCORED_SIZE
from avpref.rewards.protocol import ScorableClip
from avpref.storage.event_log import read_events

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "pool.yaml"
RATE_HZ, FPS_HZ = 16_000, 25.0
SETS = ("measure.optional=[]", "scan.duplicates=keep", "write.text=a pattern")
KEEP_ALL, KEEP_NONE = "filter.filters=[]", "filter.filters=[{measure: duration_s, min: 1000}]"
UNIT = 16
COMPARED = ("scan", "cut", "measure")
CLOCK_HZ = os.sysconf("SC_CLK_TCK")


def make_clip(path: Path, seed: int, seconds: float, height: int) -> None:
    """A coloured pattern that moves, with notes."""
    random = np.random.default_rng(seed)
    width, number = height * 16 // 9 // 2 * 2, round(seconds * FPS_HZ)
    grids = [random.integers(10, 246, shape).astype(np.float32) for shape in ((6, 10, 3), (24, 42, 3))]
    layers = [share * cv2.resize(grid, (2 * width, 2 * height)) for grid, share in zip(grids, (0.6, 0.4), strict=True)]
    wide = np.sum(layers, axis=0)
    step = random.uniform(0.3, 0.9, 2) * height / 72
    places = [(int(k * step[0]) % height, int(k * step[1]) % width) for k in range(number)]
    frames = np.stack([wide[y : y + height, x : x + width] for y, x in places]).astype(np.uint8)
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch = random.uniform(250, 1900, 64)[(times_s * 4).astype(int) % 64]
    sound = (0.3 * np.sin(2 * np.pi * pitch * times_s) * np.exp(-4 * (times_s % 0.25))).astype(np.float32)
    path.write_bytes(encode_clip(frames, FPS_HZ, sound, RATE_HZ))


def pool_command(folder: Path, pools: Path, actors: int, filters: str = KEEP_ALL) -> list[str]:
    """The command that builds a pool of ``folder``; without actors, in one process."""
    executor = f"executor={{kind: ray, num_actors: {actors}}}" if actors else "executor={kind: in_process}"
    sets = [word for value in (*SETS, filters, executor, f"run.unit_candidates={UNIT}") for word in ("--set", value)]
    words = ["pool", "build", "--config", str(CONFIG), "--source", str(folder), "--pools", str(pools), "--json", *sets]
    return [sys.executable, "-m", "avpref.cli.main", *words]


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its document, seconds, processor seconds, and the largest memory in bytes of a process of Python."""

    document: dict[str, Any]
    seconds: float
    processor_s: float
    largest: int


class Family:
    """Watches a process and all its descendants: their processor time, and the largest resident memory of one."""

    def __init__(self, process: int) -> None:
        self.process, self.largest, self._ended = process, 0, threading.Event()
        self._ticks: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            self._look()

    def _look(self) -> None:
        fields, children = {}, defaultdict(list)
        for number in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                fields[number] = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                children[fields[number][1]].append(number)
        family = [str(self.process)]
        for number in family:  # grows by the children of each member: their numbers may be smaller
            family += children[number]
        for number in filter(fields.__contains__, family):
            self._ticks[number] = int(fields[number][11]) + int(fields[number][12])
            with contextlib.suppress(OSError):
                if "python" in Path(f"/proc/{number}/exe").readlink().name:
                    self.largest = max(self.largest, int(fields[number][21]) * os.sysconf("SC_PAGE_SIZE"))

    def end(self) -> float:
        """Processor seconds of all processes, to the last look."""
        self._ended.set()
        self._thread.join()
        return sum(self._ticks.values()) / CLOCK_HZ


def finish(command: Sequence[str]) -> Finished:
    """Run a command that prints a document."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    family = Family(process.pid)
    output, messages = process.communicate()
    seconds = time.perf_counter() - started
    processor_s = family.end()
    ending = messages.decode(errors="replace")[-3000:]
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}: {ending}"
    return Finished(json.loads(output), seconds, processor_s, family.largest)


def script_file(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """One file in the plain script: hash, probe, profile, cuts, measures; returns the rows of source, clips and measures."""
    sha256 = content_sha256(path)
    info, profiled = probe(path), profile(path, DEFAULT_READING)
    assert info.audio is not None and info.video is not None
    names = ("hue", "saturation", "luma", "matches")
    changes = Changes(*(np.array(getattr(profiled.changes, name)) for name in names))
    source = {"file": str(path), "sha256": sha256, "codec": info.video.codec, "times_s": profiled.frame_times_s}
    source |= {name: getattr(changes, name) for name in names}
    source |= {"hashes": profiled.pictures.hashes, "slots": profiled.pictures.slots, "prints": profiled.sound_prints}
    timeline = Timeline(profiled.frame_times_s, profiled.end_s, info.audio.start_s, info.audio.duration_s)
    ranges = clip_ranges(timeline, cuts_of("adaptive", changes, 3.0, 15), CutSettings())
    clips = [{"file": str(path), **vars(entry)} for entry in ranges]
    values = [row for entry in ranges if not entry.reason for row in script_clip(path, entry.start_s, entry.end_s)]
    return source, clips, values


def script_clip(path: Path, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """One clip in the plain script: decoded once for all measurers."""
    decoded = decode_clip(path, ClipWindow(start_s, end_s, SCORED_SIZE, DEFAULT_READING, 512 << 20))
    clip = ScorableClip(path.stem, "", decoded.clip, {FACTS_KEY: decoded.facts})
    rows: list[dict[str, Any]] = [
        {"clip": path.stem, "start_s": start_s, **vars(score), "vector": []}
        for scorer in SCORERS
        for score in scorer.score([clip])[0]
    ]
    vector = {"clip": path.stem, "start_s": start_s, "metric": "descriptor", "vector": descriptor(decoded.clip)}
    return [*rows, vector]


SCORERS: list[Any] = []


def start_script() -> None:
    """Open the measurers of the pool."""
    config = load_pool(CONFIG, SETS, environment={})
    SCORERS[:] = [source.open("cpu") for source in measurers(config.measure, config.executor)]


def run_script(folder: Path, processes: int) -> dict[str, float]:
    """The plain script over all files of ``folder``, with Parquet files beside it; returns the seconds of its work."""
    paths = sorted(folder.glob("*.mp4"))
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, start_script) as pool:
        pool.map(os.path.basename, paths[:processes], chunksize=1)
        started = time.perf_counter()
        parts = list(pool.imap(script_file, paths, chunksize=UNIT))
        sources = [source for source, _, _ in parts]
        arrays = [[np.array(source[name], np.int64) for name in ("hashes", "slots", "prints")] for source in sources]
        pairs = similar([Fingerprints(source["sha256"], *part) for source, part in zip(sources, arrays, strict=True)])
        tables = {
            "sources": sources,
            "clips": [row for _, rows, _ in parts for row in rows],
            "measures": [row for _, _, rows in parts for row in rows],
        }
        for name, rows in tables.items():
            pq.write_table(pa.Table.from_pylist(rows), folder.parent / f"{name}.parquet", compression="zstd")
        return {"work_s": time.perf_counter() - started, "pairs": float(len(pairs))}


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
    """Seconds of each stage between the plan of its units and the first that was begun by a worker that had started."""
    waits: dict[str, float] = {}
    planned: dict[str, float] = {}
    for event in events(pools):
        stage = event.get("stage", "")
        if event["event"] == "units_planned":
            planned[stage] = event["time_s"]
        elif event["event"] == "unit_done" and stage not in waits:
            waits[stage] = max(0.0, event["time_s"] - event["seconds"] - planned[stage])
    return waits


@dataclass(frozen=True)
class Killed:
    """A build that was killed: units finished before, units of both builds, and units and items that were begun again."""

    finished: int
    planned: int
    repeated: int
    repeated_items: int


def kill_and_resume(folder: Path, pools: Path, actors: int, num_clips: int) -> Killed:
    """Kill a build in the middle of stage measure, build again."""
    process = subprocess.Popen(
        pool_command(folder, pools, actors),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    )
    while process.poll() is None:
        done = [event for event in events(pools) if event["event"] == "unit_done" and event["stage"] == "measure"]
        if 2 * sum(event["items"] for event in done) >= num_clips:
            break
        time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = sum(event["event"] == "unit_done" for event in events(pools))
    finish(pool_command(folder, pools, actors))
    begun = [event for event in events(pools) if event["event"] == "unit_started"]
    first = {(event["stage"], event["unit"]): event["items"] for event in begun}
    repeated_items = sum(event["items"] for event in begun) - sum(first.values())
    return Killed(finished, len(first), len(begun) - len(first), repeated_items)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=2.2)
    parser.add_argument("--height", type=int, default=72)
    parser.add_argument("--actors", type=int, default=2, help="0: in one process")
    parser.add_argument("--rounds", type=int, default=1, help="of pool and script in turn; the fastest of each counts")
    parser.add_argument("--parts", nargs="+", default=["speed", "decoding", "kill"], metavar="PART")
    parser.add_argument("--decoded", type=int, default=60, help="clips of the comparison of decodings")
    parser.add_argument("--decoded-height", type=int, default=360)
    parser.add_argument("--killed", type=int, default=20 * UNIT, help="clips of the build that is killed")
    parser.add_argument("--script", type=Path, help="only run the plain script on this folder")
    arguments = parser.parse_args()
    if arguments.script:
        print(json.dumps(run_script(arguments.script, max(1, arguments.actors))))
        return
    print("# Pools: speed, decoding, kill\n")
    with tempfile.TemporaryDirectory() as name:
        report(Path(name), arguments)


def report(root: Path, arguments: argparse.Namespace) -> None:
    """Print the results of the parts."""
    folder = root / "clips"
    folder.mkdir()
    killed = min(arguments.clips, arguments.killed)
    number = arguments.clips if "speed" in arguments.parts else killed
    for index in range(number):
        make_clip(folder / f"{index:05d}.mp4", index, arguments.seconds, arguments.height)
    print(f"{number} clips of {arguments.seconds:g} s, {arguments.height} rows, {arguments.actors} actors\n")
    if "speed" in arguments.parts:
        report_speed(root, arguments)
    if "decoding" in arguments.parts:
        large = root / "large"
        large.mkdir()
        for index in range(arguments.decoded):
            make_clip(large / f"{index}.mp4", 900_000 + index, arguments.seconds, arguments.decoded_height)
        once, apart = decoding_times(sorted(large.iterdir()), arguments.seconds)
        print(f"Decoded once {once:.2f} s, once per measurer {apart:.2f} s, ratio {once / apart:.2f}", end="")
        print(f" ({arguments.decoded} clips of {arguments.decoded_height} rows, one process).")
    if "kill" in arguments.parts:
        small = root / "small"
        small.mkdir()
        for path in sorted(folder.glob("*.mp4"))[:killed]:
            os.link(path, small / path.name)
        result = kill_and_resume(small, root / "killed", arguments.actors, killed)
        print(
            f"Killed after {result.finished} of {result.planned} units; the second build repeated {result.repeated}",
            end="",
        )
        print(f" ({result.repeated_items} items).")


def report_speed(root: Path, arguments: argparse.Namespace) -> None:
    """Print a table of the stages, and one of pool and script. The compared build keeps no clip; another one then writes all."""
    script = [sys.executable, __file__, "--script", str(root / "clips"), "--actors", str(arguments.actors)]
    built, plain, works = [], [], []
    for index in range(arguments.rounds):
        pools = root / f"pools-{index}"
        built.append(finish(pool_command(root / "clips", pools, arguments.actors, KEEP_NONE)))
        works.append(work_of_stages(built[-1], pools))
        plain.append(finish(script))
    writing = finish(pool_command(root / "clips", root / "pools-0", arguments.actors))
    last = work_of_stages(writing, root / "pools-0")
    best = min(works, key=lambda work: sum(work[name] for name in COMPARED))
    print("| stage | s | clips/s |\n|---|---|---|")
    for name, took in {name: best[name] if name in COMPARED else last[name] for name in last}.items():
        print(f"| {name} | {took:.1f} | {arguments.clips / max(took, 1e-9):.1f} |")
    rows = {
        "work, s": (sum(best[name] for name in COMPARED), min(run.document["work_s"] for run in plain)),
        "with the start of Python, Ray and workers, s": least(built, plain, "seconds"),
        "processor time of all processes, s": least(built, plain, "processor_s"),
    }
    print("\n| | pool, scan to measure | plain script | ratio |\n|---|---|---|---|")
    for name, (pool_s, script_s) in rows.items():
        print(f"| {name} | {pool_s:.1f} | {script_s:.1f} | {pool_s / script_s:.2f} |")
    sizes = [max(run.largest for run in runs) / 2**30 for runs in (built, plain)]
    print(f"| largest process, GiB | {sizes[0]:.2f} | {sizes[1]:.2f} | |\n")


def work_of_stages(built: Finished, pools: Path) -> dict[str, float]:
    """Seconds of each stage without the start of its workers."""
    waits = start_waits(pools)
    return {stage["stage"]: stage["seconds"] - waits.get(stage["stage"], 0.0) for stage in built.document["stages"]}


def least(built: Sequence[Finished], plain: Sequence[Finished], name: str) -> tuple[float, float]:
    """The least value of both."""
    return min(getattr(run, name) for run in built), min(getattr(run, name) for run in plain)


if __name__ == "__main__":
    main()
