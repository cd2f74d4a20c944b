"""Run a training job of the synchrony prior: builds the estimator for the data, trains it, writes it."""

from __future__ import annotations

import torch

from avpref.config.training.prior_settings import PriorNetworkSettings
from avpref.errors import ConfigError
from avpref.identity import derive_seed, digest
from avpref.models.dual_stream.prior_files import save_prior
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.flow import LatentShapes
from avpref.storage.latents.training_set import read_training_set
from avpref.trainer.data.stored_data import StoredPriorClips
from avpref.trainer.job import TrainingJob
from avpref.trainer.loop import LoopPlan, train
from avpref.trainer.metrics import TrainingSummary
from avpref.trainer.parallel import Context
from avpref.trainer.prior.prior_batches import PriorSource
from avpref.trainer.prior.prior_objective import PriorObjective

PRIOR_FILE = "prior.safetensors"


def run_prior(job: TrainingJob, context: Context) -> TrainingSummary:
    """Train or resume the estimator of ``job`` and write ``prior.safetensors``; its fingerprint covers everything that it depends on.

    Raises ConfigError for latents that do not fit the estimator's patches, and as loading and :func:`avpref.trainer.loop.train`.
    """
    rows = StoredPriorClips(read_training_set(job.data, "priors"), derive_seed("posterior", job.seed))
    config = prior_config(job.prior.network, rows.header.text_dim, rows.buckets().kinds[0].shapes)
    network = new_prior(config, derive_seed("prior network", job.seed)).to(context.device)
    shape = (config.num_tokens, config.out_dim) if config.apply_sampling else None
    source = PriorSource(rows, derive_seed("prior", job.seed), shape)
    fingerprint = job.fingerprint()
    plan = LoopPlan(job.prior.loop, job.prior.optimiser, derive_seed("order", job.seed), job.output, fingerprint)
    result = train(PriorObjective(network), source, plan, context)
    if context.is_first:
        save_prior(job.output / PRIOR_FILE, network, digest("prior", fingerprint, job.prior.loop.steps, size=64))
    return result.summary


def new_prior(config: PriorConfig, seed: int) -> SynchronyPrior:
    """An estimator on the CPU whose initial values depend on ``seed`` alone; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SynchronyPrior(config)


def prior_config(settings: PriorNetworkSettings, text_dim: int, shapes: LatentShapes) -> PriorConfig:
    """Sizes of the estimator for states of width ``text_dim`` and latents of ``shapes``, with the parts that training needs.

    Raises ConfigError where the sound is no whole number of patches.
    """
    assert shapes.video is not None and shapes.audio is not None
    steps, bands = settings.audio_patch
    if shapes.audio[1] % steps or shapes.audio[2] % bands:
        found = f"audio latents {list(shapes.audio)} with prior.network.audio_patch [{steps}, {bands}]"
        raise ConfigError(found, "a whole number of patches", "--set prior.network.audio_patch=[1,1]")
    return PriorConfig(
        text_emb_dim=text_dim,
        spatial_token_num=settings.spatial_tokens,
        temporal_token_num=settings.temporal_tokens,
        hidden_size=settings.hidden_dim,
        out_dim=settings.token_dim,
        nhead=settings.num_heads,
        num_encoder_layers=settings.num_encoder_layers,
        num_decoder_layers=settings.num_decoder_layers,
        apply_sampling=settings.sampled,
        encode_va=True,
        video_in_channel=shapes.video[0],
        video_patch_size=settings.video_patch,
        audio_in_channel=shapes.audio[0],
        audio_patch_size=settings.audio_patch,
        va_num_heads=settings.num_heads,
    )
