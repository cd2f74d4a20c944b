"""The clips that the page of a benchmark plays: the best and the worst of every column that has a value per clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avpref.bench.features.feature_worker import decoded
from avpref.bench.features.parts import FeatureItem, cut_clip
from avpref.bench.features.set_results import SampleClip
from avpref.bench.measures.column_values import sample_values
from avpref.bench.results.loaded_results import LoadedResult
from avpref.errors import MediaError
from avpref.media.reading import DecodedClip
from avpref.media.writing import encode_clip
from avpref.reports.formatting import data_url

BEST, WORST = 1, 2
"""Clips of each end of a column that the page shows."""
LONGEST_S, SHORT_SIDE_PX, MOST_FPS_HZ = 6.0, 180, 16.0
MAX_MEDIA_BYTES = 16_000_000
SOUND_RATE_HZ = 16000


@dataclass(frozen=True)
class ShownClip:
    """A clip of a column: its rank, value and prompt. ``source`` is a data URL, or empty with the reason in ``absence``.

    ``anchor`` is the clip's place on the page; ``is_first`` whether it plays here, or further up.
    """

    position: str
    rank: int
    num_ranked: int
    value: float
    key: str
    text: str
    anchor: str
    is_first: bool
    source: str = ""
    absence: str = ""


@dataclass
class PreviewBudget:
    """Makes small copies of clips until :data:`MAX_MEDIA_BYTES` are used; each clip plays in one place of the page."""

    remaining_bytes: int = MAX_MEDIA_BYTES
    anchors: dict[str, str] = field(default_factory=dict)

    def preview(self, sample: SampleClip) -> tuple[str, str]:
        """The clip as a data URL, and the reason where there is none."""
        try:
            media = preview_bytes(sample)
        except MediaError as error:
            return "", error.found
        if len(media) > self.remaining_bytes:
            return "", f"not embedded, {len(media) / 1000:.0f} kB"
        self.remaining_bytes -= len(media)
        return data_url(media, "video/mp4"), ""


def column_clips(result: LoadedResult, budget: PreviewBudget) -> dict[str, list[ShownClip]]:
    """Clips to show by column, for the columns with a value per clip."""
    samples = {sample.key: sample for sample in result.samples}
    shown: dict[str, list[ShownClip]] = {}
    for name, column in result.columns.items():
        if column.kind not in ("mean", "divergence"):
            continue
        values = sample_values(column, result.rows(column))
        higher = bool(result.document["columns"][name]["higher_is_better"])
        ranked = sorted(values.items(), key=lambda entry: (-entry[1] if higher else entry[1], entry[0]))
        if ranked:
            shown[name] = [_shown(ranked, index, position, samples, budget) for index, position in _places(len(ranked))]
    return shown


def _places(count: int) -> list[tuple[int, str]]:
    """Positions in a ranking, worst first."""
    worst = [(index, "worst") for index in range(count - 1, max(count - 1 - WORST, -1), -1)]
    best = [(index, "best") for index in range(min(BEST, count)) if index < count - WORST]
    return worst + best


def _shown(
    ranked: Sequence[tuple[str, float]],
    index: int,
    position: str,
    samples: Mapping[str, SampleClip],
    budget: PreviewBudget,
) -> ShownClip:
    key, value = ranked[index]
    is_first = key not in budget.anchors
    anchor = budget.anchors.setdefault(key, f"clip-{len(budget.anchors)}")
    source, absence = budget.preview(samples[key]) if is_first else ("", "")
    text = samples[key].identity.text
    return ShownClip(position, index + 1, len(ranked), value, key, text, anchor, is_first, source, absence)


def preview_bytes(sample: SampleClip) -> bytes:
    """A small mp4 of the first seconds, with both tracks, that browsers play. Raises MediaError for files that have changed."""
    clip = cut_clip(decoded(FeatureItem(sample.video, sample.sound, sample.identity, ())), LONGEST_S)
    frames, fps_hz = _small_frames(clip)
    seconds = len(frames) / fps_hz
    rate_hz = clip.sample_rate_hz or SOUND_RATE_HZ
    sound = clip.audio if clip.audio is not None else np.zeros(0, np.float32)
    wanted = max(1, round(seconds * rate_hz))
    padded = np.pad(sound[:wanted], (0, max(0, wanted - len(sound)))).astype(np.float32)
    return encode_clip(frames, fps_hz, padded, rate_hz)


def _small_frames(clip: DecodedClip) -> tuple[np.ndarray, float]:
    """Frames at most :data:`SHORT_SIDE_PX` high or wide and :data:`MOST_FPS_HZ` per second; grey ones for a clip without picture."""
    if clip.frames is None:
        return np.full((max(1, round(clip.duration_s)), 90, 160, 3), 128, np.uint8), 1.0
    step = max(1, round(clip.fps_hz / MOST_FPS_HZ))
    kept = clip.frames[::step]
    height, width = kept.shape[1:3]
    scale = min(1.0, SHORT_SIDE_PX / min(height, width))
    size = tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))
    small: list[Any] = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in kept]
    return np.stack(small).astype(np.uint8), clip.fps_hz / step


def page_name(folder: Path) -> Path:
    """Where the page of a benchmark lies by default."""
    return folder / "report.html"
