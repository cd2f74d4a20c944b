"""Pairs and clips whose shape fits no forward pass of the configured budget: they are left out, each with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from avpref.config.training_settings import LoopSettings
from avpref.datasets.latents import TrainingSample
from avpref.datasets.rows import QuarantineRow
from avpref.flows.run import Run
from avpref.flows.shapes import settings_of, shape_name
from avpref.flows.workers.generator import base_of, open_codec
from avpref.media.geometry import ClipShape

NO_BUCKET = "NoBucket"


def within_budget(
    run: Run, samples: Iterable[TrainingSample], loop: LoopSettings, stage: str
) -> tuple[list[TrainingSample], list[QuarantineRow]]:
    """The samples that fit ``loop.max_tokens``, and a row with the reason for each other one."""
    clip, base = run.settings.clip, base_of(run.settings)

    @lru_cache
    def tokens_of(num_frames: int, height_px: int, width_px: int) -> int:
        shape = ClipShape(num_frames, height_px, width_px, clip.fps_hz, clip.sample_rate_hz)
        return base.latent_work(open_codec(settings_of(run.settings, shape)).encoded_shapes()).num_tokens

    fitting: list[TrainingSample] = []
    refused: list[QuarantineRow] = []
    for sample in samples:
        rows = 2 if sample.rejected else 1
        size = sample.num_frames, sample.height_px, sample.width_px
        if loop.max_tokens is None or rows * tokens_of(*size) <= loop.max_tokens:
            fitting.append(sample)
            continue
        name = shape_name(ClipShape(*size, clip.fps_hz, clip.sample_rate_hz))
        message = f"{rows * tokens_of(*size)} tokens of shape {name}, and loop.max_tokens is {loop.max_tokens}"
        refused.append(QuarantineRow(sample.sample_id, stage, NO_BUCKET, message, 1))
    return fitting, refused
