"""Learning rates of the schedules, and optimisers whose package is absent."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from avpref.config.training_settings import OptimiserSettings
from avpref.errors import ConfigError
from avpref.models.dit import JavisDiT
from avpref.trainer.job import TrainingJob
from avpref.trainer.scaling.base_dtype import with_base_dtype
from avpref.trainer.scaling.optimisers import learning_rate, make_optimiser, set_learning_rate


def test_the_constant_schedule_warms_up_and_stays() -> None:
    settings = OptimiserSettings(lr=2.0, warmup_steps=3)
    assert [learning_rate(settings, step, 6) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_a_cosine_falls_from_the_warm_up_to_its_share_at_the_last_step() -> None:
    settings = OptimiserSettings(lr=2.0, warmup_steps=2, schedule="cosine", min_lr_share=0.25)
    rates = [learning_rate(settings, step, 11) for step in range(11)]
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[6] == pytest.approx(2.0 * (0.25 + 0.75 * 0.5)), "half way"
    assert rates[10] == pytest.approx(0.5)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert learning_rate(OptimiserSettings(lr=1.0, warmup_steps=9, schedule="cosine"), 3, 4) == pytest.approx(0.4)


def test_the_length_is_part_of_a_falling_schedules_identity(dpo_job: Callable[..., TrainingJob]) -> None:
    constant = [dpo_job(steps=steps).fingerprint() for steps in (6, 9)]
    assert constant[0] == constant[1]
    cosine = [dpo_job(steps=steps, dpo={"optimiser": {"schedule": "cosine"}}).fingerprint() for steps in (6, 9)]
    assert {key for key in cosine[0] if cosine[0][key] != cosine[1][key]} == {"steps"}


def test_rates_are_set_in_numbers_and_in_tensors() -> None:
    optimiser = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=torch.tensor(1.0))
    rate = optimiser.param_groups[0]["lr"]
    set_learning_rate(optimiser, 0.5)
    assert optimiser.param_groups[0]["lr"] is rate and rate.item() == 0.5


def test_an_absent_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, make_network: Callable[..., JavisDiT]
) -> None:
    for name in ("torchao", "torchao.optim", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"state_bits 8") as caught:
        make_optimiser([nn.Parameter(torch.ones(1))], OptimiserSettings(state_bits=8))
    assert "avpref[low-memory]" in caught.value.fix
    with pytest.raises(ConfigError, match=r"dpo\.base_dtype int8"):
        with_base_dtype(make_network(), "int8")
