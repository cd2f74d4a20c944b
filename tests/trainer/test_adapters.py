"""Adapters: reference equals policy at the start, never trains, and the silent loss of gradients is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraModel, PeftModel

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings
from avpref.errors import ConfigError, InputError
from avpref.models.dit import JavisDiT
from avpref.models.flow import Latents
from avpref.trainer.adapter_files import CONFIG_FILE, WEIGHTS_FILE, fold_adapter, load_adapter, save_adapter
from avpref.trainer.adapters import POLICY, AdapterMisuse, Policy, add_adapter, make_policy, reference

MakeNetwork = Callable[..., JavisDiT]
MERGED = AdapterSettings(rank=2, alpha=3.0)
TWO = AdapterSettings(rank=2, alpha=3.0, layout="two_adapters")


def inputs(batch: int = 2) -> tuple[Latents, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(9)
    video, audio = torch.randn(batch, 2, 3, 4, 4, generator=draw), torch.randn(batch, 1, 6, 4, generator=draw)
    return (
        Latents(video, audio),
        torch.rand(batch, generator=draw),
        torch.randn(batch, 3, 8, generator=draw),
        torch.ones(batch, 3),
    )


def loss_of(model: torch.nn.Module) -> torch.Tensor:
    video, audio = model(*inputs())
    return video.square().mean() + audio.square().mean()


def trained_adapter(network: JavisDiT, folder: Path, scale: float = 0.05) -> PeftModel:
    """An adapter with values other than zero, saved into ``folder``."""
    model = add_adapter(network, MERGED, seed=7)
    draw = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
    save_adapter(model, POLICY, folder)
    return model


@pytest.fixture(params=["merged", "merged_after_sft", "two_adapters"])
def policy(request: pytest.FixtureRequest, make_network: MakeNetwork, tmp_path: Path) -> Policy:
    if request.param == "merged":
        return make_policy(make_network(), MERGED, seed=1)
    trained_adapter(make_network(), tmp_path / "sft")
    settings = TWO if request.param == "two_adapters" else MERGED
    return make_policy(make_network(), settings, seed=1, sft_adapter=tmp_path / "sft")


def test_policy_equals_reference_at_the_start_and_equals_the_sft_model(
    policy: Policy, make_network: MakeNetwork, tmp_path: Path
) -> None:
    with reference(policy) as frozen:
        before = frozen(*inputs())
    after = policy.model(*inputs())
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first, second)
        assert not first.requires_grad and second.requires_grad
    expected: torch.nn.Module = make_network()
    if (tmp_path / "sft").exists():
        expected = load_adapter(make_network(), tmp_path / "sft")
    for first, second in zip(before, expected(*inputs()), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_only_the_policy_trains_and_every_factor_gets_a_gradient(policy: Policy) -> None:
    """Step 1 reaches every B (A where B is not zero); step 2 reaches every A and B, audio_ffn included."""
    optimiser = torch.optim.AdamW([p for p in policy.model.parameters() if p.requires_grad], lr=1e-2)
    with reference(policy) as frozen:
        start = frozen(*inputs())
    for step in range(10):
        loss_of(policy.model).backward()
        trained = {name: p.grad for name, p in policy.model.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 12 * 2
        assert all(".lora_" in name and f".{POLICY}." in name for name in trained)
        for name, gradient in trained.items():
            assert gradient is not None, name
            if step > 0 or "lora_B" in name:
                assert gradient.abs().max() > 0, name
        assert any("audio_ffn.2.lora_A" in name for name in trained)
        optimiser.step()
        optimiser.zero_grad()
    with reference(policy) as frozen:
        end = frozen(*inputs())
    moved = policy.model(*inputs())
    for first, second, now in zip(start, end, moved, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, now)


def test_a_backward_pass_inside_the_reference_is_an_error(policy: Policy) -> None:
    loss = loss_of(policy.model)
    with pytest.raises(AdapterMisuse, match="reference is active"), reference(policy):
        loss.backward()


def test_with_checkpointing_the_trap_is_an_error_too(make_network: MakeNetwork) -> None:
    """Recomputation inside the backward pass would run the reference and train nothing, without a word."""
    network = make_network()
    network.activation_checkpointing = True
    policy = make_policy(network, MERGED, seed=1)
    loss = loss_of(policy.model)
    with pytest.raises(AdapterMisuse), reference(policy):
        loss.backward()
    policy.require_active()
    loss_of(policy.model).backward()


def test_adapters_switched_off_by_other_means_are_an_error(policy: Policy) -> None:
    loss, lora = loss_of(policy.model), policy.model.base_model
    assert isinstance(lora, LoraModel)
    lora.disable_adapter_layers()
    with pytest.raises(AdapterMisuse):
        loss.backward()
    lora.enable_adapter_layers()
    for name, parameter in policy.model.named_parameters():
        if name.endswith(f"lora_A.{POLICY}.weight"):
            parameter.requires_grad_(False)
    with pytest.raises(AdapterMisuse, match="frozen"), reference(policy):
        pass


def test_a_changed_trainable_set_is_an_error_on_exit(policy: Policy) -> None:
    with pytest.raises(AdapterMisuse, match="set of trainable parameters"), reference(policy) as frozen:
        next(parameter for name, parameter in frozen.named_parameters() if "patch_embedding" in name).requires_grad_()


def test_the_policy_is_back_after_an_exception(policy: Policy) -> None:
    before = policy.trainable_names()
    with pytest.raises(KeyError), reference(policy):
        raise KeyError
    policy.require_active()
    assert policy.trainable_names() == before


def test_fresh_adapters_leave_the_global_generator_alone_and_depend_on_their_seed(make_network: MakeNetwork) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, same, second = (dict(add_adapter(make_network(), MERGED, seed).named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    adapted = [name for name in first if "lora_A" in name]
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], second[name]) for name in adapted)


def test_number_of_adapted_linears(make_network: MakeNetwork, network_settings: NetworkSettings) -> None:
    shared = make_network(settings=network_settings.model_copy(update={"dual_ffn": False}))
    assert len(make_network().adapter_targets().names) == 12
    assert len(shared.adapter_targets().names) == 10
    assert len(make_policy(shared, MERGED, seed=1).layers) == 20


def test_files_load_with_peft_and_fold(make_network: MakeNetwork, tmp_path: Path) -> None:
    model = trained_adapter(make_network(), tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    loaded = PeftModel.from_pretrained(make_network(), str(tmp_path / "adapter"))
    folded = make_network()
    fold_adapter(folded, tmp_path / "adapter")
    for want, peft, fold in zip(model(*inputs()), loaded(*inputs()), folded(*inputs()), strict=True):
        torch.testing.assert_close(peft, want, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(want, fold, rtol=1e-4, atol=1e-5)
    for parameter in load_adapter(make_network(), tmp_path / "adapter").parameters():
        assert not parameter.requires_grad


def test_equal_adapters_give_equal_files(make_network: MakeNetwork, tmp_path: Path) -> None:
    for name in "ab":
        trained_adapter(make_network(), tmp_path / name)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_folding_refuses_what_does_not_fit_and_changes_nothing(
    make_network: MakeNetwork, network_settings: NetworkSettings, tmp_path: Path
) -> None:
    trained_adapter(make_network(), tmp_path / "adapter")
    shared = make_network(settings=network_settings.model_copy(update={"dual_ffn": False}))
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    with pytest.raises(InputError, match="audio_ffn"):
        fold_adapter(shared, tmp_path / "adapter")
    assert all(torch.equal(before[name], value) for name, value in shared.state_dict().items())
    with pytest.raises(InputError):
        fold_adapter(shared, tmp_path)


def test_settings_that_cannot_be_used(make_network: MakeNetwork, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dropout 0\.05"):
        make_policy(make_network(), AdapterSettings(dropout=0.05), seed=1)
    with pytest.raises(ConfigError, match="merged"):
        make_policy(make_network(), TWO, seed=1)
    trained_adapter(make_network(), tmp_path / "sft")
    with pytest.raises(ConfigError, match="rank: 2"):
        make_policy(make_network(), TWO.model_copy(update={"rank": 4}), 1, tmp_path / "sft")


def test_bfloat16_base_keeps_float32_adapters(make_network: MakeNetwork) -> None:
    policy = make_policy(make_network(), MERGED, seed=1, dtype=torch.bfloat16)
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in policy.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    with reference(policy) as frozen:
        before = frozen(*inputs())
    for first, second in zip(before, policy.model(*inputs()), strict=True):
        assert torch.equal(first, second)
    loss_of(policy.model).backward()
