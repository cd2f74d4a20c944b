"""Sections ``sft`` and ``dpo``: flow matching on clips, then AV-DPO on pairs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from avpref.config.section import ExtendedSection, Section
from avpref.config.training.monitoring_settings import AlarmSettings, PreviewSettings, TrackerName
from avpref.config.training.preference_settings import PreferenceLossSettings

CheckpointingMode = Literal["none", "selective", "full"]
DesyncKind = Literal["delay", "stretch", "repeat", "swap"]


class OptimiserSettings(ExtendedSection):
    """AdamW with linear warm-up; the defaults are those of the released configuration."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"schedule", "min_lr_share", "state_bits"})

    lr: float = Field(default=1e-5, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    eps: float = Field(default=1e-15, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = Field(default=1.0, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    min_lr_share: float = Field(default=0.0, ge=0, le=1)
    state_bits: Literal[32, 8] = 32


class TimestepSettings(ExtendedSection):
    """Logit-normal timesteps, then the resolution and length shift times ``scale`` (or a fixed ``shift``)."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"independent", "rounded"})

    loc: float = 0.0
    spread: float = Field(default=1.0, gt=0)
    shift: float | None = Field(default=None, description="fixed shift ratio; none: from the clip's size and length")
    scale: float = Field(default=5.0, gt=0)
    independent: bool = False
    rounded: bool = False


class LoopSettings(ExtendedSection):
    """Length, batch size, checkpoints, device and launcher of a training loop; see :mod:`avpref.flows.placement`."""

    ADDED: ClassVar[frozenset[str]] = frozenset(
        {
            *("max_tokens", "checkpointing_by_tokens", "sharding", "max_restarts", "keep_every"),
            *("alarms", "previews", "trackers"),
        }
    )

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    checkpoint_every: int = Field(default=100, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every: int = Field(default=10, gt=0)
    num_threads: int = Field(
        default=2, gt=0, description="torch threads of each process; fixed, because it affects the rounding of sums"
    )
    num_processes: int = Field(default=1, gt=0)
    device: str = Field(
        default="executor",
        pattern=r"^(executor|auto|cpu|cuda(:\d+)?)$",
        description="executor: the device of section executor; or as that: cpu, cuda, cuda:1, auto",
    )
    launcher: Literal["auto", "in_process", "processes", "ray"] = Field(
        default="auto",
        description="processes: num_processes of this machine, without Ray; auto: Ray Train workers for several processes, or "
        "where a Ray executor trains on GPUs; in_process otherwise",
    )
    max_tokens: int | None = Field(
        default=None,
        gt=0,
        description="most tokens of one forward pass; the passes of a step add their gradients. none: one pass per shape",
    )
    activation_checkpointing: bool | Literal["selective"] = False
    checkpointing_by_tokens: tuple[tuple[int, CheckpointingMode], ...] = ()
    compile_blocks: bool = False
    sharding: Literal["sums", "fsdp2"] = "sums"
    max_restarts: int = Field(default=1, ge=0)
    keep_every: int = Field(default=0, ge=0)
    alarms: AlarmSettings = AlarmSettings()
    previews: PreviewSettings = PreviewSettings()
    trackers: tuple[TrackerName, ...] = ()

    @model_validator(mode="after")
    def _compiled_blocks_are_not_selective(self) -> Self:
        modes = {self.activation_checkpointing, *(mode for _, mode in self.checkpointing_by_tokens)}
        if self.compile_blocks and "selective" in modes:
            raise ValueError(
                "selective checkpointing sees single operations, which compile_blocks hides; choose one of them"
            )
        return self

    def checkpointing(self, num_tokens: int) -> CheckpointingMode:
        """How clips of ``num_tokens`` are checkpointed: by the last bound of ``checkpointing_by_tokens`` that they reach."""
        mode: CheckpointingMode = "full" if self.activation_checkpointing is True else "none"
        if self.activation_checkpointing == "selective":
            mode = "selective"
        for _, mode_from in sorted(bound for bound in self.checkpointing_by_tokens if bound[0] <= num_tokens):
            mode = mode_from
        return mode


class AdapterSettings(Section):
    """LoRA. ``merged``: a new adapter over the SFT network; the reference is the network with the adapter off.

    ``two_adapters``, as released: the policy continues the adapter that SFT trained, and the reference is a frozen copy of it.
    :mod:`avpref.config.training.adapter_rules` says which sections go together.
    """

    layout: Literal["merged", "two_adapters"] = "merged"
    rank: int = Field(default=64, gt=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class SftSettings(ExtendedSection):
    """Flow matching on clips: ``audio_steps`` of the audio branch alone (paper, stage 1), then joint training (stage 2).

    Stage 1 trains the audio tensors. Stage 2 trains all weights, or, with ``adapter``, a LoRA adapter that is folded into the result.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset(
        {
            *("weight_video", "weight_audio", "network", "adapter", "base_dtype"),
            *("audio_clips", "audio_optimiser", "audio_batch_size", "masks", "trained"),
        }
    )

    kind: Literal["train"] = "train"
    loop: LoopSettings
    audio_steps: int = Field(default=0, ge=0)
    optimiser: OptimiserSettings = OptimiserSettings()
    timesteps: TimestepSettings = TimestepSettings()
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    weight_video: float = Field(default=1.0, ge=0)
    weight_audio: float = Field(default=1.0, ge=0)
    network: str = Field(
        default="",
        description="where training starts: a file or folder of a video network, whose audio branch is started from it, or of a joint "
        "network; empty: random values",
    )
    adapter: AdapterSettings | None = Field(default=None, description="stage 2 trains this LoRA; none: all weights")
    base_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the frozen network under the adapter; without one all weights are float32"
    )
    audio_clips: str = Field(
        default="", description="stage 1: CSV of recordings with sound (file,text); empty: the sound of the SFT clips"
    )
    audio_optimiser: OptimiserSettings | None = Field(default=None, description="stage 1; none: optimiser")
    audio_batch_size: int | None = Field(default=None, gt=0, description="stage 1; none: loop.batch_size")
    masks: Literal["none", "released"] = Field(
        default="none",
        description="stage 2: released: latents of some clips are known, as JavisDiT v0.1 trains conditioned modes",
    )
    trained: Literal["released", "all"] = Field(
        default="released",
        description="stage 2 without an adapter: the parameters of the base model's released training, or all",
    )


class SftWeights(Section):
    """A trained SFT network: a file or folder in any known layout, and optionally a LoRA adapter to fold in."""

    kind: Literal["weights"] = "weights"
    network: str = Field(default="", description="file or folder, or shipped:NAME for a network of the package")
    lora: str = Field(default="", description="folder or file; empty: the adapter in the network's folder, if any")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


Sft = Annotated[SftSettings | SftWeights, Field(discriminator="kind")]


class DpoSettings(ExtendedSection):
    """AV-DPO training of the LoRA adapter. ``base_dtype`` is the dtype of the frozen network; the adapter is float32."""

    ADDED: ClassVar[frozenset[str]] = frozenset(
        {"reference", "reference_decay", "ema_decay", "two_pass", "by_side", "desync_kinds", "desync_order"}
    )

    loop: LoopSettings
    base_dtype: Literal["float32", "bfloat16", "int8", "float8"] = "float32"
    reference: Literal["live", "cached", "ema", "none"] = "live"
    reference_decay: float = Field(default=0.99, ge=0, lt=1)
    two_pass: bool = False
    by_side: bool = False
    optimiser: OptimiserSettings = OptimiserSettings()
    timesteps: TimestepSettings = TimestepSettings()
    adapter: AdapterSettings = AdapterSettings()
    loss: PreferenceLossSettings = PreferenceLossSettings()
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    desync_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of each batch whose rejected clip is the chosen one with shifted audio",
    )
    desync_min_s: float = Field(default=0.125, gt=0)
    desync_max_s: float = Field(default=0.5, gt=0)
    desync_early_share: float = Field(
        default=0.5, ge=0, le=1, description="share of those whose audio is early instead of late"
    )
    desync_kinds: tuple[DesyncKind, ...] = Field(default=("delay",), min_length=1)
    desync_order: Literal["flat", "large_first"] = "flat"
    displacement_alarm: float = Field(default=0.01, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)

    @property
    def has_reference_adapter(self) -> bool:
        """Whether the reference has an adapter of its own: a frozen copy of SFT's, or a moving average."""
        return self.adapter.layout == "two_adapters" or self.reference == "ema"
