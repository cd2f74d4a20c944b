"""Sections ``sft`` and ``dpo``: flow matching on clips, then AV-DPO on pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from avpref.config.section import Section


class OptimiserSettings(Section):
    """AdamW with linear warm-up; values of the released configuration by default."""

    lr: float = Field(default=1e-5, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    eps: float = Field(default=1e-15, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = Field(default=1.0, gt=0)


class TimestepSettings(Section):
    """Logit-normal timesteps, then the resolution and length shift times ``scale`` (or a fixed ``shift``)."""

    loc: float = 0.0
    spread: float = Field(default=1.0, gt=0)
    shift: float | None = Field(default=None, description="fixed shift ratio; none: from the clip's size and length")
    scale: float = Field(default=5.0, gt=0)


class LoopSettings(Section):
    """What every training loop needs: how long, how large, how often it saves, and how it is launched."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    checkpoint_every: int = Field(default=100, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every: int = Field(default=10, gt=0)
    num_threads: int = Field(
        default=2, gt=0, description="torch threads of each process; fixed so that sums never change"
    )
    num_processes: int = Field(default=1, gt=0)
    launcher: Literal["in_process", "ray"] = "in_process"
    activation_checkpointing: bool = False
    compile_blocks: bool = False


class SftSettings(Section):
    """Flow matching on clips: ``audio_steps`` of the audio branch alone (the paper's stage 1), then the joint stage 2."""

    kind: Literal["train"] = "train"
    loop: LoopSettings
    audio_steps: int = Field(default=0, ge=0)
    optimiser: OptimiserSettings = OptimiserSettings()
    timesteps: TimestepSettings = TimestepSettings()
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)


class SftWeights(Section):
    """A trained SFT network: a file or folder in any layout that is known, and a LoRA to fold into it."""

    kind: Literal["weights"] = "weights"
    network: str = ""
    lora: str = Field(default="", description="folder or file; empty: the one in the network's folder, if it has one")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


Sft = Annotated[SftSettings | SftWeights, Field(discriminator="kind")]


class AdapterSettings(Section):
    """LoRA. ``merged``: reference = adapter off. ``two_adapters``: SFT adapter copied into policy and frozen reference."""

    layout: Literal["merged", "two_adapters"] = "merged"
    rank: int = Field(default=64, gt=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class PreferenceLossSettings(Section):
    """AV-DPO: which scalars become which loss. Defaults are those of the released configuration."""

    form: Literal["per_modality", "joint"] = "per_modality"
    variant: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    beta_video: float = Field(default=3000.0, gt=0)
    beta_audio: float = Field(default=1000.0, gt=0)
    half: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    flow_weight: float = Field(default=0.1, ge=0)


class DpoSettings(Section):
    """AV-DPO training of the adapter."""

    loop: LoopSettings
    optimiser: OptimiserSettings = OptimiserSettings()
    timesteps: TimestepSettings = TimestepSettings()
    adapter: AdapterSettings = AdapterSettings()
    loss: PreferenceLossSettings = PreferenceLossSettings()
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    desync_share: float = Field(
        default=0.0, ge=0, le=1, description="share of each batch with rule-made delayed-audio rejected clips"
    )
    desync_min_s: float = Field(default=0.125, gt=0)
    desync_max_s: float = Field(default=0.5, gt=0)
    desync_early_share: float = Field(
        default=0.5, ge=0, le=1, description="share of those whose sound comes early, not late"
    )
    displacement_alarm: float = Field(default=0.01, gt=0)
