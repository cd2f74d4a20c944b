"""Sizes of LTX-2 clips and their latents, and the packing of latents as tokens.

Video: sides in multiples of 32 pixels from 64, 8k + 1 frames at 24 frames per second; latents (128, k + 1, H / 32, W / 32), one token per
cell. Audio: 25 latent frames per second of 8 channels x 16 mel rows; one token of 128 values per latent frame.
"""

from __future__ import annotations

from torch import Tensor

from avpref.errors import ConfigError
from avpref.media.geometry import ClipShape
from avpref.models.flow import LatentShapes

CELL_PX = 32
MIN_CELLS = 2
"""Cells of a side at least: the decoder mirrors latents at their edges."""
FRAME_GROUP = 8
FPS_HZ = 24.0
VIDEO_CHANNELS = 128
AUDIO_CHANNELS = 8
MEL_BANDS = 64
MEL_ROWS = 16
AUDIO_FRAMES_PER_S = 25.0


def require_grid(shape: ClipShape, sample_rate_hz: int) -> None:
    """Raises ConfigError for a clip that the base cannot make: sides, frames, frame rate or sample rate off its grid."""
    sides = {"height_px": shape.height_px, "width_px": shape.width_px}
    for name, side in sides.items():
        if side % CELL_PX or side < MIN_CELLS * CELL_PX:
            near = _nearest(max(side, MIN_CELLS * CELL_PX), CELL_PX, 0)
            raise ConfigError(
                f"clip.{name} {side}, which is not a multiple of {CELL_PX} from {MIN_CELLS * CELL_PX}",
                f"{name} " + " or ".join(map(str, near)),
                f"--set clip.{name}={near[-1]}",
            )
    if (shape.num_frames - 1) % FRAME_GROUP:
        near = _nearest(shape.num_frames, FRAME_GROUP, 1)
        raise ConfigError(
            f"clip.num_frames {shape.num_frames}, which is not {FRAME_GROUP}k + 1",
            "num_frames " + " or ".join(map(str, near)),
            f"--set clip.num_frames={near[-1]}",
        )
    if shape.fps_hz != FPS_HZ:
        raise ConfigError(
            f"clip.fps_hz {shape.fps_hz}", f"{FPS_HZ}, the frame rate of LTX-2", f"--set clip.fps_hz={FPS_HZ}"
        )
    if shape.sample_rate_hz != sample_rate_hz:
        raise ConfigError(
            f"clip.sample_rate_hz {shape.sample_rate_hz}",
            f"{sample_rate_hz}, the rate of the base's vocoder",
            f"--set clip.sample_rate_hz={sample_rate_hz}",
        )


def _nearest(value: int, step: int, offset: int) -> tuple[int, ...]:
    """The nearest values k * step + offset below (if positive) and above ``value``, or ``value`` alone if it is one."""
    below = (value - offset) // step * step + offset
    above = below if below == value else below + step
    return tuple(near for near in dict.fromkeys((below, above)) if near > 0)


def latent_shapes(shape: ClipShape) -> LatentShapes:
    """Shapes of one clip's latents: video (128, T, H / 32, W / 32), audio (8, L, 16) with L = round(25 * seconds)."""
    video = (
        VIDEO_CHANNELS,
        (shape.num_frames - 1) // FRAME_GROUP + 1,
        shape.height_px // CELL_PX,
        shape.width_px // CELL_PX,
    )
    return LatentShapes(video, (AUDIO_CHANNELS, round(shape.duration_s * AUDIO_FRAMES_PER_S), MEL_ROWS))


def token_counts(shapes: LatentShapes) -> tuple[int, int]:
    """Video and audio tokens of one clip."""
    assert shapes.video is not None and shapes.audio is not None
    _, frames, height, width = shapes.video
    return frames * height * width, shapes.audio[1]


def pack_video(latents: Tensor) -> Tensor:
    """Latents [B, C, T, h, w] -> tokens [B, T * h * w, C]."""
    return latents.flatten(2).transpose(1, 2)


def unpack_video(tokens: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Tokens [B, T * h * w, C] -> latents [B, C, T, h, w] of ``size`` (T, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, size)


def pack_audio(latents: Tensor) -> Tensor:
    """Latents [B, C, L, M] -> tokens [B, L, C * M]."""
    return latents.transpose(1, 2).flatten(2)


def unpack_audio(tokens: Tensor, mel_rows: int) -> Tensor:
    """Tokens [B, L, C * M] -> latents [B, C, L, M] with M = ``mel_rows``."""
    return tokens.unflatten(2, (-1, mel_rows)).transpose(1, 2)
