"""8-bit moments and 8-bit frozen weights, where the extra is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from avpref.config.training_settings import AdapterSettings, PreferenceLossSettings
from avpref.models.dit import JavisDiT
from avpref.trainer.adapter_files import read_adapter_weights
from avpref.trainer.adapters import factors, make_policy
from avpref.trainer.batches import PairSet
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.noise import NoiseConfig, PairSource, SampleIndex
from avpref.trainer.objectives import LiveReference, PreferenceObjective
from avpref.trainer.scaling.base_dtype import BaseDtype

pytest.importorskip("torchao")
pytestmark = pytest.mark.filterwarnings("ignore")
MakeJob = Callable[..., TrainingJob]


@pytest.mark.parametrize("dtype", ["int8", "float8"])
def test_an_adapter_trains_over_weights_of_eight_bits(
    make_network: Callable[..., JavisDiT], make_pairs: Callable[..., PairSet], dtype: BaseDtype
) -> None:
    dtypes: tuple[BaseDtype, ...] = (dtype, "bfloat16")
    policies = [make_policy(make_network(), AdapterSettings(rank=2, alpha=4), 1, dtype=name) for name in dtypes]
    batch = PairSource(make_pairs(), NoiseConfig(1, 2.0)).batch([SampleIndex(0, 0), SampleIndex(1, 0)])
    gradients = []
    for policy in policies:
        objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
        result = objective.compute(batch)
        assert not result.metrics["margin_video"].any() and not result.metrics["margin_audio"].any()
        result.backward(1.0)
        gradients.append(
            torch.cat([g.flatten() for layer in policy.layers if (g := factors(layer, "policy")[1].grad) is not None])
        )
    assert gradients[0].dtype == torch.float32 and len(gradients[0]) == len(gradients[1])
    assert torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.95


@pytest.mark.slow
def test_moments_of_eight_bits_train_and_resume_bitwise(dpo_job: MakeJob) -> None:
    """Rank 256, because torchao keeps the moments of tensors with fewer than 4096 values in 32 bits."""
    adapter = AdapterSettings(rank=256, alpha=256.0)
    changes = {"optimiser": {"lr": 1e-3, "warmup_steps": 2, "state_bits": 8, "eps": 1e-8}, "adapter": adapter}
    whole = dpo_job("whole", dpo=changes)
    launch(whole)
    launch(dpo_job("parts", dpo=changes, steps=3))
    parts = dpo_job("parts", dpo=changes)
    launch(parts)
    mine, theirs = (read_adapter_weights(job.output / "adapter") for job in (whole, parts))
    assert all(torch.equal(*pair) for name in mine for pair in zip(mine[name], theirs[name], strict=True))
    exact = dpo_job("exact", dpo=changes | {"optimiser": {"lr": 1e-3, "warmup_steps": 2, "eps": 1e-8}})
    launch(exact)
    other = read_adapter_weights(exact.output / "adapter")
    ups = [torch.cat([factor[1].flatten() for factor in weights.values()]) for weights in (mine, other)]
    assert torch.nn.functional.cosine_similarity(ups[0], ups[1], dim=0) > 0.9
    assert replace(whole, output=exact.output).fingerprint() != exact.fingerprint()
