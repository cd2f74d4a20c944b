"""Stage ``prior``: encodes clean clips and negatives made from them, and trains the synchrony prior of JavisDiT v0.1 on them."""

from __future__ import annotations

from pathlib import Path

from avpref.config.training.prior_settings import PriorTrainingSettings
from avpref.errors import ConfigError
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.flows.placement import placed_loop
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.training.prior_data import prior_items, write_prior_set
from avpref.flows.stages.training.trained_models import reuse_trained_model
from avpref.flows.stages.training.training_data import launch_training
from avpref.flows.workers.generator import base_of, codec_identity
from avpref.flows.workers.prior.prior_text_states import prior_text_identity
from avpref.storage.documents import quarantine_file
from avpref.trainer.job import TrainingJob
from avpref.trainer.metrics import METRICS_FILE
from avpref.trainer.prior.run_prior import PRIOR_FILE
from avpref.trainer.run_job import SUMMARY_FILE

DATA_FILE = "prior_clips.json"
PRIORS = "priors"


def require_prior(run: Run) -> PriorTrainingSettings:
    """Section ``prior`` of the run. Raises ConfigError where it has none."""
    if run.settings.prior is None:
        fix = "--set 'prior={loop: {steps: 300, batch_size: 16}}'"
        raise ConfigError("the configuration has no section prior", "settings of the prior's training", fix)
    return run.settings.prior


def prior_output(run: Run) -> Path:
    """The folder of the trained prior; its name covers everything that the training depends on."""
    settings = require_prior(run)
    items = [item.item_id for item in prior_items(run, settings)]
    parts: dict[str, object] = {
        "prior": settings.model_dump(mode="json"),
        "clip": run.settings.clip.model_dump(mode="json"),
        "set": items,
        "codec": codec_identity(run.settings),
        "text": prior_text_identity(settings.text),
    }
    return run.model_folder("prior", run.fingerprint("prior", parts, run.settings.run.seed))


@reporting.stage("prior")
def train_prior(run: Run) -> StageCounts:
    """Train the prior of the run if it does not exist yet; the rows are training steps."""
    settings, output = require_prior(run), prior_output(run)
    clip_counts: tuple[ItemCounts, ...] = ()
    if run.models.bring(output / SUMMARY_FILE):  # the trainer writes it last
        counts = ItemCounts("prior", PRIORS, present=1)
    elif source := reuse_trained_model(run, output, [PRIOR_FILE], SUMMARY_FILE):
        counts = ItemCounts("prior", PRIORS, reused={source: 1})
    else:
        data = output / DATA_FILE
        left_out, clip_counts = write_prior_set(run, settings, prior_items(run, settings), data)
        run.documents.write_quarantine(quarantine_file("prior"), left_out)
        launch_training(run, "prior", prior_job(run, settings, output))
        counts = ItemCounts("prior", PRIORS, made=1)
    run.models.publish(output, (PRIOR_FILE, METRICS_FILE, SUMMARY_FILE))
    return StageCounts(settings.loop.steps, (*clip_counts, log_counts(run.events, counts)))


def prior_job(run: Run, prior: PriorTrainingSettings, output: Path) -> TrainingJob:
    """The job that trains the prior of the run on the set in ``output``."""
    settings, loop = run.settings, placed_loop(run.settings.executor, prior.loop)
    return TrainingJob(
        settings=prior.model_copy(update={"loop": loop}),
        base=settings.base,
        network=settings.network,
        clip=settings.clip,
        data=output / DATA_FILE,
        output=output,
        seed=settings.run.seed,
        device=loop.device,
        base_version=base_of(settings).version,
    )
