"""The data of a training job: clips or pairs, their order and forward passes, and what follows from the shapes of their buckets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avpref.identity import derive_seed
from avpref.storage.latents.training_set import is_training_set
from avpref.trainer.batches import load_clip_set, load_pair_set
from avpref.trainer.data.buckets import Buckets, Schedule
from avpref.trainer.data.sample_data import ClipRows, PairRows, Samples
from avpref.trainer.data.stored_data import StoredClips, StoredPairs, open_training_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.noise import NoiseConfig


def open_clips(job: TrainingJob, path: Path, *, has_video: bool = True) -> ClipRows:
    """The clips of an SFT job: a latent store or one file; without ``has_video`` their audio alone. Raises InputError."""
    if is_training_set(path):
        data = open_training_set(path, "clips", job.audio_latents if path == job.audio_data else job.latents)
        return StoredClips(data, derive_seed("posterior", job.seed), has_video=has_video)
    clips = load_clip_set(path)
    return clips if has_video else replace(clips, video=None)


def open_pairs(job: TrainingJob) -> PairRows:
    """The pairs of an AV-DPO job: a latent store or one file. Raises InputError."""
    if is_training_set(job.data):
        return StoredPairs(open_training_set(job.data, "pairs", job.latents), derive_seed("posterior", job.seed))
    return load_pair_set(job.data)


def schedule_of(job: TrainingJob, data: Samples) -> Schedule:
    """Order and forward passes of ``data``. Raises ConfigError for a bucket whose single sample exceeds ``loop.max_tokens``."""
    base = job.base_model
    return Schedule(data.buckets(), lambda shapes: base.latent_work(shapes).num_tokens, job.settings.loop.max_tokens)


def noise_of_buckets(job: TrainingJob, noise: NoiseConfig, buckets: Buckets) -> list[NoiseConfig]:
    """``noise`` with the timesteps of every bucket, which follow the size and length of its clips.

    Raises ConfigError where no shift can be derived from a length.
    """
    laws = [job.timestep_law(bucket.size) for bucket in buckets.kinds]
    return [replace(noise, shift=law.shift, audio_shift=law.audio_shift, stretched=law.stretched) for law in laws]


def video_spans(clips: ClipRows, job: TrainingJob) -> dict[int, int]:
    """Video latent frames that audio of a number of latent steps spans: those of the clips, or one and then one per four frames."""
    spans = {}
    for bucket in clips.buckets().kinds:
        assert bucket.shapes.audio is not None, "audio training needs sound"
        frames = job.clip.num_frames if bucket.size is None else bucket.size.num_frames
        video = bucket.shapes.video
        spans[bucket.shapes.audio[1]] = latent_frames_of(frames) if video is None else video[1]
    return spans


def latent_frames_of(num_frames: int) -> int:
    """Latent frames of a clip: one, and one for every four further frames."""
    return (num_frames - 1) // 4 + 1
