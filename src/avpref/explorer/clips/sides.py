"""The two sides of the player: addresses and lengths of the clips, for a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """One side of the player. ``base`` is the address under which its media, sound and drawings lie."""

    letter: str
    name: str
    base: str
    duration_s: float
    fps_hz: float
    width_px: int
    height_px: int


def side_of_clip(run_id: str, letter: str, name: str, clip: Mapping[str, Any]) -> Side:
    """The side that shows a row of ``clip_rows``."""
    base = f"/run/{run_id}/clip/{clip['candidate_id']}"
    return Side(letter, name, base, clip["duration_s"], clip["fps_hz"], clip["width_px"], clip["height_px"])
