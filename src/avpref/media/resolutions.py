"""Published sizes and lengths of the released generator, and their rounding to whole cells of its video codec.

The codec works on 8 × 8 pixels and the network joins 2 × 2 of those, so both sides are multiples of 16 pixels; the frames are one and
then groups of four. The *nominal* size names a resolution (240 × 426); the *effective* size is the generated one (240 × 432), every
side rounded up. A :class:`avpref.media.geometry.ClipShape` always has the effective size.
"""

from __future__ import annotations

from dataclasses import dataclass

CELL_PX = 16
"""Pixels per token, each way: 8 of the video codec times 2 of the network's patches."""
FRAME_GROUP = 4
"""Frames per latent frame, after the first."""


@dataclass(frozen=True)
class Resolution:
    """One row of the published table: a name, the aspect ratio height / width with two decimals, and the nominal size."""

    name: str
    aspect: str
    height_px: int
    width_px: int

    @property
    def effective(self) -> tuple[int, int]:
        """Effective height and width in pixels."""
        return effective_size(self.height_px, self.width_px)

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens of one latent frame."""
        height, width = self.effective
        return height // CELL_PX * (width // CELL_PX)


RESOLUTIONS = (
    Resolution("240p", "0.56", 240, 426),
    Resolution("240p", "1.00", 320, 320),
    Resolution("360p", "0.56", 360, 640),
    Resolution("480p", "0.56", 480, 854),
    Resolution("480p", "0.75", 554, 738),
    Resolution("480p", "1.00", 640, 640),
)
"""Published sizes of the released model. The original's "9:16" is height : width, 0.56, and means landscape."""

NUM_FRAMES = (33, 49, 65, 81)
"""Lengths that the released model was trained on, at 16 frames per second."""


def effective_size(height_px: int, width_px: int) -> tuple[int, int]:
    """Height and width rounded up to multiples of 16 pixels."""
    return -(-height_px // CELL_PX) * CELL_PX, -(-width_px // CELL_PX) * CELL_PX


def nominal_size(height_px: int, width_px: int) -> tuple[int, int]:
    """The published nominal size of this effective size; other sizes are returned unchanged.

    The original shifts timesteps by the nominal size in sampling and by the effective size in training.
    """
    for row in RESOLUTIONS:
        if row.effective == (height_px, width_px):
            return row.height_px, row.width_px
    return height_px, width_px


def latent_frames(num_frames: int) -> int:
    """Latent frames of a clip of 4k + 1 frames: k + 1. Raises ValueError for other lengths."""
    if num_frames < 1 or (num_frames - 1) % FRAME_GROUP:
        raise ValueError(f"a clip has 4k + 1 frames, found {num_frames}")
    return (num_frames - 1) // FRAME_GROUP + 1


def nearest_lengths(num_frames: int) -> tuple[int, ...]:
    """The nearest lengths 4k + 1: the next below (if positive) and the next above, or ``num_frames`` alone if it is one."""
    below = (num_frames - 1) // FRAME_GROUP * FRAME_GROUP + 1
    above = -(-(num_frames - 1) // FRAME_GROUP) * FRAME_GROUP + 1
    return tuple(length for length in dict.fromkeys((below, above)) if length > 0)


def nearest_sides(side_px: int) -> tuple[int, ...]:
    """The nearest multiples of 16: the next below (if positive) and the next above, or ``side_px`` alone if it is one."""
    below = side_px // CELL_PX * CELL_PX
    return tuple(side for side in dict.fromkeys((below, -(-side_px // CELL_PX) * CELL_PX)) if side > 0)
