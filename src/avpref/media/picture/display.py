"""How a stored picture is shown: turned and mirrored, with square pixels, in which colours. PyAV and numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.buffer import Buffer
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avpref.errors import MediaError
from avpref.media.fixes import transcode_command

HD_WIDTH_PX, SD_HEIGHT_PX = 1280, 576
"""A picture at least this wide, or higher than this, has the colours of BT.709 where its file names none, as in players."""
UNSPECIFIED, RESERVED = 2, 3
"""Codes for a matrix that the file does not name (ITU-T H.273)."""
LONGEST_SIDE_PX = 32_768
SKEW = 0.02
"""Largest part of a display matrix, relative to the others, that may turn the picture by less than a quarter."""
HDR_CURVES = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}


@dataclass(frozen=True)
class Orientation:
    """The way from the stored to the shown picture: rows and columns swapped, then each of them reversed."""

    is_transposed: bool = False
    reverses_rows: bool = False
    reverses_columns: bool = False

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The shown picture, a view of the stored ``picture`` [H, W, 3]."""
        turned = picture.swapaxes(0, 1) if self.is_transposed else picture
        rows, columns = (slice(None, None, -1 if flag else 1) for flag in (self.reverses_rows, self.reverses_columns))
        return turned[rows, columns]

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are exchanged."""
        return self.is_transposed ^ self.reverses_rows ^ self.reverses_columns

    @property
    def rotation_deg(self) -> int:
        """Degrees, counter-clockwise, by which the stored picture is turned before it is mirrored (left and right) or not."""
        reverses_columns = self.reverses_columns ^ self.is_mirrored
        if self.is_transposed:
            return 270 if reverses_columns else 90
        return 180 if reverses_columns else 0


def orientation(stream: VideoStream, frame: av.VideoFrame) -> Orientation:
    """The orientation that the display matrix of ``frame`` of ``stream`` asks for. Raises MediaError for other angles than quarter turns.

    A matrix [a b; c d] shows the stored pixel (x, y) at (a·x + c·y, b·x + d·y).
    """
    a, b, c, d = _matrix(frame)
    straight, turned = max(abs(a), abs(d)), max(abs(b), abs(c))
    if a * d == b * c:
        return Orientation()
    if turned <= SKEW * straight:
        return Orientation(False, bool(d < 0), bool(a < 0))
    if straight <= SKEW * turned:
        return Orientation(True, bool(b < 0), bool(c < 0))
    raise MediaError(
        found=f"a picture that is to be displayed turned by {math.degrees(math.atan2(-b, a)):.0f} degrees",
        expected="a multiple of 90 degrees",
        fix=f"encode the file upright: {transcode_command(stream.container)}",
    )


def _matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    try:
        matrix_bytes = cast("Mapping[Type, Buffer]", frame.side_data).get(Type.DISPLAYMATRIX)
    except ValueError:  # side data of a kind that PyAV does not know yet
        turn = np.exp(1j * np.radians(-frame.rotation))
        return float(turn.real), float(turn.imag), float(-turn.imag), float(turn.real)
    if matrix_bytes is None:
        return 1.0, 0.0, 0.0, 1.0
    a, b, _, c, d = np.frombuffer(bytes(matrix_bytes), np.int32)[:5].astype(float)
    return a, b, c, d


def shown_size(stream: VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width in square pixels of the stored picture, before it is turned. The height is kept.

    The container's aspect ratio of a pixel is used, or else the codec's. Raises MediaError where the width would be
    outside 1 to 32768 pixels.
    """
    aspect: Fraction | None = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    width = round(frame.width * aspect) if aspect and aspect > 0 else frame.width
    if not 1 <= width <= LONGEST_SIDE_PX:
        raise MediaError(
            found=f"a picture of {frame.width}x{frame.height} pixels with an aspect ratio of {aspect} per pixel",
            expected=f"a shown width of 1 to {LONGEST_SIDE_PX} pixels",
            fix=f"encode the file with square pixels: {transcode_command(stream.container, 'setsar=1')}",
        )
    return frame.height, width


def is_hd(height_px: int, width_px: int) -> bool:
    """Whether a picture without named colours has those of BT.709."""
    return width_px >= HD_WIDTH_PX or height_px > SD_HEIGHT_PX


def matrix(frame: av.VideoFrame) -> Colorspace | None:
    """The matrix of luma and colour differences; None for the one that the frame names, or BT.601 where it names none."""
    if frame.format.is_rgb or frame.colorspace not in (UNSPECIFIED, RESERVED):
        return None
    if hdr_curve(frame):
        return Colorspace.BT2020
    return Colorspace.ITU709 if is_hd(frame.height, frame.width) else None


def hdr_curve(frame: av.VideoFrame) -> str:
    """``PQ`` or ``HLG`` for a picture of high dynamic range, else empty."""
    return HDR_CURVES.get(frame.color_trc, "")


def has_wide_primaries(frame: av.VideoFrame) -> bool:
    """Whether the primaries are those of BT.2020; pictures of high dynamic range that name none have these."""
    return frame.color_primaries not in (int(ColorPrimaries.BT709), int(ColorPrimaries.SMPTE432))


def hdr_error(name: str, curve: str) -> MediaError:
    """The error of a recording of high dynamic range where these are refused."""
    return MediaError(
        found=f"{name}: HDR ({curve})",
        expected="a recording of standard dynamic range, because clip.hdr is refuse",
        fix="set clip.hdr to tone_map, or convert the file yourself",
    )
