"""The canary: before an actor scores candidates, its network scores one fixed clip, and the result must equal that of the first actor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from avpref.domain import ScoreStatus
from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.outside.declaration import score_clips
from avpref.rewards.outside.result_checks import checked_rows, checked_scores
from avpref.rewards.protocol import ScorableClip, Scorer
from avpref.storage.files import Files

LENGTH_S, FPS_HZ, HEIGHT_PX, WIDTH_PX, RATE_HZ = 0.8, 25.0, 96, 128, 16000
TOLERANCE = 1e-3
REDUCED_TOLERANCE = 0.05
REPAIR = "check weights, driver and torch of this machine: avpref weights verify"
TEXT = "A bright square jumps to the right with every click."


@dataclass(frozen=True)
class Canary:
    """The files of first results, and the largest relative difference allowed (None: 0.001 in float32, 0.05 in 16 bits)."""

    files: Files
    tolerance: float | None = None

    def check(self, name: str, fingerprint: str, scorer: Scorer, may_skip: bool = False) -> None:
        """Score the canary clip with ``scorer`` and compare with the first result of ``fingerprint``, or record the first.

        Raises InputError where a metric differs by more than the tolerance, or has no value, unless the scorer ``may_skip`` clips
        of other kinds than its own.
        """
        try:
            (row,) = checked_rows(score_clips(scorer, [canary_clip()]), 1)
            scores = checked_scores(row, scorer.metrics, canary_clip().candidate_id)
        except Exception as error:
            found = f"{name} fails on the canary clip: {type(error).__name__}: {error}"
            raise InputError(
                found, "scores, or skipped scores with the reason", f"avpref scorers check {name}"
            ) from error
        values = {score.metric: score.value for score in scores}
        bad = [f"{score.metric}: {score.reason}" for score in scores if score.status != ScoreStatus.OK]
        if bad and not may_skip:
            found = f"{name} cannot score the canary clip: {', '.join(bad)}"
            raise InputError(found, "a number for every metric", REPAIR)
        tolerance = self.tolerance or (TOLERANCE if _is_full_precision(scorer) else REDUCED_TOLERANCE)
        file = f"{fingerprint}.json"
        if self.files.commit_once(file, json.dumps(values, indent=1, sort_keys=True).encode()):
            return
        drift = _drifted(json.loads(self.files.read(file)), values, tolerance)
        if drift:
            raise InputError(
                f"{name} scores the canary clip differently than before: {drift}",
                f"the numbers of {self.files.uri(file)}, to a relative {tolerance:g}",
                "compare driver, GPU and torch of this machine with those used before; if the new numbers are right, remove "
                f"{self.files.uri(file)} and score everything again in a new folder (--runs DIR)",
            )


def _is_full_precision(scorer: Any) -> bool:
    """Whether the scorer computes in float32, or does not say."""
    placement = getattr(scorer, "placement", None)
    return placement is None or str(placement.dtype) == "torch.float32"


def _drifted(first: Mapping[str, float | None], values: Mapping[str, float | None], tolerance: float) -> str:
    lines = []
    for metric in sorted({*first, *values}):
        before, now = first.get(metric), values.get(metric)
        if before is now is None:
            continue
        if before is None or now is None or abs(now - before) > tolerance * max(1.0, abs(before)):
            lines.append(f"{metric} {now} instead of {before}")
    return ", ".join(lines)


def canary_clip() -> ScorableClip:
    """The canary clip: a square that jumps, a click at each jump, a textured background; equal on every machine."""
    frames, audio = _background(), np.zeros(round(LENGTH_S * RATE_HZ), np.float32)
    for k, frame in enumerate(frames):
        x_px = 8 + 24 * (k // 5)
        frame[30:60, x_px : x_px + 24] = (230, 200, 40)
    for k in range(0, len(frames), 5):
        start = round(k / FPS_HZ * RATE_HZ)
        decay = np.exp(-np.arange(800) / 200.0)
        audio[start : start + 800] += (0.5 * decay * np.sin(0.35 * np.arange(800))).astype(np.float32)
    clip = DecodedClip(frames, FPS_HZ, audio, RATE_HZ, LENGTH_S, channels=audio[None])
    return ScorableClip("canary", TEXT, clip)


def _background() -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    texture = ((rows * 7 + columns * 13) % 61 + 40).astype(np.uint8)
    still = np.stack([texture, texture // 2, 255 - texture], axis=-1)
    return np.repeat(still[None], round(LENGTH_S * FPS_HZ), axis=0)
