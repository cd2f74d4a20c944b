"""The schema of a configuration file: one class per section, frozen, unknown keys refused.

Files are whole and flat (no inheritance, no interpolation). Where a section may take several forms the key ``kind``
chooses the *class*, and one ``match`` in the flows turns classes into implementations.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from avpref.config.audit_settings import AuditSettings
from avpref.config.gate_settings import EvaluationSettings, PromotionSettings
from avpref.config.gate_settings import GateSettings as GateSettings
from avpref.config.observe_settings import ObserveSettings
from avpref.config.reporting_settings import ReportingSettings
from avpref.config.retention_settings import RetentionSettings
from avpref.config.scoring_settings import ScoringSettings
from avpref.config.section import Section
from avpref.config.storage_settings import FolderStorage, Storage


class RunSettings(Section):
    """Identity of a run and the size of its pieces."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    seed: int = Field(default=0, ge=0)
    shard_prompts: int = Field(default=256, gt=0, description="prompts per shard: one task per shard and stage")
    unit_candidates: int = Field(
        default=32, gt=0, description="candidates per unit: one actor call, one committed file"
    )
    max_quarantined_share: float = Field(default=0.2, gt=0, le=1)


class InProcessExecutor(Section):
    """Everything in the calling process; for tests and debugging."""

    kind: Literal["in_process"] = "in_process"
    device: str = Field(
        default="auto", description="of reward models: cpu, cuda, cuda:1; auto: CUDA where there is one"
    )
    scoring: Literal["together", "waves"] = Field(
        default="together",
        description="together: each clip is read once for all scorers; waves: one scorer after the other",
    )


class PoolSettings(Section):
    """Actors of one scorer, where scorers have pools of their own."""

    num_actors: int = Field(default=1, gt=0)
    num_gpus_per_actor: float = Field(default=0.0, ge=0)


class ScorerPools(Section):
    """A pool per reward model, for ``scoring`` in waves or pools."""

    audiobox: PoolSettings = PoolSettings()
    imagebind: PoolSettings = PoolSettings()
    synchformer: PoolSettings = PoolSettings()
    videoalign: PoolSettings = PoolSettings()
    javis_score: PoolSettings = PoolSettings()


class RayExecutor(Section):
    """A pool of Ray core actors. ``address`` joins a cluster; without it one starts on this machine."""

    kind: Literal["ray"] = "ray"
    num_actors: int = Field(default=2, gt=0)
    num_gpus_per_actor: float = Field(default=0.0, ge=0)
    address: str = ""
    unit_timeout_s: float = Field(
        default=0.0, ge=0, description="a unit that runs longer fails as TimedOut and its actor is killed; 0: no limit"
    )
    start_patience_s: float = Field(
        default=300.0, gt=0, description="how long a cluster may take until it has placed any actor at all"
    )
    device: str = Field(default="auto", description="of reward models, as in_process")
    scoring: Literal["together", "waves", "pools"] = Field(
        default="together",
        description="together: actors hold all scorers; waves: a pool per scorer, one after the other; pools: at the same time",
    )
    pools: ScorerPools = ScorerPools()


Executor = Annotated[InProcessExecutor | RayExecutor, Field(discriminator="kind")]


class ClipSettings(Section):
    """The shape of every clip of the run."""

    num_frames: int = Field(gt=0)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    fps_hz: float = Field(gt=0)
    sample_rate_hz: int = Field(default=16000, gt=0)


class ToyWorldPrompts(Section):
    """Prompts of the embedded toy world, and the number of simulated clips that the SFT model learns from."""

    kind: Literal["toyworld"] = "toyworld"
    num_prompts: int = Field(default=384, gt=0)
    num_evaluation_clips: int = Field(default=256, gt=0)
    num_sft_clips: int = Field(default=4096, gt=0)


class ClipPrompts(Section):
    """Anyone's recordings: a CSV with columns ``file,text`` and optionally ``taxonomy``; paths are relative to the CSV."""

    kind: Literal["clips"] = "clips"
    clips: str = ""
    held_out_share: float = Field(default=0.25, gt=0, lt=1)
    num_evaluation_clips: int = Field(default=32, gt=0)


class TextPrompts(Section):
    """Texts from a CSV with a column ``text``, and optionally ``file`` (ground truth beside the CSV) and ``taxonomy``."""

    kind: Literal["texts"] = "texts"
    prompts: str = ""
    held_out_share: float = Field(default=0.1, ge=0, lt=1)


Prompts = Annotated[ToyWorldPrompts | ClipPrompts | TextPrompts, Field(discriminator="kind")]


class NetworkSettings(Section):
    """Constructor values of the JavisDiT++ network (spec names of the original)."""

    dim: int = Field(gt=0)
    ffn_dim: int = Field(gt=0)
    freq_dim: int = Field(default=256, gt=0)
    text_dim: int = Field(gt=0)
    text_len: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    in_dim: int = Field(gt=0, description="video latent channels")
    audio_in_dim: int = Field(gt=0, description="audio latent channels")
    patch_size: tuple[int, int, int] = (1, 2, 2)
    audio_patch_size: tuple[int, int] = (2, 2)
    audio_pe_type: Literal["vanilla", "interpolate", "interleave", "interleave_offset", "interleave_offset_rounded"] = (
        "interleave_offset"
    )
    dual_ffn: bool = True


class IdentityCodec(Section):
    """Invertible patches of pixels and log band energies: a codec without weights."""

    kind: Literal["identity"] = "identity"
    video_scale: int = Field(default=8, gt=0, description="pixels per latent cell, each way")
    audio_bands: int = Field(default=8, gt=0)
    audio_rate_hz: float = Field(default=16.0, gt=0)
    video_mean: float = Field(default=0.0, description="of pixels in [-1, 1]; latents are (pixel - mean) / std")
    video_std: float = Field(default=1.0, gt=0)
    audio_mean: float = Field(default=0.0, description="of levels in [-1, 1]; latents are (level - mean) / std")
    audio_std: float = Field(default=1.0, gt=0)


class JavisCodec(Section):
    """The released generator's codecs: the video VAE of Wan 2.1, the sound VAE and the vocoder of AudioLDM2.

    Weights are files or folders; empty: the folder of the published repository in the Hugging Face cache.
    """

    kind: Literal["javisdit"] = "javisdit"
    video_vae: str = Field(
        default="", description="folder of AutoencoderKLWan, or Wan2.1_VAE.pth; empty: Wan's, fetched"
    )
    audio_vae: str = Field(default="", description="folder of AutoencoderKL; empty: AudioLDM2's vae, fetched")
    vocoder: str = Field(default="", description="folder of SpeechT5HifiGan; empty: AudioLDM2's vocoder, fetched")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of weights and of the sound's arithmetic; the picture's is float32 always"
    )
    audio_tail: Literal["corrected", "released"] = Field(
        default="corrected", description="what follows the sound up to a whole latent step: silence, or the click"
    )
    audio_posterior: Literal["sample", "mean"] = Field(
        default="sample", description="audio latents: a draw that the sound itself seeds, as in training, or the mean"
    )
    tile_px: int = Field(default=0, ge=0, description="side of the tiles that are decoded one by one; 0: whole frames")
    tile_overlap_px: int = Field(default=64, ge=0, description="pixels over which neighbouring tiles are blended")
    stream_frames: bool = Field(
        default=True, description="decoded frames go to the host as they are made, not when the clip is whole"
    )


Codec = Annotated[IdentityCodec | JavisCodec, Field(discriminator="kind")]


class WordText(Section):
    """A vector per word, derived from the word: an encoder without weights, of the network's text_dim and text_len."""

    kind: Literal["words"] = "words"


class UMT5Text(Section):
    """umT5-xxl, 512 states per text, each text encoded once. Files and folders; empty: Wan's, in the Hugging Face cache."""

    kind: Literal["umt5"] = "umt5"
    encoder: str = Field(default="", description="folder of UMT5EncoderModel, or models_t5_umt5-xxl-enc-bf16.pth")
    tokenizer: str = Field(default="", description="folder with tokenizer.json, or that file")
    cache: str = Field(default="", description="folder of text states; empty: `texts` beside the runs")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


Text = Annotated[WordText | UMT5Text, Field(discriminator="kind")]


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


class PreferenceLoss(Section):
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
    loss: PreferenceLoss = PreferenceLoss()
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


class SamplingSettings(Section):
    """Candidates: how many per prompt, and the Euler sampler."""

    num_candidates: int = Field(default=3, gt=0)
    steps: int = Field(default=50, gt=0)
    guidance: float = Field(default=5.0, ge=0)
    shift: float | None = Field(
        default=None, description="fixed timestep shift ratio; none: from the clip's size and length"
    )
    shift_scale: float = Field(default=1.0, gt=0)
    negative_prompt: str = ""
    ground_truth: bool = True
    ground_truth_through_codec: bool = Field(
        default=True, description="ground truth is encoded and decoded too, so that its codec does not give it away"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_candidates: int = Field(default=32, gt=0, description="candidates that go through the network at once")
    store_latents: bool = False


class PairSettings(Section):
    """How chosen and rejected are selected; see datasets/selection/pairing.py."""

    strategy: Literal["modality", "average", "strict"] = "modality"
    average: Literal["micro", "macro"] = "micro"
    normalise: bool = True
    ground_truth: bool = True
    min_margin: float = Field(default=0.0, ge=0)
    max_pairs_per_prompt: int = Field(default=1, gt=0)
    min_aspect_ratio: float = Field(default=0.0, ge=0)
    max_aspect_ratio: float = Field(default=1e9, gt=0)
    max_length_ratio: float = Field(default=1e9, ge=1)
    norm: str = Field(default="", description="id of a saved norm to reuse; empty: measured on this run's scores")


class Settings(Section):
    """A whole configuration file."""

    run: RunSettings = RunSettings()
    executor: Executor = InProcessExecutor()
    storage: Storage = FolderStorage()
    observe: ObserveSettings = ObserveSettings()
    clip: ClipSettings
    prompts: Prompts
    codec: Codec = IdentityCodec()
    text: Text = WordText()
    network: NetworkSettings
    sft: Sft
    sampling: SamplingSettings = SamplingSettings()
    scoring: ScoringSettings = ScoringSettings()
    pairs: PairSettings = PairSettings()
    audit: AuditSettings = AuditSettings()
    dpo: DpoSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    retention: RetentionSettings = RetentionSettings()
    promotion: PromotionSettings = PromotionSettings()
    reporting: ReportingSettings = ReportingSettings()


class ScoreJob(Section):
    """What scoring a list of clips needs, without a generator: sections of a whole file."""

    run: RunSettings = RunSettings(name="scores")
    executor: Executor = InProcessExecutor()
    observe: ObserveSettings = ObserveSettings()
    scoring: ScoringSettings = ScoringSettings(scorers=("audiobox", "imagebind", "synchformer", "videoalign"))
