"""Two passes give the gradient of one pass and keep half of its activations; so does checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from avpref.config.training_settings import AdapterSettings, CheckpointingMode, LoopSettings, PreferenceLossSettings
from avpref.models.dit import JavisDiT
from avpref.trainer.adapters import Policy, factors, make_policy
from avpref.trainer.batches import PairSet
from avpref.trainer.noise import FlowBatch, NoiseConfig, PairSource, SampleIndex
from avpref.trainer.objectives import LiveReference, PreferenceObjective

MakeNetwork = Callable[..., JavisDiT]
MakePairs = Callable[..., PairSet]
NOISE = NoiseConfig(seed=5, shift=2.0, caption_dropout=0.2, desync_share=0.4)
LOSSES: list[dict[str, Any]] = [
    {},
    {"unpaired": True, "noise_weights": (0.5, 2.0)},
    {"form": "joint", "variant": "ipo"},
    {"weight_audio": 3.0, "label_smoothing": 0.1},
]


def moved_policy(make_network: MakeNetwork, mode: CheckpointingMode = "none") -> Policy:
    """A policy that has left its start, so that both factors of the adapter get gradients."""
    network = make_network()
    network.checkpointing = lambda num_tokens: mode
    policy = make_policy(network, AdapterSettings(rank=2, alpha=4), seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in policy.layers:
            _, up = factors(layer, "policy")
            up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    return policy


def gradients(
    policy: Policy, batch: FlowBatch, loss: dict[str, Any], two_pass: bool, by_side: bool = False
) -> tuple[dict[str, Tensor], float]:
    settings = PreferenceLossSettings(beta_video=5.0, beta_audio=3.0, **loss)
    live = LiveReference(policy, settings.reduction, two_pass or by_side)
    result = PreferenceObjective(policy, settings, live, two_pass, by_side).compute(batch)
    result.backward(3.0)
    named = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return named, result.loss.item()


def batch_of(pairs: PairSet, independent: bool = False) -> FlowBatch:
    source = PairSource(pairs, replace(NOISE, independent=independent))
    return source.batch([SampleIndex(row, 0) for row in range(3)])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("independent", [False, True])
def test_two_passes_equal_one(
    make_network: MakeNetwork, make_pairs: MakePairs, loss: dict[str, Any], independent: bool
) -> None:
    policy, batch = moved_policy(make_network), batch_of(make_pairs(num_delays=2), independent)
    one, one_loss = gradients(policy, batch, loss, False)
    assert len(one) == 48
    for two_pass in (True, False):
        other, other_loss = gradients(policy, batch, loss, two_pass, by_side=True)
        assert one.keys() == other.keys()
        assert other_loss == pytest.approx(one_loss, rel=1e-6)
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_the_margin_is_exactly_zero_before_the_first_step(make_network: MakeNetwork, make_pairs: MakePairs) -> None:
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), seed=1)
    objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean", True), True)
    metrics = objective.compute(batch_of(make_pairs(num_delays=2))).metrics
    for name in ("margin_video", "margin_audio", "drift_video", "drift_audio", "chosen_shift_video"):
        assert not metrics[name].any(), name


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("two_pass", [False, True])
def test_checkpointing_changes_no_gradient(
    make_network: MakeNetwork, make_pairs: MakePairs, mode: CheckpointingMode, two_pass: bool
) -> None:
    batch = batch_of(make_pairs(num_delays=2))
    plain, _ = gradients(moved_policy(make_network), batch, {}, two_pass)
    checkpointed, _ = gradients(moved_policy(make_network, mode), batch, {}, two_pass)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-6, atol=1e-7, msg=name)


def kept_bytes(policy: Policy, batch: FlowBatch) -> int:
    """Bytes of distinct tensors that the graph of one forward pass keeps, without those of parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.model(batch.noisy, batch.times, batch.text, batch.text_mask)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_a_side_keeps_half_of_a_pair_and_checkpointing_less(make_network: MakeNetwork, make_pairs: MakePairs) -> None:
    batch = batch_of(make_pairs(num_delays=2))
    whole = kept_bytes(moved_policy(make_network), batch)
    side = kept_bytes(moved_policy(make_network), batch.rows(slice(0, 3)))
    assert side <= 0.55 * whole
    full = kept_bytes(moved_policy(make_network, "full"), batch)
    assert full < 0.5 * whole


def test_the_mode_follows_the_number_of_tokens() -> None:
    loop = LoopSettings(
        steps=1,
        batch_size=1,
        activation_checkpointing="selective",
        checkpointing_by_tokens=((900, "full"), (20, "none")),
    )
    assert [loop.checkpointing(tokens) for tokens in (19, 20, 899, 900)] == ["selective", "none", "none", "full"]
    assert LoopSettings(steps=1, batch_size=1, activation_checkpointing=True).checkpointing(5) == "full"
