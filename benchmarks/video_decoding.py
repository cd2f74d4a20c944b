"""Memory of Wan 2.1's video VAE at full size, decoding whole and in tiles, with an estimate for 480p, 81 frames.

    python benchmarks/video_decoding.py                             writes benchmarks/video_decoding.md (half an hour)
    python benchmarks/video_decoding.py --divisor 4 --width 16      smaller pictures, a narrower network: prints the result

Every row is a process of its own: the network (126,892,531 parameters, random weights, float32) is loaded, then one clip of
that size is decoded or encoded. Memory is the peak of resident memory above that of the loaded network, from the kernel
(``VmHWM``, reset before). Blocks above 1 MiB are returned to the system at once, so that the peak counts only memory in use;
with the allocator's defaults (one row) some freed memory counts too. The decoder's memory does not depend on length from the
third latent frame on; what grows with length is the canvas of decoded frames, 12 bytes per pixel and frame.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from avpref.models.codecs.video_vae import STRUCTURE, Tiling, VideoVae

MIB = 2**20
CANVAS_BYTES = 12
NUM_THREADS = 1
WIDTH = 96
"""Channels of the network's widest pictures."""


@dataclass(frozen=True)
class Case:
    """A clip (pixels, latent frames) and how it is processed."""

    height: int
    width: int
    latent_frames: int
    tile: int = 0
    overlap: int = 0
    encodes: bool = False
    defaults: bool = False

    @property
    def num_frames(self) -> int:
        return 4 * self.latent_frames - 3

    @property
    def canvas_mib(self) -> float:
        return 0.0 if self.encodes else CANVAS_BYTES * self.num_frames * self.height * self.width / MIB

    @property
    def is_plain(self) -> bool:
        return not (self.tile or self.encodes or self.defaults)

    def divided(self, divisor: int) -> Case:
        parts = {name: getattr(self, name) // divisor for name in ("height", "width", "tile", "overlap")}
        return replace(self, **parts)


@dataclass(frozen=True)
class Measured:
    network_mib: float
    extra_mib: float
    seconds: float
    agreement: float


TARGET, TILE, SMALL = Case(480, 864, 21), Case(256, 256, 3), Case(64, 64, 3)
"""The estimate is for the first, whole and in tiles like the second; memory of pictures as small as the third is no line."""
CASES = (
    SMALL,
    Case(128, 128, 3),
    Case(128, 128, 6),
    Case(128, 128, 3, defaults=True),
    TILE,
    Case(128, 384, 3),
    Case(128, 384, 3, 128, 64),
    Case(256, 256, 3, encodes=True),
    Case(480, 864, 3),
)
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(MIB), "MALLOC_TRIM_THRESHOLD_": str(MIB)}


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def build(width: int) -> torch.nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=width, **STRUCTURE).eval().requires_grad_(False)


def measure(case: Case, width: int) -> Measured:
    torch.set_num_threads(NUM_THREADS)
    network = build(width)
    vae = VideoVae(network, Tiling(case.tile, case.overlap))
    size = (16, case.latent_frames, case.height // 8, case.width // 8)
    latent = torch.randn(size, generator=torch.Generator().manual_seed(1))
    frames = np.zeros((case.num_frames, case.height, case.width, 3), np.uint8)
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    if case.encodes:
        vae.encode(frames)
    else:
        frames = vae.decode(latent)
    seconds = time.perf_counter() - started
    extra = status_mib("VmHWM") - before
    if not case.tile:
        return Measured(before, extra, seconds, 0.0)
    whole = VideoVae(network, Tiling()).decode(latent)
    return Measured(before, extra, seconds, float(np.abs(whole.astype(int) - frames).mean()))


def in_process(case: Case, width: int) -> Measured:
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case)), "--width", str(width)]
    environment = {**os.environ, **({} if case.defaults else RETURNED_AT_ONCE)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Measured(**json.loads(run.stdout))


def line(measured: list[tuple[Case, Measured]], divisor: int) -> tuple[float, float, float]:
    """Base MiB, KiB per pixel, and the largest relative error of the line over the rows that decode whole pictures."""
    rows = [
        (case.height * case.width, result.extra_mib - case.canvas_mib) for case, result in measured if case.is_plain
    ]
    pixels, memory = (np.array(column, float) for column in zip(*rows, strict=True))
    slope, base = np.polyfit(pixels, memory, 1)
    small = SMALL.divided(divisor)
    errors = np.abs(memory / (base + slope * pixels) - 1)[pixels > small.height * small.width]
    return base, slope * 1024, float(errors.max())


def peak_gib(measured: list[tuple[Case, Measured]], target: Case, piece: Case) -> float:
    """Estimate for decoding ``target`` in pieces: the row of a piece's size plus the canvas of the whole clip."""
    (decoding_mib,) = [
        r.extra_mib - c.canvas_mib
        for c, r in measured
        if c.is_plain and (c.height, c.width) == (piece.height, piece.width)
    ]
    return (decoding_mib + target.canvas_mib) / 1024


def report(measured: list[tuple[Case, Measured]], divisor: int, width: int) -> str:
    base, per_pixel, error = line(measured, divisor)
    target, tile = TARGET.divided(divisor), TILE.divided(divisor)
    rows = [
        f"| {case.height} × {case.width}, {case.num_frames} frames | {way(case)} | {result.extra_mib:,.0f} MiB "
        f"| {result.extra_mib - case.canvas_mib:,.0f} MiB | {result.seconds:.1f} s | {difference(case, result)} |"
        for case, result in measured
    ]
    whole, tiled = peak_gib(measured, target, target), peak_gib(measured, target, tile)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), load average {load} at the end"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, float32, {NUM_THREADS} thread, CPU"
    loaded = np.mean([result.network_mib for _, result in measured])
    return "\n".join(
        [
            "# Memory of decoding video",
            "",
            f"{datetime.date.today()} · {machine} · {versions}",
            "",
            f"Script: `benchmarks/video_decoding.py`. Wan 2.1's VAE, {width} wide, with random weights; peak of resident memory above",
            f"that of the loaded network ({loaded:,.0f} MiB with Python and its libraries).",
            "",
            "| clip | how | peak | without canvas | time | mean difference from whole |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Whole pictures, without canvas: about {base:,.0f} MiB + {per_pixel:.1f} KiB per pixel (larger rows within {error:.0%}).",
            "",
            f"**{target.height} × {target.width}, 81 frames: {whole:.1f} GiB whole, {tiled:.1f} GiB in tiles of {tile.height} px**,",
            "above the network. That is the",
            f"memory measured with 9 frames of that size (of that tile) and the canvas of 81 frames, {target.canvas_mib:,.0f} MiB; the",
            "81 frames themselves were not run, nor was a GPU, whose convolutions need workspace of their own.",
            "",
        ]
    )


def way(case: Case) -> str:
    text = "encoded" if case.encodes else "decoded whole"
    text = f"decoded in tiles of {case.tile} px, {case.overlap} in common" if case.tile else text
    return f"{text}, allocator's defaults" if case.defaults else text


def difference(case: Case, result: Measured) -> str:
    return f"{result.agreement:.2f} of 255" if case.tile else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divisor", type=int, default=1, help="divide heights and widths by this")
    parser.add_argument("--width", type=int, default=WIDTH, help="channels of the network's widest pictures")
    parser.add_argument("--one", default="", metavar="CASE", help="measure one case, a JSON document, and print it")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(asdict(measure(Case(**json.loads(chosen.one)), chosen.width))))
        return
    cases = [case.divided(chosen.divisor) for case in CASES]
    measured = [(case, in_process(case, chosen.width)) for case in cases]
    text = report(measured, chosen.divisor, chosen.width)
    if (chosen.divisor, chosen.width) == (1, WIDTH):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
