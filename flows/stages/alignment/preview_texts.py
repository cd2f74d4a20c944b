"""The texts and seeds of a training's previews: the first held-out prompts, with the sampling settings and the base model of the run."""

from __future__ import annotations

from dataclasses import replace

from avpref.config.executor_settings import InProcessExecutor
from avpref.domain import Split
from avpref.flows.run import Run
from avpref.flows.workers.generator import device_of, negative_text, open_text_encoder
from avpref.identity import derive_seed
from avpref.trainer.job import TrainingJob
from avpref.trainer.monitoring.previews import PreviewTexts, save_previews

PREVIEW_FILE = "previews.safetensors"


def with_previews(run: Run, job: TrainingJob) -> TrainingJob:
    """``job`` with the file of its previews, which is written if it is absent."""
    path = job.output / PREVIEW_FILE
    if not path.exists():
        save_previews(path, _texts(run, job.settings.loop.previews.count))
    return replace(job, previews=path)


def _texts(run: Run, count: int) -> PreviewTexts:
    prompts = run.prompts_of(Split.HELD_OUT)[:count]
    is_here = isinstance(run.settings.executor, InProcessExecutor)  # the GPUs of a Ray executor are held by its actors
    encoder = open_text_encoder(run.settings, run.runs, device_of(run.settings) if is_here else "cpu")
    return PreviewTexts(
        tuple(prompt.prompt_id for prompt in prompts),
        encoder.encode([prompt.text for prompt in prompts]),
        negative_text(encoder, run.settings),
        tuple(derive_seed("preview", run.settings.run.seed, prompt.prompt_id) for prompt in prompts),
        run.settings.sampling,
        run.settings.base_sections,
    )
