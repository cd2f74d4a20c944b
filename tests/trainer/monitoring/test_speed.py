"""Speed: tokens and operations are counted, and their shares add up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avpref.config.network_settings import NetworkSettings
from avpref.models.dit import JavisDiT, NetworkConfig
from avpref.models.network_flop import forward_flop
from avpref.trainer.batches import PairSet
from avpref.trainer.monitoring.speed import ADAPTER_ALONE, PassCost, SpeedMeter, grid_of, peak_tflops
from avpref.trainer.noise import NoiseConfig, PairSource, SampleIndex
from avpref.trainer.parallel import Context


def test_tokens_and_operations_of_a_batch(
    make_pairs: Callable[..., PairSet], network_settings: NetworkSettings
) -> None:
    config = NetworkConfig.from_settings(network_settings)
    batch = PairSource(make_pairs(), NoiseConfig(1, 2.0)).batch([SampleIndex(0, 0), SampleIndex(1, 0)])
    grid = grid_of(batch, config)
    assert (grid.num_video, grid.num_audio) == (3 * 2 * 2, 3 * 2)
    meter = SpeedMeter(config, ADAPTER_ALONE)
    with meter.waiting():
        pass
    meter.add(batch)
    values = meter.values(2.0, Context())
    assert values["tokens_per_s"] == pytest.approx(4 * 18 / 2.0)
    assert values["tflops"] == pytest.approx(4 * 2 * forward_flop(18, config) / 2.0 / 1e12)
    assert 0 <= values["data_wait_share"] < 0.01
    assert "mfu" not in values and "memory_gib" not in values
    assert meter.values(1.0, Context())["tokens_per_s"] == 0, "counted once"


def test_operations_of_the_blocks_are_those_that_torch_counts(
    make_network: Callable[..., JavisDiT], make_pairs: Callable[..., PairSet]
) -> None:
    """torch counts all products; ours leave out embeddings, time layers and heads, and CPU attention is counted by hand."""
    network = make_network()
    batch = PairSource(make_pairs(), NoiseConfig(1, 2.0)).batch([SampleIndex(0, 0)])
    with FlopCounterMode(display=False, depth=3) as counter, torch.no_grad():
        network(batch.noisy, batch.t, batch.text, batch.text_mask)
    tokens, text, dim = 18, 3, 24
    attention = 2 * 2 * 2 * tokens * dim * (tokens + text)  # two products of two layers, of both attentions
    counts = counter.get_flop_counts()
    counted = sum(sum(counts[f"JavisDiT.blocks.{block}"].values()) for block in range(2)) / 2  # of two rows
    ours = forward_flop(tokens, network.config)
    assert counted in (pytest.approx(ours), pytest.approx(ours - attention))


def test_cost_and_peak() -> None:
    assert PassCost(2.0, 1.0).total == 3.0
    assert peak_tflops(torch.device("cpu")) is None
    assert SpeedMeter(None).values(1.0, Context()) == {}
