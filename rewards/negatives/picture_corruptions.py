"""Corruptions of the picture: what no longer shows the sound's source (mask, foreign object) or no longer keeps its time.

The four of JavisDiT's negatives, from clips alone. Masked cells are drawn without replacement, so ``share`` is what is covered; the
published objects are tracked ones of a data set, here an elliptic piece of another recording flies through the picture while its own
content goes on playing.
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
"""What covers masked cells: the middle of the scale, as in the published negatives."""
CELLS_ACROSS = 6
MASK_SHARE = (0.2, 0.8)
MIN_FRAMES = 12
OBJECT_SHARE = (0.25, 0.5)
"""Diameters of a pasted object in heights and widths of the picture."""
NUM_PLACES = 8
STRIDE = 4
"""Every fourth pixel and some of the frames are enough to see where something moves."""


@dataclass(frozen=True)
class GridMask:
    """The same grey squares in every frame: ``cells`` numbers them row by row, ``side_px`` is their side."""

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
    """An ellipse of ``height_px`` by ``width_px`` of the donor's frames, at ``from_y_px, from_x_px`` there, moves evenly from
    ``start_y_px, start_x_px`` to ``end_y_px, end_x_px`` in frames ``at_frame`` to ``at_frame + num_frames``; corners are top left ones.
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
            taken = donor.clip.frames[frame, self.from_y_px :, self.from_x_px :][: self.height_px, : self.width_px]
            frames[frame, y : y + self.height_px, x : x + self.width_px][shape] = taken[shape]
        return cut.with_frames(frames)


@dataclass(frozen=True)
class CyclicShift:
    """The picture begins ``num_frames`` before its end and goes round."""

    name: ClassVar[str] = "cyclic shift"
    num_frames: int

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        return cut.with_frames(np.roll(cut.frames, self.num_frames, axis=0))


@dataclass(frozen=True)
class Stall:
    """Frame ``at_frame`` stays for ``num_frames`` more, then the picture goes on late; its end is lost."""

    name: ClassVar[str] = "stall"
    at_frame: int
    num_frames: int

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        shown = np.arange(len(cut.frames))
        shown = np.where(shown > self.at_frame, np.maximum(shown - self.num_frames, self.at_frame), shown)
        return cut.with_frames(cut.frames[shown])


def draw_grid_mask(cut: Cut, donor: Donor | None, random: Generator) -> GridMask | NotApplicable:
    """Squares of a sixth of the shorter side, 20 to 80 % of them."""
    side_px = min(cut.frames.shape[1:3]) // CELLS_ACROSS
    if not side_px:
        return NotApplicable("a picture too small for a grid")
    rows, columns = _cells(cut.frames, side_px)
    share = float(random.uniform(*MASK_SHARE))
    drawn = random.choice(rows * columns, size=max(1, round(share * rows * columns)), replace=False)
    return GridMask(share, side_px, tuple(sorted(drawn.tolist())))


def draw_pasted_object(cut: Cut, donor: Donor | None, random: Generator) -> PastedObject | NotApplicable:
    """At least 12 frames, from one side of the picture to the other; of eight pieces of the donor the one that moves most."""
    if donor is None or donor.clip.frames is None:
        return NO_DONOR
    num_known, height, width = min(len(cut.frames), len(donor.clip.frames)), *cut.frames.shape[1:3]
    if num_known < MIN_FRAMES:
        return NotApplicable(f"fewer than {MIN_FRAMES} frames")
    num_frames = int(random.integers(MIN_FRAMES, num_known, endpoint=True))
    at_frame = int(random.integers(0, num_known - num_frames, endpoint=True))
    size = [max(1, round(float(random.uniform(*OBJECT_SHARE)) * side)) for side in (height, width)]
    room_y, room_x = height - size[0], width - size[1]
    from_y, from_x = _liveliest(donor.clip.frames[at_frame : at_frame + num_frames], size, random)
    start_y, end_y = (int(y) for y in random.integers(0, room_y, size=2, endpoint=True))
    from_edge = [int(x) for x in random.integers(0, room_x // 4, size=2, endpoint=True)]
    sides = [from_edge[0], room_x - from_edge[1]]
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
    """By a tenth of the clip to just under half of it."""
    count = len(cut.frames)
    low, high = max(1, -(-count // 10)), -(-count // 2)
    return CyclicShift(int(random.integers(low, high))) if low < high else NotApplicable("too few frames to shift")


def draw_stall(cut: Cut, donor: Donor | None, random: Generator) -> Stall | NotApplicable:
    """For at least 12 frames and at most half of the clip, within it."""
    count = len(cut.frames)
    if count // 2 < MIN_FRAMES:
        return NotApplicable(f"fewer than {2 * MIN_FRAMES} frames")
    num_frames = int(random.integers(MIN_FRAMES, count // 2, endpoint=True))
    return Stall(int(random.integers(0, count - num_frames)), num_frames)


def _cells(frames: NDArray[np.uint8], side_px: int) -> tuple[int, int]:
    """Rows and columns of cells; those at the far edges may reach past them."""
    return -(-frames.shape[1] // side_px), -(-frames.shape[2] // side_px)


def _ellipse(height_px: int, width_px: int) -> NDArray[np.bool_]:
    y, x = ((np.arange(size) + 0.5) * 2 / size - 1 for size in (height_px, width_px))
    return np.asarray(y[:, None] ** 2 + x**2 <= 1.0)


def _liveliest(frames: NDArray[np.uint8], size: list[int], random: Generator) -> tuple[int, int]:
    """Corner of the piece of ``size`` that changes most over time, of NUM_PLACES drawn ones."""
    every = max(1, len(frames) // MIN_FRAMES)
    seen = frames[::every, ::STRIDE, ::STRIDE].astype(np.int16)
    change = np.abs(np.diff(seen, axis=0)).mean(axis=(0, 3))
    rooms = [side - length for side, length in zip(frames.shape[1:3], size, strict=True)]
    places = [tuple(int(random.integers(0, room, endpoint=True)) for room in rooms) for _ in range(NUM_PLACES)]
    height, width = (-(-length // STRIDE) for length in size)
    moved = [change[y // STRIDE :, x // STRIDE :][:height, :width].mean() for y, x in places]
    y, x = places[int(np.argmax(moved))]
    return y, x
