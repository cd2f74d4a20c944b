"""Speed: tokens and operations are counted, and their shares add up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avpref.config.base_settings import BaseSections
from avpref.config.network_settings import NetworkSettings
from avpref.models.bases.base_opening import open_base
from avpref.models.dit import JavisDiT
from avpref.models.dit_work import forward_flop
from avpref.models.flow import LatentShapes
from avpref.trainer.batches import PairSet
from avpref.trainer.monitoring.speed import ADAPTER_ALONE, PassCost, SpeedMeter, peak_tflops, shapes_of_row
from avpref.trainer.noise import NoiseConfig, PairSource, SampleIndex
from avpref.trainer.parallel import Context


def test_tokens_and_operations_of_a_batch(
    make_pairs: Callable[..., PairSet], network_settings: NetworkSettings
) -> None:
    base = open_base(BaseSections(network=network_settings))
    batch = PairSource(make_pairs(), NoiseConfig(1, 2.0)).batch([SampleIndex(0, 0), SampleIndex(1, 0)])
    shapes = shapes_of_row(batch)
    assert base.latent_work(shapes).num_tokens == 3 * 2 * 2 + 3 * 2
    assert base.latent_work(LatentShapes(None, shapes.audio)).num_tokens == 3 * 2
    meter = SpeedMeter(base.latent_work, ADAPTER_ALONE)
    with meter.waiting():
        pass
    meter.add(batch)
    values = meter.values(2.0, Context())
    assert values["tokens_per_s"] == pytest.approx(4 * 18 / 2.0)
    assert values["tflops"] == pytest.approx(4 * 2 * forward_flop(18, network_settings) / 2.0 / 1e12)
    assert 0 <= values["data_wait_share"] < 0.01
    assert "mfu" not in values and "memory_gib" not in values
    assert meter.values(1.0, Context())["tokens_per_s"] == 0, "counted once"


def test_operations_of_the_blocks_are_those_that_torch_counts(
    make_network: Callable[..., JavisDiT], make_pairs: Callable[..., PairSet], network_settings: NetworkSettings
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
    ours = forward_flop(tokens, network_settings)
    assert counted in (pytest.approx(ours), pytest.approx(ours - attention))


def test_cost_and_peak() -> None:
    assert PassCost(2.0, 1.0).total == 3.0
    assert peak_tflops(torch.device("cpu")) is None
    assert SpeedMeter(None).values(1.0, Context()) == {}
