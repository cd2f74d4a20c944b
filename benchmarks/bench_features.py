"""One decoding for all networks of a benchmark against one decoding per network.

    python benchmarks/bench_features.py                                  writes benchmarks/bench_features.md (minutes)
    python benchmarks/bench_features.py --clips 1 --height 48 --width 64 another size: prints the result and writes nothing

Both sides do the same work with the same workers: the preset t2av, with small networks, so that decoding and front ends are measured;
with full networks their time is added to both sides. A tool that hears sound alone reads a sound file, so that it decodes no picture.
Loading is not measured. Both take turns; the times are of the processor, minimum of the rounds.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from avpref.bench.bench_job import job_parts
from avpref.bench.clips.clip_files import ClipFile, read_headers
from avpref.bench.features.feature_worker import FeatureSpec, FeatureWorker
from avpref.bench.features.parts import ClipIdentity, FeatureItem, NetworkPart, Part
from avpref.bench.results.bench_folder import feature_files
from avpref.config.schema import BenchJobSettings
from avpref.domain import PICTURE
from avpref.flows.bench.bench_job_sources import BenchChoice, bench_job
from avpref.media.writing import encode_clip
from avpref.storage.unit import Unit

CLIPS, HEIGHT, WIDTH, FPS_HZ, SECONDS, ROUNDS = 2, 480, 832, 24, 5, 2
RATE_HZ = 16000
GOAL = 0.6
MEASUREMENTS = ("signal",)
"""Parts without a network. The optical flow of AV-Align takes longer than everything else together, whoever decodes."""
PICTURELESS = ("audioclip", "panns", "vggish", "passt")


def write_clip(path: Path, seed: int, options: argparse.Namespace) -> None:
    """A textured ground that slides, and noise with bursts."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 256, (options.height, options.width, 3)).astype(np.uint8)
    ground = np.repeat(np.repeat(ground[::4, ::4], 4, 0), 4, 1)[: options.height, : options.width]
    frames = np.stack([np.roll(ground, 3 * index, 1) for index in range(SECONDS * options.fps)])
    sound = random.standard_normal(SECONDS * RATE_HZ) * (0.05 + 0.3 * (np.arange(SECONDS * RATE_HZ) % 8000 < 800))
    path.write_bytes(encode_clip(frames, float(options.fps), sound.astype(np.float32), RATE_HZ))
    with wave.open(str(path.with_suffix(".wav")), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE_HZ)
        stream.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())


def hears_alone(part: Part) -> bool:
    """Whether a tool needs the sound alone."""
    if isinstance(part, NetworkPart):
        return part.name in PICTURELESS
    return not any(metric.inputs >= PICTURE for metric in part.source.metrics)


def item_of(path: Path, parts: Sequence[Part], is_sound: bool) -> FeatureItem:
    file = ClipFile(path.stem, None, path.with_suffix(".wav")) if is_sound else ClipFile(path.stem, path, None)
    identity = ClipIdentity(read_headers(file).content, f"clip {path.stem}", f"sound of {path.stem}")
    names = tuple(part.name for part in parts)
    return FeatureItem(str(file.video or ""), str(file.sound or ""), identity, names)


def timed(worker: FeatureWorker, parts: Sequence[Part], items: Sequence[FeatureItem]) -> float:
    """Processor seconds of a unit, committed to a store of its own; ``worker`` has its networks loaded."""
    with tempfile.TemporaryDirectory() as folder:
        files = feature_files(Path(folder), {part.name: part.fingerprint for part in parts})
        fresh = FeatureWorker(FeatureSpec(files, tuple(parts), "cpu"), worker._open)
        started = time.process_time()
        receipt = fresh.run(Unit("features", 0, "benchmark", tuple(items)))
        assert not receipt.quarantined
        return time.process_time() - started


def table(options: argparse.Namespace) -> str:
    choice = BenchChoice("t2av", Path(), scorers=("cavp_score",), is_tiny=True)
    parts = job_parts(bench_job(choice, BenchJobSettings()), has_sound_text=False).all
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"clip{number}.mp4" for number in range(options.clips)]
        for number, path in enumerate(paths):
            write_clip(path, number, options)
        files = feature_files(Path(folder), {part.name: part.fingerprint for part in parts})
        worker = FeatureSpec(files, parts, "cpu").build()
        timed(worker, parts, [item_of(paths[0], parts, False)])  # loads every network
        networks = [part for part in parts if part.name not in MEASUREMENTS]
        together, everything, alone = [], [], []
        for _ in range(options.rounds):
            together.append(timed(worker, networks, [item_of(path, networks, False) for path in paths]))
            everything.append(timed(worker, parts, [item_of(path, parts, False) for path in paths]))
            alone.append(
                {
                    part.name: timed(worker, [part], [item_of(path, [part], hears_alone(part)) for path in paths])
                    for part in parts
                }
            )
    per_tool = {name: min(round_[name] for round_ in alone) for name in alone[0]}
    sound = {part.name: " (sound alone)" for part in parts if hears_alone(part)}
    rows = [f"| {name}{sound.get(name, '')} | {seconds:.2f} |" for name, seconds in per_tool.items()]
    of_networks = sum(per_tool[part.name] for part in networks)
    ratio_of_all = min(everything) / sum(per_tool.values())
    return "\n".join(
        [
            "| | processor seconds |",
            "|---|---|",
            f"| one decoding for the {len(networks)} networks | {min(together):.2f} |",
            f"| one decoding per network | {of_networks:.2f} |",
            f"| ratio (goal {GOAL}) | {min(together) / of_networks:.3f} |",
            f"| one decoding for networks and signal measurements | {min(everything):.2f} |",
            f"| one decoding per network and for the measurements | {sum(per_tool.values()):.2f} |",
            f"| ratio with the measurements, whose optical flow is equal on both sides | {ratio_of_all:.3f} |",
            *rows,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--fps", type=int, default=FPS_HZ)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    result = table(options)
    print(result)
    defaults = (CLIPS, HEIGHT, WIDTH, FPS_HZ, ROUNDS)
    if (options.clips, options.height, options.width, options.fps, options.rounds) == defaults:
        heading = "# One decoding for all networks of a benchmark"
        versions = f"Python {platform.python_version()}, PyAV {av.__version__}, NumPy {np.__version__}"
        where = f"{datetime.date.today()}, {os.cpu_count()} cores shared with other work, {versions}."
        note = (
            f"{CLIPS} clips of {SECONDS} s, {WIDTH} × {HEIGHT} at {FPS_HZ} frames per second, H.264 and AAC; preset t2av and CAVP"
            " with small networks of random weights, so the numbers are about decoding and front ends"
            " (benchmarks/bench_features.py)."
        )
        Path(__file__).with_suffix(".md").write_text(f"{heading}\n\n{where}\n{note}\n\n{result}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
