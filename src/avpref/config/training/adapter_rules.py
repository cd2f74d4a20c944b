"""Adapters of SFT and AV-DPO that a configuration cannot have, refused before a run begins."""

from __future__ import annotations

from pathlib import Path

from avpref.config.schema import Settings
from avpref.config.training_settings import AdapterSettings, SftSettings
from avpref.errors import ConfigError

MERGED = "--set dpo.adapter.layout=merged"


def require_adapters(settings: Settings, path: Path) -> None:
    """Raises ConfigError for dropout, for a layout of ``sft.adapter``, and where layout ``two_adapters`` has no SFT adapter to continue."""
    sft_adapter = settings.sft.adapter if isinstance(settings.sft, SftSettings) else None
    for name, adapter in (("sft.adapter", sft_adapter), ("dpo.adapter", settings.dpo.adapter)):
        if adapter is not None and adapter.dropout > 0:
            found = f"{path}: {name}.dropout {adapter.dropout}"
            expected = "0: dropout depends on batches and processes, and makes policy and reference differ before the first step"
            raise ConfigError(found, expected, f"--set {name}.dropout=0")
    if sft_adapter is not None and sft_adapter.layout != "merged":
        found = f"{path}: sft.adapter.layout {sft_adapter.layout}"
        raise ConfigError(found, "merged: the layout is that of dpo.adapter", "--set sft.adapter.layout=merged")
    if settings.dpo.adapter.layout == "two_adapters":
        _require_continued(settings, sft_adapter, path)


def _require_continued(settings: Settings, sft_adapter: AdapterSettings | None, path: Path) -> None:
    """Raises ConfigError unless SFT has an adapter that AV-DPO can continue with a frozen copy as its reference.

    The adapter of ``sft.kind: weights`` is a file, which the run checks (:mod:`avpref.flows.stages.training.given_adapter`).
    """
    found = f"{path}: dpo.adapter.layout two_adapters"
    if sft_adapter is None and isinstance(settings.sft, SftSettings):
        raise ConfigError(f"{found} without sft.adapter", "an adapter that SFT trains, which AV-DPO continues", MERGED)
    own = settings.dpo.adapter
    if sft_adapter is not None and (own.rank, own.alpha) != (sft_adapter.rank, sft_adapter.alpha):
        fix = f"--set dpo.adapter.rank={sft_adapter.rank} --set dpo.adapter.alpha={sft_adapter.alpha:g}"
        raise ConfigError(
            f"{found}, rank {own.rank} and alpha {own.alpha:g}",
            f"those of sft.adapter: {sft_adapter.rank} and {sft_adapter.alpha:g}",
            fix,
        )
    if settings.dpo.reference == "ema":
        expected = "dpo.reference live or cached: the second adapter is the frozen reference"
        raise ConfigError(f"{found} with dpo.reference ema", expected, MERGED)
    if settings.rounds.count > 1 or settings.rounds.round > 1:
        expected = "layout merged: a later round continues the adapter of the round before"
        raise ConfigError(f"{found} with several rounds", expected, MERGED)
