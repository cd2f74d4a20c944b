"""A tiny joint network, tiny latents, and jobs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

import pytest
import torch

from avpref.config.data_settings import ClipSettings
from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import (
    AdapterSettings,
    DpoSettings,
    LoopSettings,
    OptimiserSettings,
    SftSettings,
    TimestepSettings,
)
from avpref.models.checkpoints.network_loading import save_network
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.initialisation import create_network
from avpref.trainer.batches import ClipSet, PairSet, save_clip_set, save_pair_set
from avpref.trainer.job import TrainingJob

Fields = dict[str, object]
"""Keys of a section of the configuration, checked as in a configuration file."""
VIDEO, AUDIO, TEXT = (2, 3, 4, 4), (1, 6, 4), (3, 8)
NETWORK = NetworkSettings(
    dim=24, ffn_dim=32, freq_dim=16, text_dim=8, text_len=3, num_heads=2, num_layers=2, in_dim=2, audio_in_dim=1
)
CLIP = ClipSettings(num_frames=3, height_px=32, width_px=32, fps_hz=8)


class JobFields(TypedDict, total=False):
    """Fields of a :class:`TrainingJob` that a test sets itself."""

    weights: Path
    adapter: AdapterSettings
    sft_adapter: Path
    start_adapter: Path
    reference: Literal["base", "start"]


@pytest.fixture
def network_settings() -> NetworkSettings:
    return NETWORK


@pytest.fixture
def make_network() -> Callable[..., JavisDiT]:
    """A network whose every tensor is perturbed, so that zero-initialised heads hide no gradient."""

    def make(seed: int = 0, settings: NetworkSettings = NETWORK) -> JavisDiT:
        generator = torch.Generator().manual_seed(seed)
        network = create_network(NetworkConfig.from_settings(settings), ModelType.T2AV, generator)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return network

    return make


@pytest.fixture
def make_clips() -> Callable[..., ClipSet]:
    def make(count: int = 10, seed: int = 1) -> ClipSet:
        draw = _drawer(seed)
        return ClipSet(
            tuple(f"clip{index}" for index in range(count)),
            **_texts(draw, count),
            video=draw(count, *VIDEO),
            audio=draw(count, *AUDIO),
        )

    return make


@pytest.fixture
def make_pairs() -> Callable[..., PairSet]:
    def make(count: int = 10, seed: int = 2, num_delays: int = 0) -> PairSet:
        draw = _drawer(seed)
        return PairSet(
            tuple(f"pair{index}" for index in range(count)),
            **_texts(draw, count),
            chosen_video=draw(count, *VIDEO),
            rejected_video=draw(count, *VIDEO),
            chosen_audio=draw(count, *AUDIO),
            rejected_audio=draw(count, *AUDIO),
            desync_audio=draw(count, num_delays, *AUDIO) if num_delays else None,
        )

    return make


def _drawer(seed: int) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def _texts(draw: Callable[..., torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    num_texts = max(1, count // 2)
    return {
        "text": draw(num_texts, *TEXT),
        "text_mask": torch.ones(num_texts, TEXT[0], dtype=torch.bool),
        "text_index": torch.arange(count) % num_texts,
        "negative_text": draw(1, *TEXT),
        "negative_mask": torch.tensor([[True, False, False]]),
    }


def loop_settings(**changes: object) -> LoopSettings:
    values: Fields = {
        "steps": 6,
        "batch_size": 4,
        "checkpoint_every": 3,
        "keep_checkpoints": 9,
        "log_every": 2,
        "num_threads": 1,
    }
    return LoopSettings.model_validate(values | changes)


@pytest.fixture
def sft_job(tmp_path: Path, make_clips: Callable[..., ClipSet]) -> Callable[..., TrainingJob]:
    """Flow matching from scratch; keywords go to the loop, except those of the job."""

    def make(
        name: str = "sft", *, sft: Fields | None = None, job: JobFields | None = None, **loop: object
    ) -> TrainingJob:
        data = tmp_path / "clips.safetensors"
        if not data.exists():
            save_clip_set(data, make_clips())
        optimiser = OptimiserSettings(lr=1e-3, warmup_steps=2)
        values: Fields = {
            "loop": loop_settings(**loop),
            "optimiser": optimiser,
            "timesteps": TimestepSettings(shift=2.0),
        }
        settings = SftSettings.model_validate(values | (sft or {}))
        return TrainingJob(settings, NETWORK, CLIP, data, tmp_path / name, seed=3, **(job or JobFields()))

    return make


@pytest.fixture
def dpo_job(
    tmp_path: Path, make_pairs: Callable[..., PairSet], make_network: Callable[..., JavisDiT]
) -> Callable[..., TrainingJob]:
    """AV-DPO of a rank-2 adapter; keywords go to the loop, except those of the job."""

    def make(
        name: str = "dpo", *, dpo: Fields | None = None, job: JobFields | None = None, **loop: object
    ) -> TrainingJob:
        data, weights = tmp_path / "pairs.safetensors", tmp_path / "network.safetensors"
        if not data.exists():
            save_pair_set(data, make_pairs(num_delays=2))
            save_network(weights, make_network())
        values: Fields = {
            "loop": loop_settings(**loop),
            "optimiser": OptimiserSettings(lr=1e-3, warmup_steps=2),
            "timesteps": TimestepSettings(shift=2.0),
            "adapter": AdapterSettings(rank=2, alpha=4.0),
            "desync_share": 0.5,
        }
        settings = DpoSettings.model_validate(values | (dpo or {}))
        fields: JobFields = {"weights": weights}
        fields.update(job or {})
        return TrainingJob(settings, NETWORK, CLIP, data, tmp_path / name, seed=3, **fields)

    return make
