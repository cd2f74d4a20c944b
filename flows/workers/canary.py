"""A canary: before an actor scores anything, its network scores one fixed clip and must find what the first actor found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avpref.domain import ScoreStatus
from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.model_scorer import ModelScorer
from avpref.rewards.protocol import ScorableClip
from avpref.storage.files import Files

LENGTH_S, FPS_HZ, HEIGHT_PX, WIDTH_PX, RATE_HZ = 0.8, 25.0, 96, 128, 16000
TOLERANCE = {torch.float32: 1e-3}
REDUCED_TOLERANCE = 0.05
REPAIR = "check weights, driver and torch of this machine: avpref weights verify"
TEXT = "A bright square jumps to the right with every click."


@dataclass(frozen=True)
class Canary:
    """Where the first answers are kept, and the relative drift that is borne (None: 0.001 in float32, 0.05 in 16 bits)."""

    files: Files
    tolerance: float | None = None

    def check(self, name: str, fingerprint: str, scorer: ModelScorer[Any]) -> None:
        """Score the canary clip. Raises InputError where a number is not what ``fingerprint`` gave before."""
        answer = scorer.score([canary_clip()])[0]
        found = {score.metric: score.value for score in answer if score.status == ScoreStatus.OK}
        if len(found) < len(answer):
            bad = ", ".join(f"{score.metric}: {score.reason}" for score in answer if score.status != ScoreStatus.OK)
            raise InputError(f"{name} cannot score the canary clip: {bad}", "a number for every metric", REPAIR)
        tolerance = self.tolerance or TOLERANCE.get(scorer.placement.dtype, REDUCED_TOLERANCE)
        answers = f"{fingerprint}.json"
        if self.files.commit_once(answers, json.dumps(found, indent=1, sort_keys=True).encode()):
            return
        drift = _drifted(json.loads(self.files.read(answers)), found, tolerance)
        if drift:
            raise InputError(
                f"{name} scores the canary clip otherwise than before: {drift}",
                f"the numbers of {self.files.uri(answers)}, to a relative {tolerance:g}",
                "compare driver, GPU and torch of this machine with those before; where the new numbers are right, remove "
                f"{self.files.uri(answers)} and score everything again in a new folder (--runs DIR)",
            )


def _drifted(known: Mapping[str, float], found: Mapping[str, float | None], tolerance: float) -> str:
    lines = []
    for metric in sorted({*known, *found}):
        before, now = known.get(metric), found.get(metric)
        if before is None or now is None or abs(now - before) > tolerance * max(1.0, abs(before)):
            lines.append(f"{metric} {now} instead of {before}")
    return ", ".join(lines)


def canary_clip() -> ScorableClip:
    """The clip: a square that jumps, a click at each jump, textured ground; the same on every machine."""
    frames, audio = _ground(), np.zeros(round(LENGTH_S * RATE_HZ), np.float32)
    for k, frame in enumerate(frames):
        left = 8 + 24 * (k // 5)
        frame[30:60, left : left + 24] = (230, 200, 40)
    for k in range(0, len(frames), 5):
        start = round(k / FPS_HZ * RATE_HZ)
        decay = np.exp(-np.arange(800) / 200.0)
        audio[start : start + 800] += (0.5 * decay * np.sin(0.35 * np.arange(800))).astype(np.float32)
    clip = DecodedClip(frames, FPS_HZ, audio, RATE_HZ, LENGTH_S, channels=audio[None])
    return ScorableClip("canary", TEXT, clip)


def _ground() -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    texture = ((rows * 7 + columns * 13) % 61 + 40).astype(np.uint8)
    still = np.stack([texture, texture // 2, 255 - texture], axis=-1)
    return np.repeat(still[None], round(LENGTH_S * FPS_HZ), axis=0)
