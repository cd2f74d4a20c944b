"""The time that a run takes on this machine, estimated before it starts from a few steps of its network and a few clips.

It covers runs whose work is a small network on the CPU, as that of the toy world; the times of others depend on GPUs and weights.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from avpref.config.executor_settings import RayExecutor
from avpref.config.schema import Settings
from avpref.config.training_settings import SftSettings
from avpref.domain import Split
from avpref.flows.dry_run import network_values
from avpref.flows.placement import CPU, placements
from avpref.flows.stages.candidate_plan import planned_candidates
from avpref.flows.workers.encode_worker import mp4_bytes
from avpref.flows.workers.generator import base_of, open_codec, open_sampler
from avpref.flows.workers.prompt_sources import UnencodedClip, clip_shape, open_prompt_source
from avpref.flows.workers.scorers import sources
from avpref.media.reading import read_clip
from avpref.models.bases.base_model import Precisions
from avpref.models.sampling import draw_noise
from avpref.trainer.parallel import torch_threads

MAX_NETWORK_VALUES = 20_000_000
REPEATS, ROWS = 5, 16
SFT_FORWARDS = 3.0
"""A step of flow matching in forward passes: its own, its backward pass, and the optimiser."""
DPO_FORWARDS = 4.2
"""A step of AV-DPO in forward passes of its rows: reference, policy with adapter, and the backward pass."""
READS_PER_CANDIDATE = 3.0
"""Every clip is read for its scores, for the audit, and some for the training; scoring takes about as long as reading."""
FIXED_S = 25.0
"""Ray, two actors, imports of the training process, pairs, gate and report."""


@dataclass(frozen=True)
class UnitTimes:
    """Seconds of one thread: a row through the network, and a clip decoded and written (``write_s``), or read (``read_s``)."""

    row_s: float
    write_s: float
    read_s: float


def estimate_seconds(settings: Settings) -> float | None:
    """Seconds that all stages take if nothing else runs; None for runs on GPUs, with pretrained models or large networks."""
    is_small = base_of(settings).precisions == Precisions()
    is_small = is_small and not any(source.is_network for source in sources(settings.scoring))
    is_on_cpu = all(row.device == CPU for row in placements(settings))
    if not is_small or not is_on_cpu or network_values(settings)[0] > MAX_NETWORK_VALUES:
        return None
    return total_seconds(settings, measure_units(settings))


def total_seconds(settings: Settings, times: UnitTimes) -> float:
    """Seconds of a run whose units of work take ``times``."""
    source = open_prompt_source(settings)
    prompts = source.prompts().prompts
    num_held_out = sum(prompt.split == Split.HELD_OUT for prompt in prompts)
    num_clips = sum(1 for _ in planned_candidates(prompts, settings)) + num_held_out
    per_clip_s = open_sampler(settings).num_passes * times.row_s + times.write_s + READS_PER_CANDIDATE * times.read_s
    loop = settings.dpo.loop
    train_s = loop.steps * 2 * loop.batch_size * DPO_FORWARDS * times.row_s / loop.num_processes
    workers = settings.executor.num_actors if isinstance(settings.executor, RayExecutor) else 1
    seconds = FIXED_S + num_clips * per_clip_s / workers + train_s
    if isinstance(settings.sft, SftSettings):
        clips_s = len(source.sft_items(prompts)) * (times.write_s + times.read_s) / workers
        rows = settings.sft.loop.steps * settings.sft.loop.batch_size / settings.sft.loop.num_processes
        seconds += clips_s + rows * SFT_FORWARDS * times.row_s
    return seconds


@torch.no_grad()
def measure_units(settings: Settings) -> UnitTimes:
    """Measure one thread on this machine. Raises what opening codec and network raises."""
    codec, shape = open_codec(settings), clip_shape(settings)
    base = base_of(settings)
    network = base.create(0).eval()
    text = base.text_encoder(Path()).encode(["a text"] * ROWS)
    latents, t = draw_noise(codec.latent_shapes(), range(ROWS)), torch.full((ROWS,), 0.5)
    single = draw_noise(codec.latent_shapes(), [0])
    with torch_threads(1):
        row_s = _median_s(lambda: network(latents, t, text.states, text.mask)) / ROWS
    frames, audio = codec.decode(single)[0]
    data = mp4_bytes(UnencodedClip("", frames, audio), shape)
    write_s = _median_s(lambda: mp4_bytes(UnencodedClip("", *codec.decode(single)[0]), shape))
    return UnitTimes(row_s, write_s, _median_s(lambda: read_clip(io.BytesIO(data), shape)))


def _median_s(work: Callable[[], object]) -> float:
    """Median seconds of a call, after one that warms caches up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
