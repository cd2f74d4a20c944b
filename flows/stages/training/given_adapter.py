"""The SFT adapter beside given weights (``sft.kind: weights``), which AV-DPO continues with ``dpo.adapter.layout: two_adapters``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from avpref.config.schema import Settings
from avpref.config.training.adapter_rules import MERGED
from avpref.config.training_settings import AdapterSettings, SftWeights
from avpref.errors import ConfigError, InputError
from avpref.flows.run import WEIGHTS_UNDER_FILE
from avpref.flows.workers.generator import base_of
from avpref.models.bases.base_model import Base, GivenWeights
from avpref.models.checkpoints.exporting import save_peft_adapter
from avpref.models.checkpoints.lora_files import Lora
from avpref.models.checkpoints.shipped_networks import locate_network
from avpref.storage.local_files import storage_errors
from avpref.trainer.adapter_files import CONFIG_FILE
from avpref.trainer.run_job import ADAPTER_FOLDER, NETWORK_FILE

OTHER_LORA = "name in sft.lora the adapter that was trained on sft.network"


def given_weights(sft: SftWeights) -> GivenWeights:
    """Network, adapter and dtype that the section names."""
    return GivenWeights(sft.network, Path(sft.lora) if sft.lora else None, getattr(torch, sft.dtype))


def require_given_weights(settings: Settings) -> None:
    """Check what can be known of given weights before the first stage; files that are absent are left to stage ``sft``.

    Raises ConfigError for weights that hold their adapter already, and, where AV-DPO continues the adapter, for weights without one
    and for another rank or alpha; InputError for an adapter that is unreadable or of another base.
    """
    if not isinstance(settings.sft, SftWeights) or not settings.sft.network:
        return
    refuse_folded(settings.sft)
    lora, network = Path(settings.sft.lora), locate_network(settings.sft.network)
    if settings.continues_given_adapter and (lora.exists() if settings.sft.lora else network.exists()):
        read_given_adapter(settings)


def refuse_folded(sft: SftWeights) -> None:
    """Raises ConfigError for a network that SFT of this product wrote, together with the adapter that it holds already."""
    network = Path(sft.network)
    folder = network.parent if network.name == NETWORK_FILE else network
    if (
        sft.lora
        and (folder / NETWORK_FILE).exists()
        and Path(sft.lora).resolve() == (folder / ADAPTER_FOLDER).resolve()
    ):
        found = f"sft.lora {sft.lora} is folded into sft.network {sft.network} already: SFT wrote both"
        fix = f"set sft.network to the network that this SFT started from, or: --set sft.lora= {MERGED}"
        raise ConfigError(found, "the weights under the adapter", fix)


def read_given_adapter(settings: Settings) -> Lora:
    """The SFT adapter of given weights, in the dtype of its file, under the names of the network's modules.

    Raises as :func:`require_given_weights`, and InputError for an absent file.
    """
    assert isinstance(settings.sft, SftWeights), "SFT trains the adapter"
    base, weights = base_of(settings), given_weights(settings.sft)
    path = base.given_adapter(weights)
    if path is None:
        found = f"sft.network {weights.network} has no LoRA adapter beside it, and sft.lora is empty"
        expected = "with dpo.adapter.layout two_adapters: the adapter as a file, and weights that it is not merged into"
        raise ConfigError(found, expected, f"--set sft.lora=FOLDER, or for merged weights {MERGED}")
    if not path.exists():
        raise InputError(f"sft.lora {path} does not exist", "a folder in PEFT's format or a file", "correct sft.lora")
    lora = base.read_adapter(path)
    _require_rank(lora, settings.dpo.adapter)
    network = base.outline()
    fix = f"{OTHER_LORA}; an adapter of other layers than AV-DPO trains can only be folded in: {MERGED}"
    replace(lora, targets=network.adapter_targets().names).require_fit(network, fix)
    return lora


def _require_rank(lora: Lora, settings: AdapterSettings) -> None:
    """Raises ConfigError unless all layers of ``lora`` have the configured rank and alpha."""
    kinds = sorted({(pair.rank, pair.alpha) for pair in lora.factors.values()})
    if kinds == [(settings.rank, settings.alpha)]:
        return
    found = f"the SFT adapter {lora.source} has " + ", ".join(f"rank {rank}, alpha {alpha:g}" for rank, alpha in kinds)
    if len(kinds) > 1:
        raise ConfigError(found, "with dpo.adapter.layout two_adapters: one rank and alpha for all layers", MERGED)
    ((rank, alpha),) = kinds
    expected = f"rank {settings.rank}, alpha {settings.alpha:g}, as in dpo.adapter, which continues it"
    raise ConfigError(found, expected, f"--set dpo.adapter.rank={rank} --set dpo.adapter.alpha={alpha:g}")


def write_apart(settings: Settings, sft: SftWeights, output: Path) -> bool:
    """Write the weights under the adapter and the adapter, in PEFT's format, beside the network that holds both.

    Returns whether they were missing. Raises as :func:`read_given_adapter`, and StorageError.
    """
    path, folder = output / WEIGHTS_UNDER_FILE, output / ADAPTER_FOLDER
    if path.exists() and (folder / CONFIG_FILE).exists():
        return False
    base = base_of(settings)
    lora = read_given_adapter(settings)
    _save_under(base, sft, path)
    factors = {name: replace(pair, down=pair.down.float(), up=pair.up.float()) for name, pair in lora.factors.items()}
    save_peft_adapter(replace(lora, factors=factors), folder, base.outline().adapter_targets().names)
    return True


def _save_under(base: Base, sft: SftWeights, path: Path) -> None:
    network = base.convert_under(given_weights(sft))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        base.save(path, network, {"source": Path(sft.network).name})
