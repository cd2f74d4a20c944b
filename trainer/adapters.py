"""LoRA adapters: policy and reference share one network, so that no second copy is needed.

``merged`` (default): the SFT adapter is folded into the weights in float32, the policy adapter starts at zero, and the reference is
the network with the adapter off. ``two_adapters`` (the released layout): the weights are those under the SFT adapter, which the
trainable "policy" continues, and a frozen copy of it is the "reference". In both, policy and reference are bitwise equal before the
first step. :func:`add_moving_reference` replaces the frozen reference by a moving average of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from avpref.config.training_settings import AdapterSettings
from avpref.errors import ConfigError
from avpref.identity import derive_seed
from avpref.models.bases.velocity_network import AdapterTargets, VelocityNetwork
from avpref.trainer.adapter_files import fold_adapter, read_adapter_config
from avpref.trainer.fused_lora import fuse_updates
from avpref.trainer.scaling.base_dtype import BaseDtype, with_base_dtype

POLICY = "policy"
REFERENCE = "reference"


class AdapterMisuse(AssertionError):
    """A backward pass while the policy's adapter was inactive or frozen: without this error it would silently train nothing."""


@dataclass(frozen=True)
class Policy:
    """A network with a trainable adapter. ``reference_adapter`` names the frozen adapter of the reference; None: adapter off."""

    model: PeftModel
    reference_adapter: str | None

    def __post_init__(self) -> None:
        self.model.register_forward_hook(self._check_before_backward)

    @cached_property
    def layers(self) -> tuple[LoraLayer, ...]:
        """The adapted linear layers."""
        return tuple(module for module in self.model.modules() if isinstance(module, LoraLayer))

    def named_layers(self) -> dict[str, LoraLayer]:
        """The adapted linear layers by their names in the network."""
        network = _tuner(self.model).model
        return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}

    @cached_property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All parameters by name, including frozen ones."""
        return dict(self.model.named_parameters())

    def trainable_names(self) -> frozenset[str]:
        """Names of the parameters that require a gradient now."""
        return frozenset(name for name, parameter in self.parameters.items() if parameter.requires_grad)

    def require_active(self) -> None:
        """Raises AdapterMisuse unless the policy's adapter is active and trainable in every adapted layer."""
        for layer in self.layers:
            if layer.disable_adapters or layer.active_adapters != [POLICY]:
                raise AdapterMisuse("the reference is active: leave `with reference(policy)` before the backward pass")
            if not all(factor.requires_grad for factor in factors(layer, POLICY)):
                raise AdapterMisuse("the policy's adapter is frozen: adapters were switched and not switched back")

    def _check_before_backward(self, model: nn.Module, inputs: object, output: tuple[Tensor | None, ...]) -> None:
        for tensor in output:
            if tensor is not None and tensor.requires_grad:
                tensor.register_hook(lambda gradient: self.require_active())


def factors(layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor]:
    """A [r, inputs] and B [outputs, r] of one adapted linear layer."""
    down, up = cast(nn.Linear, layer.lora_A[adapter]), cast(nn.Linear, layer.lora_B[adapter])
    return down.weight, up.weight


def _tuner(model: PeftModel) -> LoraModel:
    return cast(LoraModel, model.base_model)


@contextmanager
def reference(policy: Policy) -> Iterator[PeftModel]:
    """Switch to the reference: inside the block the model predicts as the frozen SFT network, without gradients.

    Raises AdapterMisuse if the policy is not active on entry or the set of trainable parameters differs on exit. A backward pass
    of the policy's predictions inside the block raises it too (see :class:`Policy`).
    """
    policy.require_active()
    before = policy.trainable_names()
    tuner = _tuner(policy.model)
    try:
        if policy.reference_adapter is None:
            tuner.disable_adapter_layers()
        else:
            tuner.set_adapter(policy.reference_adapter, inference_mode=True)
        with torch.no_grad():
            yield policy.model
    finally:
        if policy.reference_adapter is None:
            tuner.enable_adapter_layers()
        else:
            tuner.set_adapter(POLICY)
    policy.require_active()
    if policy.trainable_names() != before:
        raise AdapterMisuse("the set of trainable parameters changed while the reference was active")


def make_policy(
    network: VelocityNetwork,
    settings: AdapterSettings,
    seed: int,
    sft_adapter: Path | None = None,
    dtype: BaseDtype | torch.dtype = "float32",
) -> Policy:
    """Adapt ``network`` in place according to ``settings``; ``sft_adapter`` is the folder of the adapter that SFT trained, if any.

    ``dtype`` is the dtype of the frozen weights after folding; adapters stay float32.
    Raises ConfigError for dropout, for ``two_adapters`` without an SFT adapter and for a rank or alpha other than the SFT adapter's;
    InputError for an unreadable adapter. Invariant: policy and reference give bitwise equal predictions until the first step.
    """
    _refuse_dropout(settings)
    if settings.layout == "two_adapters":
        if sft_adapter is None:
            found = "adapter.layout two_adapters without an SFT adapter"
            raise ConfigError(found, "an adapter trained by SFT", "set adapter.layout: merged")
        return _two_adapters(with_base_dtype(network, dtype), settings, sft_adapter)
    if sft_adapter is not None:
        fold_adapter(network, sft_adapter)
    return Policy(add_adapter(with_base_dtype(network, dtype), settings, seed), None)


def add_moving_reference(policy: Policy) -> Policy:
    """A policy whose reference is a second adapter that starts as a copy of the policy's; the loop moves it after every step.

    Requires a policy whose reference is the adapter switched off (layout ``merged``).
    """
    assert policy.reference_adapter is None, "the policy has a reference adapter already"
    with _preserved_global_rng():
        policy.model.add_adapter(REFERENCE, policy.model.peft_config[POLICY])
    for layer in policy.layers:
        for mine, other in zip(factors(layer, REFERENCE), factors(layer, POLICY), strict=True):
            with torch.no_grad():
                mine.copy_(other)
            mine.requires_grad_(False)
    _tuner(policy.model).set_adapter(POLICY)
    return Policy(policy.model, REFERENCE)


def reference_parameters(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of the reference's adapter, by the ``names`` of the policy's parameters that they correspond to."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name.replace(f".{POLICY}.", f".{REFERENCE}.")] for name in names}


def _refuse_dropout(settings: AdapterSettings) -> None:
    if settings.dropout > 0:
        found = f"adapter.dropout {settings.dropout}"
        expected = "0: dropout makes policy and reference differ before the first step and depends on batches and ranks"
        raise ConfigError(found, expected, "set adapter.dropout: 0")


def _two_adapters(network: VelocityNetwork, settings: AdapterSettings, folder: Path) -> Policy:
    config = read_adapter_config(folder)
    if (config.rank, config.alpha) != (settings.rank, settings.alpha):
        found = f"adapter.rank {settings.rank}, alpha {settings.alpha}"
        fix = f"set adapter.rank: {config.rank} and adapter.alpha: {config.alpha}"
        raise ConfigError(found, f"those of the SFT adapter: {config.rank}, {config.alpha}", fix)
    with _preserved_global_rng():
        model = PeftModel.from_pretrained(network, str(folder), adapter_name=POLICY, is_trainable=True)
        model.load_adapter(str(folder), adapter_name=REFERENCE, is_trainable=False)
    _tuner(model).set_adapter(POLICY)
    _check_count(model, network.adapter_targets())
    fuse_updates(model)
    return Policy(model, REFERENCE)


def add_adapter(network: VelocityNetwork, settings: AdapterSettings, seed: int) -> PeftModel:
    """Add a new trainable adapter: B zero, A uniform in +-1/sqrt(inputs), seeded by (seed, layer name); all else is frozen.

    The global random state does not change. Raises ConfigError for dropout.
    """
    _refuse_dropout(settings)
    targets = network.adapter_targets()
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # PEFT only divides by it, so fractions work
        lora_dropout=0.0,
        bias="none",
        target_modules=list(targets.names),
    )
    with _preserved_global_rng():
        model = get_peft_model(network, config, adapter_name=POLICY)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            generator = torch.Generator().manual_seed(derive_seed("adapter", seed, name))
            down, up = factors(module, POLICY)
            bound = 1 / math.sqrt(down.shape[1])
            with torch.no_grad():
                down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
                up.zero_()
    _check_count(model, targets)
    fuse_updates(model)
    return model


def _check_count(model: PeftModel, targets: AdapterTargets) -> None:
    count = sum(isinstance(module, LoraLayer) for module in model.modules())
    assert count == targets.num_layers, f"{count} adapted linear layers, expected {targets.num_layers}: {targets.names}"


@contextmanager
def _preserved_global_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
