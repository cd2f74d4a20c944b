"""The texts and seeds of a training's previews: the first held-out prompts, with the sampling settings and the base model of the run."""

from __future__ import annotations

from dataclasses import replace

from avpref.domain import Split
from avpref.flows.run import Run
from avpref.flows.stages.training_data import TrainingTexts
from avpref.identity import derive_seed
from avpref.models.text import TextBatch
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
    texts = TrainingTexts(run.settings, run.runs)
    encoded, index = texts.encode([prompt.text for prompt in prompts])
    return PreviewTexts(
        tuple(prompt.prompt_id for prompt in prompts),
        TextBatch(encoded.states[index], encoded.mask[index]),
        texts.negative,
        tuple(derive_seed("preview", run.settings.run.seed, prompt.prompt_id) for prompt in prompts),
        run.settings.sampling,
        run.settings.base_sections,
    )
