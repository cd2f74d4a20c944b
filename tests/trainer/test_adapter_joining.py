"""Adapters of rounds: a policy continues from a saved adapter, and two adapters joined act like both, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings
from avpref.errors import ConfigError, InputError
from avpref.models.dit import JavisDiT
from avpref.trainer.adapter_files import fold_adapter, read_adapter_config, save_adapter
from avpref.trainer.adapter_joining import join_adapters, start_from, update_norm
from avpref.trainer.adapters import POLICY, factors, make_policy
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch

MakeNetwork = Callable[..., JavisDiT]


def saved(network: JavisDiT, folder: Path, seed: int, rank: int = 2, alpha: float = 4) -> Path:
    """An adapter with random values in both factors."""
    policy = make_policy(network, AdapterSettings(rank=rank, alpha=alpha), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in policy.layers:
            up = factors(layer, POLICY)[1]
            up.copy_(0.1 * torch.randn(up.shape, generator=generator))
    save_adapter(policy.model, POLICY, folder)
    return folder


def folded(network: JavisDiT, *adapters: Path) -> dict[str, torch.Tensor]:
    for adapter in adapters:
        fold_adapter(network, adapter)
    return network.state_dict()


@pytest.mark.parametrize(("rank", "alpha"), [(2, 4.0), (3, 1.5)])
def test_a_joined_adapter_is_the_sum_of_two(make_network: MakeNetwork, tmp_path: Path, rank: int, alpha: float) -> None:
    first, second = saved(make_network(), tmp_path / "1", 1), saved(make_network(), tmp_path / "2", 2, rank, alpha)
    join_adapters(first, second, tmp_path / "joined")
    config = read_adapter_config(tmp_path / "joined")
    assert config.rank == 2 + rank and config.scale == pytest.approx(alpha / rank)
    one, both = folded(make_network(), tmp_path / "joined"), folded(make_network(), first, second)
    for name, value in both.items():
        torch.testing.assert_close(one[name], value, rtol=0, atol=1e-6)


def test_the_norm_of_an_update_is_that_of_the_change_of_the_weights(make_network: MakeNetwork, tmp_path: Path) -> None:
    before, after = make_network().state_dict(), folded(make_network(), saved(make_network(), tmp_path / "a", 3))
    squares = sum(float(((after[name] - before[name]).double() ** 2).sum()) for name in before)
    assert update_norm(tmp_path / "a") == pytest.approx(squares**0.5, rel=1e-5)


def test_a_policy_starts_from_an_adapter_of_its_rank(make_network: MakeNetwork, tmp_path: Path) -> None:
    folder = saved(make_network(), tmp_path / "a", 3)
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), 9)
    start_from(policy, folder)
    save_adapter(policy.model, POLICY, tmp_path / "again")
    name = "adapter_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(ConfigError, match="rank 2, alpha 4"):
        start_from(make_policy(make_network(), AdapterSettings(rank=4, alpha=4), 9), folder)


@pytest.mark.parametrize("changes", [{"num_layers": 3}, {"num_layers": 1}, {"ffn_dim": 48}, {"dual_ffn": False}])
def test_an_adapter_of_another_base_is_refused_and_changes_nothing(
    make_network: MakeNetwork, network_settings: NetworkSettings, tmp_path: Path, changes: dict[str, object]
) -> None:
    other = make_network(settings=network_settings.model_copy(update=changes))
    folder = saved(other, tmp_path / "a", 3)
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), 9)
    before = {name: value.clone() for name, value in policy.parameters.items()}
    with pytest.raises(InputError, match=r"layers that the network lacks.*blocks\."):
        start_from(policy, folder)
    assert all(torch.equal(value, before[name]) for name, value in policy.parameters.items())


@pytest.mark.parametrize("reference", ["base", "start"])
def test_training_from_an_adapter_compares_with_the_configured_reference(
    dpo_job: Callable[..., TrainingJob], make_network: MakeNetwork, tmp_path: Path, reference: str
) -> None:
    start = saved(make_network(), tmp_path / "start", 5)
    job = dpo_job(reference, job={"start_adapter": start, "reference": reference}, steps=1)
    launch(job)
    row = (job.output / "metrics.jsonl").read_text()
    assert ('"margin_audio": 0.0' in row) == (reference == "start")
    ranks = {"base": 2, "start": 4}
    assert read_adapter_config(job.output / "adapter").rank == ranks[reference]
    assert job.fingerprint() != dpo_job("other").fingerprint()
