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
            found = f"bucket {bucket.name}: {samples} sample(s) per forward pass need {needed / 1e9:.1f} GB"
            fix = (
                "--set dpo.loop.max_tokens=N, loop.activation_checkpointing, dpo.two_pass; see avpref retrain --dry-run"
            )
            raise ConfigError(found, f"at most {total_bytes / 1e9:.1f} GB, the device's memory", fix)
