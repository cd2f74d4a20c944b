"""LTX-2.0, 2.3 and 2.5: the differences between their configurations, and which one a folder holds.

Sources: the configurations of the published repositories and diffusers' ``LTX2VideoTransformer3DModel``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from avpref.errors import InputError

FULL_SCHEDULE: Mapping[str, object] = MappingProxyType(
    {
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "shift_terminal": 0.1,
    }
)
"""Scheduler of the full transformers. 2.5 ships the scheduler of its distilled transformer only, so 2.5 always uses this one."""


class LtxVersion(StrEnum):
    """A published version of the base model."""

    V2_0 = "2.0"
    V2_3 = "2.3"
    V2_5 = "2.5"

    @property
    def traits(self) -> VersionTraits:
        """Facts of the version that the product needs."""
        return TRAITS[self]


@dataclass(frozen=True)
class VersionTraits:
    """Facts of one version.

    ``transformer`` is the folder of the full transformer; ``config`` are the transformer's constructor values that tell the version
    from the others; ``uses_cross_timestep`` says whether attention between the modalities is modulated by the noise level of the
    other modality; ``marks_keyframes`` whether the transformer has an embedding for latent frames of a single picture.
    """

    repo: str
    transformer: str
    vocoder: str
    sample_rate_hz: int
    uses_cross_timestep: bool
    marks_keyframes: bool
    config: Mapping[str, bool]

    @property
    def structure(self) -> Mapping[str, object]:
        """Constructor values of the published transformer; values that are absent are the class's defaults."""
        return {**self.config, "rope_type": "split", "perturbed_attn": self.config["gated_attn"]}


def _traits(
    repo: str, transformer: str, rate_hz: int, *, is_gated: bool, has_ff_bias: bool, marks: bool
) -> VersionTraits:
    config = {
        "gated_attn": is_gated,
        "audio_gated_attn": is_gated,
        "cross_attn_mod": is_gated,
        "audio_cross_attn_mod": is_gated,
        "use_prompt_embeddings": not is_gated,
        "ff_bias": has_ff_bias,
        "use_keyframes_abs_pos_embedding": marks,
    }
    vocoder = "LTX2VocoderWithBWE" if is_gated else "LTX2Vocoder"
    return VersionTraits(repo, transformer, vocoder, rate_hz, is_gated, marks, MappingProxyType(config))


TRAITS: Mapping[LtxVersion, VersionTraits] = MappingProxyType(
    {
        LtxVersion.V2_0: _traits(
            "Lightricks/LTX-2", "transformer", 24000, is_gated=False, has_ff_bias=True, marks=False
        ),
        LtxVersion.V2_3: _traits(
            "diffusers/LTX-2.3-Diffusers", "transformer", 48000, is_gated=True, has_ff_bias=True, marks=False
        ),
        LtxVersion.V2_5: _traits(
            "Lightricks/LTX-2.5-Diffusers", "transformer_full", 48000, is_gated=True, has_ff_bias=False, marks=True
        ),
    }
)

DEFAULTS: Mapping[str, bool] = MappingProxyType(
    {
        "gated_attn": False,
        "audio_gated_attn": False,
        "cross_attn_mod": False,
        "audio_cross_attn_mod": False,
        "use_prompt_embeddings": True,
        "ff_bias": True,
        "use_keyframes_abs_pos_embedding": False,
    }
)
"""Values of keys that a configuration file leaves out: the defaults of the constructor."""


def version_of(config: Mapping[str, object]) -> LtxVersion | None:
    """The version that a transformer's configuration belongs to; None if it belongs to none."""
    values = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    return next((version for version, traits in TRAITS.items() if dict(traits.config) == values), None)


def require_version(source: str, config: Mapping[str, object], expected: LtxVersion) -> None:
    """Raises InputError unless ``config``, a transformer's configuration read from ``source``, is of version ``expected``."""
    version = version_of(config)
    if version is expected:
        return
    if version is not None:
        raise InputError(
            f"{source} holds LTX-{version}",
            f"LTX-{expected}, as base.settings.version says",
            f"--set base.settings.version={version}, or name a folder of {expected.traits.repo}",
        )
    wanted = expected.traits.config
    values = {name: config.get(name, DEFAULTS[name]) for name in wanted}
    wrong = ", ".join(f"{name} {values[name]}" for name in wanted if values[name] != wanted[name])
    raise InputError(
        f"{source} holds a transformer of no known version: {wrong}",
        f"LTX-{expected}: " + ", ".join(f"{name} {wanted[name]}" for name in wanted if values[name] != wanted[name]),
        f"hf download {expected.traits.repo}",
    )
