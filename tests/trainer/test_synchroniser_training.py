"""SFT and AV-DPO with LoRA on a network with each synchroniser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from present import present
from safetensors.torch import load_file

from avpref.config.network_settings import NetworkSettings, PriorSettings
from avpref.models.checkpoints.lora_files import read_lora
from avpref.models.checkpoints.network_loading import load_network
from avpref.models.dit import ModelType, NetworkConfig
from avpref.models.synchronisers.synchroniser import Synchroniser, is_added
from avpref.trainer.batches import ClipSet, PairSet, save_clip_set, save_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch

MakeJob = Callable[..., TrainingJob]
PRIOR = PriorSettings(weights="prior.safetensors", spatial_tokens=2, temporal_tokens=1, channels=6)
Data = TypeVar("Data", ClipSet, PairSet)
KINDS = [kind for kind in Synchroniser if kind is not Synchroniser.TA_ROPE]


def with_priors(data: Data, num: int) -> Data:
    """The set with ``num`` prior tokens before the states of every text."""
    draw = torch.Generator().manual_seed(8)

    def before(states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        priors = torch.randn(len(states), num, states.shape[2], generator=draw)
        return torch.cat([priors, states], dim=1), torch.cat([mask.new_ones(len(mask), num), mask], dim=1)

    text, text_mask = before(data.text, data.text_mask)
    negative, negative_mask = before(present(data.negative_text), present(data.negative_mask))
    return replace(data, text=text, text_mask=text_mask, negative_text=negative, negative_mask=negative_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_sft_then_preferences(
    sft_job: MakeJob,
    dpo_job: MakeJob,
    make_clips: Callable[..., ClipSet],
    make_pairs: Callable[..., PairSet],
    network_settings: NetworkSettings,
    tmp_path: Path,
    kind: Synchroniser,
) -> None:
    prior = PRIOR if kind.has_priors else None
    network = network_settings.model_copy(update={"synchroniser": str(kind), "prior": prior})
    config = NetworkConfig.from_settings(network)
    num = config.num_states - config.text_len
    clips, pairs = tmp_path / "own-clips.safetensors", tmp_path / "own-pairs.safetensors"
    save_clip_set(clips, with_priors(make_clips(), num))
    save_pair_set(pairs, with_priors(make_pairs(num_delays=2), num))
    sft = replace(sft_job(steps=4), network=network, data=clips)
    launch(sft)
    weights = sft.output / "network.safetensors"
    trained = load_network(weights, config, ModelType.T2AV)
    outputs = [value for name, value in trained.named_parameters() if is_added(name) and name.endswith(".o.weight")]
    assert all(value.any() for value in outputs)
    assert len(outputs) == (2 * config.num_layers if kind.adds_layers else 0)
    dpo = replace(dpo_job(steps=4), network=network, data=pairs, weights=weights)
    launch(dpo)
    lora = read_lora(dpo.output / "adapter")
    lora.require_fit(trained)
    adapted = {name for name in lora.factors if is_added(name)}
    assert len(adapted) == (8 * config.num_layers if kind.adds_layers else 0)
    assert all(pair.up.any() for pair in lora.factors.values())
    assert load_file(weights).keys() == trained.state_dict().keys()
