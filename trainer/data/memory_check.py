"""Compares the memory of every bucket with that of the device, before the first step."""

from __future__ import annotations

import torch

from avpref.config.base_settings import BaseSections
from avpref.config.training.prior_settings import PriorTrainingSettings
from avpref.config.training_settings import DpoSettings
from avpref.errors import ConfigError
from avpref.trainer.data.buckets import Schedule
from avpref.trainer.job import TrainingJob
from avpref.trainer.memory_plan import MemoryRequest, plan_memory
from avpref.trainer.parallel import Context


def require_room(job: TrainingJob, schedule: Schedule, context: Context) -> None:
    """Raises ConfigError that names the first bucket whose forward pass needs more memory than the CUDA device has.

    A CPU is not checked: its memory can be larger than what is resident.
    """
    if context.device.type == "cuda":
        total = torch.cuda.get_device_properties(context.device).total_memory
        require_memory(job, schedule, total, context.world)


def require_memory(job: TrainingJob, schedule: Schedule, total_bytes: int, world: int = 1) -> None:
    """Raises ConfigError that names the first bucket whose forward pass needs more than ``total_bytes``."""
    settings, sections = job.settings, BaseSections(base=job.base, network=job.network)
    assert not isinstance(settings, PriorTrainingSettings), "memory is planned for base models"
    is_by_side = False
    adapter, per_sample, has_second = job.adapter, schedule.buckets.rows_per_sample, False
    if isinstance(settings, DpoSettings):
        adapter, per_sample = settings.adapter, 1 if settings.two_pass else per_sample
        has_second = settings.has_reference_adapter
        is_by_side = settings.by_side and not settings.two_pass
    own = -(-settings.loop.batch_size // world)
    for index, bucket in enumerate(schedule.buckets.kinds):
        samples = own if schedule.capacity is None else min(own, schedule.capacity[index])
        mode = settings.loop.checkpointing(job.base_model.latent_work(bucket.shapes).num_tokens)
        request = MemoryRequest(
            sections,
            adapter,
            job.dtype,
            bucket.shapes,
            samples * per_sample,
            mode,
            bool(settings.ema_decay),
            settings.optimiser.state_bits,
            has_second,
            is_by_side,
        )
        needed = plan_memory(request).total
        if needed > total_bytes:
            found = f"bucket {bucket.name}: {samples} sample(s) per forward pass need {needed / 1e9:.3g} GB"
            fix = f"{_smaller(job, schedule, samples, mode)}; avpref retrain --dry-run lists other settings"
            raise ConfigError(found, f"at most {total_bytes / 1e9:.3g} GB, the device's memory", fix)


def _smaller(job: TrainingJob, schedule: Schedule, samples: int, mode: str) -> str:
    """The first setting that is not used yet and makes a forward pass smaller: fewer samples, checkpointing, one side at a time."""
    section = "dpo" if isinstance(job.settings, DpoSettings) else "sft"
    if samples > 1:
        tokens = schedule.buckets.tokens(lambda shapes: job.base_model.latent_work(shapes).num_tokens)
        return f"--set {section}.loop.max_tokens={max(tokens)}"
    if mode != "full":
        return f"--set {section}.loop.activation_checkpointing=true"
    if isinstance(job.settings, DpoSettings) and not job.settings.two_pass:
        return "--set dpo.two_pass=true"
    return "smaller clips (section clip), or a device with more memory"
