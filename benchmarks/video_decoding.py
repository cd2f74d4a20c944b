"""Memory of decoding video with Wan 2.1's VAE at full size, whole and in tiles, and what it comes to at 480p, 81 frames.

    python benchmarks/video_decoding.py            writes benchmarks/video_decoding.md (a quarter of an hour)

Every row is a process of its own: the network (126,892,531 parameters, random weights, float32) is loaded, then latents of
that size are decoded once. Memory is the peak of resident memory above that of the loaded network, from the kernel
(``VmHWM``, reset before decoding). The decoder's memory does not depend on length from the third latent frame on; what
grows with length is the canvas of decoded frames, 12 bytes per pixel and frame. The last rows follow from a straight line
through the rows that decode whole pictures, memory without canvas over pixels, and from the canvas' size.
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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from avpref.models.video_vae import STRUCTURE, Tiling, VideoVae

MIB = 2**20
CANVAS_BYTES = 12
NUM_THREADS = 1
WANTED = (480, 864, 21)
TILE = (256, 64)


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    latent_frames: int
    tile: int = 0
    overlap: int = 0

    @property
    def num_frames(self) -> int:
        return 4 * self.latent_frames - 3

    @property
    def canvas_mib(self) -> float:
        return CANVAS_BYTES * self.num_frames * self.height * self.width / MIB


@dataclass(frozen=True)
class Found:
    network_mib: float
    extra_mib: float
    seconds: float
    agreement: float


CASES = (
    Case(64, 64, 3),
    Case(128, 128, 3),
    Case(128, 128, 6),
    Case(192, 192, 3),
    Case(256, 256, 3),
    Case(128, 384, 3),
    Case(128, 384, 3, 128, 64),
)


def status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def build() -> torch.nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(**STRUCTURE).eval().requires_grad_(False)


def measure(case: Case) -> Found:
    torch.set_num_threads(NUM_THREADS)
    network = build()
    vae = VideoVae(network, Tiling(case.tile, case.overlap))
    size = (16, case.latent_frames, case.height // 8, case.width // 8)
    latent = torch.randn(size, generator=torch.Generator().manual_seed(1))
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    frames = vae.decode(latent)
    seconds = time.perf_counter() - started
    extra = status_mib("VmHWM") - before
    if not case.tile:
        return Found(before, extra, seconds, 0.0)
    whole = VideoVae(network, Tiling()).decode(latent)
    return Found(before, extra, seconds, float(np.abs(whole.astype(int) - frames).mean()))


def in_process(case: Case) -> Found:
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case))]
    return Found(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def line(found: list[tuple[Case, Found]]) -> tuple[float, float, float]:
    """Base MiB, KiB per pixel, and the largest relative error of the line over the rows that decode whole pictures."""
    rows = [(case.height * case.width, result.extra_mib - case.canvas_mib) for case, result in found if not case.tile]
    pixels, memory = (np.array(column, float) for column in zip(*rows, strict=True))
    slope, base = np.polyfit(pixels, memory, 1)
    return base, slope * 1024, float(np.abs(memory / (base + slope * pixels) - 1).max())


def report(found: list[tuple[Case, Found]]) -> str:
    base, per_pixel, error = line(found)
    rows = [
        f"| {case.height} × {case.width}, {case.num_frames} frames | {way(case)} | {result.extra_mib:,.0f} MiB "
        f"| {result.extra_mib - case.canvas_mib:,.0f} MiB | {result.seconds:.1f} s | {difference(case, result)} |"
        for case, result in found
    ]
    height, width, latent_frames = WANTED
    wanted = Case(height, width, latent_frames)
    whole = base + per_pixel * height * width / 1024 + wanted.canvas_mib
    tiled = base + per_pixel * TILE[0] ** 2 / 1024 + wanted.canvas_mib
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join(
        [
            "# Memory of decoding video",
            "",
            f"{datetime.date.today()} · {os.cpu_count()} cores ({platform.processor() or platform.machine()}), load average {load} at the end ·"
            f" Python {platform.python_version()}, torch {torch.__version__}, float32, {NUM_THREADS} thread, CPU",
            "",
            "Script: `benchmarks/video_decoding.py`. Wan 2.1's VAE at full size with random weights; memory above that of the loaded",
            f"network ({np.mean([result.network_mib for _, result in found]):,.0f} MiB with Python and its libraries).",
            "",
            "| clip | tiles | peak | without canvas | time | mean difference from whole |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Whole pictures, without canvas: {base:,.0f} MiB + {per_pixel:.2f} KiB per pixel (rows within {error:.0%} of the line).",
            "",
            f"**480 × 864, 81 frames, from that line and a canvas of {wanted.canvas_mib:,.0f} MiB: whole {whole / 1024:.1f} GiB, "
            f"in tiles of {TILE[0]} px {tiled / 1024:.1f} GiB.** An estimate: nothing of that size was run, nor on a GPU,",
            "where convolutions need workspace of their own.",
            "",
        ]
    )


def way(case: Case) -> str:
    return f"{case.tile} px, {case.overlap} in common" if case.tile else "whole"


def difference(case: Case, result: Found) -> str:
    return f"{result.agreement:.2f} of 255" if case.tile else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", default="")
    chosen = parser.parse_args().one
    if chosen:
        print(json.dumps(asdict(measure(Case(**json.loads(chosen))))))
        return
    found = [(case, in_process(case)) for case in CASES]
    Path(__file__).with_suffix(".md").write_text(report(found), encoding="utf-8")


if __name__ == "__main__":
    main()
