"""Pictures are read as players show them: turned, mirrored, square pixels, deinterlaced, in the right colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avpref.errors import MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import probe, read_clip
from avpref.media.reading_rules import HdrHandling, ReadingRules

CLOSE_LEVELS = 4
EMPTY: Mapping[str, Any] = {}
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 40), (40, 50, 210), (230, 230, 230)


def quadrants(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    picture = np.empty((height, width, 3), np.uint8)
    for (row, column), colour in {(0, 0): RED, (0, 1): GREEN, (1, 0): BLUE, (1, 1): WHITE}.items():
        picture[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2] = colour
    return picture


def write(
    path: Path,
    frames: Sequence[av.VideoFrame],
    codec: str,
    options: dict[str, str] | None = None,
    settings: Mapping[str, Any] = EMPTY,
) -> None:
    """Frames at 25 per second; ``settings`` are attributes of the codec, ``matrix`` is the display matrix."""
    settings = dict(settings)
    matrix = settings.pop("matrix", None)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def rgb_frame(picture: NDArray[np.uint8], pixel_format: str = "yuv420p") -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pixel_format)


def flat(pixel_format: str, height: int, width: int, *levels: int) -> av.VideoFrame:
    """A frame whose planes are constant."""
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, level in zip(frame.planes, levels, strict=True):
        item = np.uint16 if "le" in pixel_format else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(item).itemsize, level, item).tobytes())
    return frame


def pixel(path: Path, **options: Any) -> list[int]:
    clip = read_clip(path, duration_s=0.04, **options)
    assert clip.frames is not None
    return [int(value) for value in clip.frames[0, clip.frames.shape[1] // 2, clip.frames.shape[2] // 2]]


ORIENTATIONS = [
    ((1, 0, 0, 1), ""),
    ((-1, 0, 0, 1), "hflip"),
    ((1, 0, 0, -1), "vflip"),
    ((-1, 0, 0, -1), "hflip,vflip"),
    ((0, 1, -1, 0), "transpose=clock"),
    ((0, -1, 1, 0), "transpose=cclock"),
    ((0, 1, 1, 0), "transpose=cclock_flip"),
    ((0, -1, -1, 0), "transpose=clock_flip"),
]


@pytest.mark.parametrize(("entries", "filters"), ORIENTATIONS)
def test_all_eight_orientations(tmp_path: Path, entries: tuple[int, ...], filters: str) -> None:
    """The filters are those that turn the picture as the matrix does."""
    path = tmp_path / "turned.mp4"
    a, b, c, d = (entry << 16 for entry in entries)
    write(
        path,
        [rgb_frame(quadrants())] * 5,
        "libx264",
        {"crf": "1", "bf": "0"},
        settings={"matrix": [a, b, 0, c, d, 0, 0, 0, 1 << 30]},
    )
    expected = filtered(quadrants(), filters)
    info = probe(path).video
    assert info is not None and (info.height_px, info.width_px) == expected.shape[:2]
    turned = np.rot90(quadrants(), info.rotation_deg // 90)
    np.testing.assert_array_equal(turned[:, ::-1] if info.is_mirrored else turned, expected)
    clip = read_clip(path)
    assert clip.frames is not None and clip.frames.shape[1:] == expected.shape
    assert np.abs(clip.frames[0].astype(int) - expected).mean() < CLOSE_LEVELS
    small = read_clip(path, ClipShape(2, 24, 24, 25.0, 16000)).frames
    assert small is not None
    crop = (np.array(expected.shape[:2]) - 48) // 2
    inside = expected[crop[0] : crop[0] + 48 or None, crop[1] : crop[1] + 48 or None][::2, ::2]
    assert np.abs(small[0].astype(int) - inside).mean() < 8


def filtered(picture: NDArray[np.uint8], filters: str) -> NDArray[np.uint8]:
    if not filters:
        return picture
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return run_filters([frame], filters)[0].to_ndarray().astype(np.uint8)


def run_filters(frames: Sequence[av.VideoFrame], filters: str) -> list[av.VideoFrame]:
    """``frames`` through FFmpeg's filters ``name=arguments,…``."""
    graph = Graph()
    first = frames[0]
    nodes = [graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1, 25))]
    for text in filters.split(","):
        name, _, arguments = text.partition("=")
        nodes.append(graph.add(name, arguments or None))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    results = []
    for index, frame in enumerate([*frames, None]):
        if frame is not None:
            frame.pts, frame.time_base = index, Fraction(1, 25)
        graph.vpush(frame)
        while True:
            try:
                results.append(graph.vpull())
            except (av.BlockingIOError, av.EOFError):
                break
    return results


def test_a_picture_turned_by_another_angle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "askew.mp4"
    turn = [round(65536 * value) for value in (0.866, 0.5, -0.5, 0.866)]
    write(
        path,
        [rgb_frame(quadrants())] * 5,
        "libx264",
        settings={"matrix": [turn[0], turn[1], 0, turn[2], turn[3], 0, 0, 0, 1 << 30]},
    )
    with pytest.raises(MediaError, match=r"turned by -?30 degrees"):
        read_clip(path)


@pytest.mark.parametrize(
    ("suffix", "codec", "aspect", "width"),
    [
        ("mp4", "libx264", Fraction(2), 128),
        ("mkv", "libx264", Fraction(8, 9), 57),
        ("ts", "mpeg2video", Fraction(4, 3), 85),
        ("ts", "libx264", Fraction(64, 45), 91),
        ("avi", "mpeg4", Fraction(16, 11), 93),
    ],
)
def test_pixels_become_square(tmp_path: Path, suffix: str, codec: str, aspect: Fraction, width: int) -> None:
    path = tmp_path / f"wide.{suffix}"
    frame = rgb_frame(quadrants())
    # MPEG-2 stores the shape of the screen, one of four
    aspect = Fraction(16, 9) / Fraction(64, 48) if codec == "mpeg2video" else aspect
    write(path, [frame] * 25, codec, {"bf": "0"}, settings={"sample_aspect_ratio": aspect})
    info, clip = probe(path).video, read_clip(path, duration_s=0.2)
    assert info is not None and (info.height_px, info.width_px) == (48, width)
    assert clip.frames is not None and clip.frames.shape[1:] == (48, width, 3)
    assert np.abs(clip.frames[0, 12, [width // 4, 3 * width // 4]].astype(int) - [RED, GREEN]).max() < 25
    shaped = read_clip(path, ClipShape(1, 24, 24, 25.0, 16000)).frames
    assert shaped is not None
    assert np.abs(shaped[0, 6, 6].astype(int) - RED).max() < 25


def test_an_aspect_ratio_goes_with_a_turn(tmp_path: Path) -> None:
    path = tmp_path / "both.mp4"
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    write(
        path,
        [rgb_frame(quadrants())] * 5,
        "libx264",
        {"bf": "0"},
        settings={"sample_aspect_ratio": Fraction(2), "matrix": matrix},
    )
    clip = read_clip(path)
    assert clip.frames is not None and clip.frames.shape[1:] == (128, 48, 3)


@pytest.mark.parametrize("is_top_first", [True, False])
def test_interlaced_pictures_are_deinterlaced_as_by_bwdif(tmp_path: Path, is_top_first: bool) -> None:
    path = tmp_path / "fields.mkv"
    pictures = [moving_fields(index, is_top_first) for index in range(20)]
    order = "tff=1" if is_top_first else "bff=1"
    write(path, [rgb_frame(picture) for picture in pictures], "libx264", {"crf": "1", "bf": "0", "x264-params": order})
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in stored)
    expected = [
        frame.reformat(format="rgb24").to_ndarray() for frame in run_filters(stored, "bwdif=send_frame:auto:interlaced")
    ]
    clip = read_clip(path)
    assert clip.frames is not None and len(clip.frames) == len(expected) == 20
    assert np.abs(clip.frames.astype(int) - np.stack(expected)).max() <= CLOSE_LEVELS
    combs = np.abs(np.diff(clip.frames[:, 8:-8].astype(int), axis=1)).mean()
    assert combs < np.abs(np.diff(np.stack(pictures)[:, 8:-8].astype(int), axis=1)).mean() / 4
    for start_s in (0.2, 0.52, 0.6):
        part = read_clip(path, start_s=start_s, duration_s=0.2).frames
        np.testing.assert_array_equal(part, clip.frames[round(start_s * 25) :][:5])


def moving_fields(index: int, is_top_first: bool) -> NDArray[np.uint8]:
    """A bar that moves by 6 pixels from field to field."""
    picture = np.full((96, 160, 3), 40, np.uint8)
    for field in (0, 1):
        left = (6 * (2 * index + (field if is_top_first else 1 - field))) % 120
        picture[field::2, left : left + 24] = 210
    return picture


def test_progressive_pictures_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "whole.mkv"
    write(path, [rgb_frame(moving_fields(index, True)) for index in range(8)], "libx264", {"crf": "1", "bf": "0"})
    clip = read_clip(path)
    assert clip.frames is not None
    assert np.abs(np.diff(clip.frames[:, 8:-8].astype(int), axis=1)).mean() > 10


LUMA, BLUE_DIFFERENCE, RED_DIFFERENCE = 120, 100, 170
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def rgb_of(weights: tuple[float, float], is_full: bool) -> list[int]:
    """RGB of the sample colour by the definition of luma and colour differences."""
    red, blue = weights
    y, cb, cr = float(LUMA), BLUE_DIFFERENCE - 128.0, RED_DIFFERENCE - 128.0
    if not is_full:
        y, cb, cr = (y - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    return [round(value) for value in (r, (y - red * r - blue * b) / (1 - red - blue), b)]


@pytest.mark.parametrize(
    ("size", "tags", "weights", "is_full"),
    [
        ((480, 640), {}, BT601, False),
        ((576, 720), {}, BT601, False),
        ((720, 960), {}, BT709, False),
        ((64, 1280), {}, BT709, False),
        ((720, 1280), {"colorspace": Colorspace.ITU601}, BT601, False),
        ((480, 640), {"colorspace": Colorspace.ITU709}, BT709, False),
        ((480, 640), {"colorspace": Colorspace.ITU709, "color_range": ColorRange.MPEG}, BT709, False),
        ((480, 640), {"color_range": ColorRange.JPEG}, BT601, True),
        ((720, 1280), {"color_range": ColorRange.JPEG}, BT709, True),
    ],
)
def test_colours_by_tags_or_by_size(
    tmp_path: Path, size: tuple[int, int], tags: dict[str, int], weights: tuple[float, float], is_full: bool
) -> None:
    path = tmp_path / "colour.mkv"
    frame = flat("yuv420p", *size, LUMA, BLUE_DIFFERENCE, RED_DIFFERENCE)
    for name, value in tags.items():
        setattr(frame, name, value)
    write(path, [frame] * 2, "ffv1", settings=tags)
    expected = rgb_of(weights, is_full)
    assert np.abs(np.subtract(pixel(path), expected)).max() <= 2
    small = read_clip(path, ClipShape(1, 32, 32, 25.0, 16000)).frames
    assert small is not None and np.abs(small[0, 16, 16].astype(int) - expected).max() <= 2


def test_ten_bits_read_as_eight(tmp_path: Path) -> None:
    for name, frame in {
        "eight": flat("yuv420p", 96, 128, LUMA, BLUE_DIFFERENCE, RED_DIFFERENCE),
        "ten": flat("yuv420p10le", 96, 128, 4 * LUMA, 4 * BLUE_DIFFERENCE, 4 * RED_DIFFERENCE),
    }.items():
        write(tmp_path / f"{name}.mkv", [frame] * 2, "ffv1")
    assert np.abs(np.subtract(pixel(tmp_path / "eight.mkv"), pixel(tmp_path / "ten.mkv"))).max() <= 1


def write_hdr(path: Path, level: int, curve: ColorTrc) -> None:
    tags = {
        "colorspace": Colorspace.BT2020,
        "color_trc": curve,
        "color_primaries": ColorPrimaries.BT2020,
        "color_range": ColorRange.MPEG,
    }
    frame = flat("yuv420p10le", 96, 128, level, 512, 512)
    for name, value in tags.items():
        setattr(frame, name, value)
    write(path, [frame] * 2, "ffv1", settings=tags)


@pytest.mark.parametrize(
    ("curve", "level", "lowest", "highest"),
    [
        (ColorTrc.SMPTE2084, 64, 0, 1),  # black
        (ColorTrc.SMPTE2084, 430, 112, 128),  # 26 cd/m²: mid grey
        (ColorTrc.SMPTE2084, 573, 230, 242),  # 203 cd/m²: the reference white
        (ColorTrc.SMPTE2084, 723, 253, 255),  # 1000 cd/m²
        (ColorTrc.SMPTE2084, 940, 255, 255),  # 10,000 cd/m²
        (ColorTrc.ARIB_STD_B67, 64, 0, 1),
        (ColorTrc.ARIB_STD_B67, 721, 230, 242),  # 75 %: the reference white
        (ColorTrc.ARIB_STD_B67, 940, 253, 255),
    ],
)
def test_high_dynamic_range_is_tone_mapped(
    tmp_path: Path, curve: ColorTrc, level: int, lowest: int, highest: int
) -> None:
    path = tmp_path / "hdr.mkv"
    write_hdr(path, level, curve)
    colour = pixel(path)
    assert max(colour) - min(colour) <= 1 and lowest <= colour[1] <= highest, colour


@pytest.mark.parametrize(("curve", "name"), [(ColorTrc.SMPTE2084, "PQ"), (ColorTrc.ARIB_STD_B67, "HLG")])
def test_high_dynamic_range_is_refused_by_rule(tmp_path: Path, curve: ColorTrc, name: str) -> None:
    path = tmp_path / "hdr.mkv"
    write_hdr(path, 573, curve)
    track = probe(path).video
    assert track is not None and track.hdr == name
    for reader in (probe, read_clip):
        with pytest.raises(MediaError, match=rf"hdr\.mkv: HDR \({name}\)"):
            reader(path, rules=ReadingRules(hdr=HdrHandling.REFUSE))
