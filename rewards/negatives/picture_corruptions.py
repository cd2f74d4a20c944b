"""Corruptions of the picture: it hides the sound's source or shows a foreign object (spatial), or is out of time (temporal).

These are the four picture corruptions of JavisDiT's negatives, made from clips alone. Masked cells are drawn without replacement,
so ``share`` is the share that is covered. JavisDiT pastes tracked objects of a data set; here an elliptic piece of another
recording moves across the picture while its content keeps playing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip
from avpref.rewards.negatives.cuts import NO_DONOR, Cut, Donor, NotApplicable

GREY = 128
"""Value of masked cells: the middle of the scale, as in the published negatives."""
CELLS_ACROSS = 6
MASK_SHARE = (0.2, 0.8)
MIN_FRAMES = 12
OBJECT_SHARE = (0.25, 0.5)
"""Diameters of a pasted object as shares of the picture's height and width."""
NUM_CORNERS = 8
"""Number of drawn pieces of the donor's picture, of which the one that moves most is pasted."""
STRIDE = 4
"""Motion of a piece is measured on every fourth pixel and on some of the frames."""


@dataclass(frozen=True)
class GridMask:
    """The same grey squares of ``side_px`` pixels in every frame; ``cells`` are their numbers, counted row by row."""

    name: ClassVar[str] = "grid mask"
    share: float
    side_px: int
    cells: tuple[int, ...]

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        frames = cut.frames.copy()
        is_masked = np.zeros(_cells(frames, self.side_px), bool)
        is_masked.flat[list(self.cells)] = True
        pixels = is_masked.repeat(self.side_px, axis=0).repeat(self.side_px, axis=1)
        frames[:, pixels[: frames.shape[1], : frames.shape[2]]] = GREY
        return cut.with_frames(frames)


@dataclass(frozen=True)
class PastedObject:
    """An elliptic piece of the donor's frames moves across the picture at constant speed.

    The ellipse has ``height_px`` by ``width_px`` pixels and is taken from ``from_y_px, from_x_px`` of the donor. It moves from
    ``start_y_px, start_x_px`` to ``end_y_px, end_x_px`` in frames ``at_frame`` to ``at_frame + num_frames``. Positions are those of the
    top left corner.
    """

    name: ClassVar[str] = "pasted object"
    donor: str
    at_frame: int
    num_frames: int
    height_px: int
    width_px: int
    from_y_px: int
    from_x_px: int
    start_y_px: int
    start_x_px: int
    end_y_px: int
    end_x_px: int

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        assert donor is not None and donor.clip.frames is not None
        frames, shape = cut.frames.copy(), _ellipse(self.height_px, self.width_px)
        rows = np.linspace(self.start_y_px, self.end_y_px, self.num_frames).round().astype(int)
        columns = np.linspace(self.start_x_px, self.end_x_px, self.num_frames).round().astype(int)
        for frame, (y, x) in enumerate(zip(rows, columns, strict=True), start=self.at_frame):
            piece = donor.clip.frames[frame, self.from_y_px :, self.from_x_px :][: self.height_px, : self.width_px]
            frames[frame, y : y + self.height_px, x : x + self.width_px][shape] = piece[shape]
        return cut.with_frames(frames)


@dataclass(frozen=True)
class CyclicShift:
    """The last ``num_frames`` frames are moved to the start."""

    name: ClassVar[str] = "cyclic shift"
    num_frames: int

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        return cut.with_frames(np.roll(cut.frames, self.num_frames, axis=0))


@dataclass(frozen=True)
class Stall:
    """Frame ``at_frame`` is repeated ``num_frames`` times; later frames are delayed and the last ones dropped."""

    name: ClassVar[str] = "stall"
    at_frame: int
    num_frames: int

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        indices = np.arange(len(cut.frames))
        indices = np.where(indices > self.at_frame, np.maximum(indices - self.num_frames, self.at_frame), indices)
        return cut.with_frames(cut.frames[indices])


def draw_grid_mask(cut: Cut, donor: Donor | None, random: Generator) -> GridMask | NotApplicable:
    """Draw a mask of squares whose side is a sixth of the picture's shorter side; it covers 20 to 80 % of them."""
    side_px = min(cut.frames.shape[1:3]) // CELLS_ACROSS
    if not side_px:
        return NotApplicable("a picture too small for a grid")
    rows, columns = _cells(cut.frames, side_px)
    share = float(random.uniform(*MASK_SHARE))
    drawn = random.choice(rows * columns, size=max(1, round(share * rows * columns)), replace=False)
    return GridMask(share, side_px, tuple(sorted(drawn.tolist())))


def draw_pasted_object(cut: Cut, donor: Donor | None, random: Generator) -> PastedObject | NotApplicable:
    """Draw an object that crosses the picture in at least 12 frames: of eight pieces of the donor the one that moves most."""
    if donor is None or donor.clip.frames is None:
        return NO_DONOR
    num_known, height, width = min(len(cut.frames), len(donor.clip.frames)), *cut.frames.shape[1:3]
    if num_known < MIN_FRAMES:
        return NotApplicable(f"fewer than {MIN_FRAMES} frames")
    num_frames = int(random.integers(MIN_FRAMES, num_known, endpoint=True))
    at_frame = int(random.integers(0, num_known - num_frames, endpoint=True))
    size = [max(1, round(float(random.uniform(*OBJECT_SHARE)) * side)) for side in (height, width)]
    largest_y, largest_x = height - size[0], width - size[1]
    from_y, from_x = _corner_of_most_motion(donor.clip.frames[at_frame : at_frame + num_frames], size, random)
    start_y, end_y = (int(y) for y in random.integers(0, largest_y, size=2, endpoint=True))
    from_edge = [int(x) for x in random.integers(0, largest_x // 4, size=2, endpoint=True)]
    sides = [from_edge[0], largest_x - from_edge[1]]
    start_x, end_x = sides if random.random() < 0.5 else sides[::-1]
    return PastedObject(
        donor=donor.name,
        at_frame=at_frame,
        num_frames=num_frames,
        height_px=size[0],
        width_px=size[1],
        from_y_px=from_y,
        from_x_px=from_x,
        start_y_px=start_y,
        start_x_px=start_x,
        end_y_px=end_y,
        end_x_px=end_x,
    )


def draw_cyclic_shift(cut: Cut, donor: Donor | None, random: Generator) -> CyclicShift | NotApplicable:
    """Draw a shift by a tenth of the clip to just under half of it."""
    count = len(cut.frames)
    low, high = max(1, -(-count // 10)), -(-count // 2)
    return CyclicShift(int(random.integers(low, high))) if low < high else NotApplicable("too few frames to shift")


def draw_stall(cut: Cut, donor: Donor | None, random: Generator) -> Stall | NotApplicable:
    """Draw a stall within the clip, of at least 12 frames and at most half of the clip."""
    count = len(cut.frames)
    if count // 2 < MIN_FRAMES:
        return NotApplicable(f"fewer than {2 * MIN_FRAMES} frames")
    num_frames = int(random.integers(MIN_FRAMES, count // 2, endpoint=True))
    return Stall(int(random.integers(0, count - num_frames)), num_frames)


def _cells(frames: NDArray[np.uint8], side_px: int) -> tuple[int, int]:
    """Numbers of rows and columns of cells; the last ones may extend beyond the picture."""
    return -(-frames.shape[1] // side_px), -(-frames.shape[2] // side_px)


def _ellipse(height_px: int, width_px: int) -> NDArray[np.bool_]:
    y, x = ((np.arange(size) + 0.5) * 2 / size - 1 for size in (height_px, width_px))
    return np.asarray(y[:, None] ** 2 + x**2 <= 1.0)


def _corner_of_most_motion(frames: NDArray[np.uint8], size: list[int], random: Generator) -> tuple[int, int]:
    """Top left corner of the piece of ``size`` that changes most over time, of :data:`NUM_CORNERS` drawn ones."""
    frame_stride = max(1, len(frames) // MIN_FRAMES)
    sampled = frames[::frame_stride, ::STRIDE, ::STRIDE].astype(np.int16)
    change = np.abs(np.diff(sampled, axis=0)).mean(axis=(0, 3))
    largest = [side - length for side, length in zip(frames.shape[1:3], size, strict=True)]
    corners = [tuple(int(random.integers(0, limit, endpoint=True)) for limit in largest) for _ in range(NUM_CORNERS)]
    height, width = (-(-length // STRIDE) for length in size)
    motion = [change[y // STRIDE :, x // STRIDE :][:height, :width].mean() for y, x in corners]
    y, x = corners[int(np.argmax(motion))]
    return y, x
