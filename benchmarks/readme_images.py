"""Makes the images of the README from a finished run: the top of its report, and both clips of a pair side by side.

    python benchmarks/readme_images.py RUNS/RUN                       writes docs/images/report.png and docs/images/pair.png (seconds)
    python benchmarks/readme_images.py RUNS/RUN pair --into FOLDER    writes FOLDER/pair.png

The report's screenshot needs Chromium on the path; the pair's image needs none.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from avpref.domain import Candidate
from avpref.flows.run import Run
from avpref.flows.stages.collect_report import collect
from avpref.flows.stages.report import REPORT_FILE
from avpref.media.reading import DecodedClip, read_clip
from avpref.reports.figures import dimension_name
from avpref.reports.formatting import signed
from avpref.reports.plots import BASELINE, COLOUR, STYLE
from avpref.storage.files import Files
from avpref.storage.run_folder import open_root

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW_PX = (1200, 1460)
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
NUM_FRAMES = 6
NUM_BINS = 400
"""Columns of a waveform; each shows the smallest and the largest sample of its part."""
PAIR_INCHES = (12.0, 3.4)
PAIR_DPI = 150
MAX_COLOURS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("images", nargs="*", choices=[*DRAWINGS, []], help="which images; all if left out")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder of the images")
    chosen = parser.parse_args()
    run = Run.of(open_root(chosen.run))
    chosen.into.mkdir(parents=True, exist_ok=True)
    for name in chosen.images or DRAWINGS:
        _save(DRAWINGS[name](run), chosen.into / f"{name}.png")


def _screenshot(run: Run) -> Image.Image:
    """The top of the report as Chromium shows it."""
    page = run.root / REPORT_FILE
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on the path")
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "page.png"
        window = f"--window-size={WINDOW_PX[0]},{WINDOW_PX[1]}"
        profile = f"--user-data-dir={scratch}/profile"
        command = [browser, *SWITCHES, window, profile, f"--screenshot={image}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return Image.open(io.BytesIO(image.read_bytes())).convert("RGB")


def _pair(run: Run) -> Image.Image:
    """Frames and waveforms of the pair with the largest total margin, chosen to the left of rejected."""
    data = collect(run)
    pair = data.pairs.sort_values(["margin_total", "pair_id"], ascending=[False, True]).iloc[0]
    rewards = data.rewards.set_index("candidate_id")
    with rc_context({**STYLE, "font.size": 10}):
        drawing = Figure(figsize=PAIR_INCHES, dpi=PAIR_DPI)
        drawing.suptitle(f"“{data.texts[pair.prompt_id]}”", x=0.5, y=0.97, fontsize=11)
        for index, side in enumerate(("chosen", "rejected")):
            clip = data.candidates[pair[side]]
            values = [
                f"{dimension_name(name).lower()} {signed(rewards.at[clip.candidate_id, name])}"
                for name in data.dimensions
            ]
            title = f"{side.capitalize()}: " + ", ".join(values)
            area = (0.014 + 0.5 * index, 0.472)
            _clip(drawing, area, _read(data.media, clip), title)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", facecolor="white")
    return Image.open(buffer).convert("RGB")


DRAWINGS: dict[str, Callable[[Run], Image.Image]] = {"report": _screenshot, "pair": _pair}


def _read(media: Files, clip: Candidate) -> DecodedClip:
    return read_clip(io.BytesIO(media.read(clip.path)))


def _clip(drawing: Figure, area: tuple[float, float], clip: DecodedClip, title: str) -> None:
    """A strip of frames and the waveform under it, from ``area``'s left edge and of its width (shares of the drawing)."""
    assert clip.frames is not None and clip.audio is not None
    left_edge, width = area
    height = width / NUM_FRAMES * PAIR_INCHES[0] / PAIR_INCHES[1]
    strip = drawing.add_axes((left_edge, 0.79 - height, width, height))
    strip.set_title(title, pad=7)
    frame_indices = ((np.arange(NUM_FRAMES) + 0.5) * len(clip.frames) / NUM_FRAMES).astype(int)
    strip.imshow(np.concatenate(clip.frames[frame_indices], axis=1), aspect="auto", interpolation="nearest")
    for border in range(1, NUM_FRAMES):
        strip.axvline(border * clip.frames.shape[2] - 0.5, color="white", linewidth=2)
    strip.set_axis_off()
    _waveform(drawing.add_axes((left_edge, 0.135, width, 0.79 - height - 0.155)), clip.audio, clip.duration_s)


def _waveform(axes: Axes, audio: np.ndarray, duration_s: float) -> None:
    parts: Sequence[np.ndarray] = np.array_split(audio, NUM_BINS)
    times_s = (np.arange(NUM_BINS) + 0.5) * duration_s / NUM_BINS
    axes.fill_between(
        times_s, [part.min() for part in parts], [part.max() for part in parts], color=COLOUR["audio"], linewidth=0
    )
    axes.axhline(0.0, color=BASELINE, linewidth=0.6)
    axes.set_xlim(0.0, duration_s)
    axes.set_ylim(-1.0, 1.0)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("time (s)")


def _save(image: Image.Image, path: Path) -> None:
    image.quantize(MAX_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height} px, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
