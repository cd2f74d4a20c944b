"""The training set of the synchrony prior: clean clips of the training prompts, negatives made from them, and text states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.data_settings import ToyWorldPrompts
from avpref.config.schema import Settings
from avpref.config.training.prior_settings import PriorTrainingSettings
from avpref.datasets import tables
from avpref.datasets.latents import AUDIO, LATENTS, STORE_VERSION, TRAINING_SAMPLES, TrainingSample, text_id
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Prompt, Split
from avpref.errors import InputError
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.shaped_passes import FinishedPasses, StagePass, run_by_shape
from avpref.flows.stages.training.training_data import bring_shards
from avpref.flows.workers.generator import codec_identity
from avpref.flows.workers.prior.prior_text_states import PriorTextSpec, prior_text_identity, prior_text_shape
from avpref.flows.workers.prior.prior_worker import PriorEncodeSpec, PriorItem
from avpref.flows.workers.prompt_sources import has_ground_truth
from avpref.flows.workers.text_state_worker import TextStateItem
from avpref.identity import derive_seed, digest
from avpref.media.geometry import ClipShape
from avpref.storage.latents.latent_units import ShardImporter
from avpref.storage.latents.training_set import SetHeader, seal_training_set

PRIOR_CLIPS, PRIOR_TEXTS = "prior_clips", "prior_texts"


def prior_items(run: Run, settings: PriorTrainingSettings) -> list[PriorItem]:
    """The windows of the training prompts with a ground-truth clip, each with a drawn prompt of another recording.

    Raises InputError where there is none.
    """
    prompts = [prompt for prompt in run.prompts_of(Split.TRAIN) if has_ground_truth(prompt, run.settings)]
    if not prompts:
        found = f"no training prompt of run {run.run_id} has a clip of its own"
        raise InputError(found, "recordings, or the toy world", "--set prompts.kind=clips --set prompts.clips=FILE.csv")
    num_windows = 1 if isinstance(run.settings.prompts, ToyWorldPrompts) else settings.num_windows
    items = []
    for prompt in prompts:
        for window in range(num_windows):
            donor = _donor(prompt, prompts, derive_seed("donor", run.settings.run.seed, window))
            identity = digest("prior", prompt.prompt_id, donor and donor.prompt_id, settings.num_negatives, window)
            items.append(PriorItem(f"prior{identity}", prompt, donor, settings.num_negatives, window))
    return items


def write_prior_set(
    run: Run, settings: PriorTrainingSettings, items: Sequence[PriorItem], path: Path
) -> tuple[list[QuarantineRow], tuple[ItemCounts, ...]]:
    """Encode clips, negatives and texts and seal the training set at ``path``; returns the rows of what was left out, and counts.

    Raises InputError where no clip is left.
    """
    encoded = _encode_clips(run, items)
    clips, left_out = run.units(LATENTS).read(encoded.units)
    samples = _samples(clips)
    if not samples:
        reasons = "; ".join(sorted({row.message for row in left_out})[:3])
        found = f"none of {len(items)} clips can be used for the prior: {reasons}"
        raise InputError(found, "clips with picture and sound that change", "give other recordings in prompts.clips")
    texts = _encode_texts(run, settings, clips)
    index = pa.concat_tables([clips, run.units(LATENTS).read(texts.units)[0]])
    bring_shards(run, index)
    fingerprint = digest("latents", sorted(set(index["fingerprint"].to_pylist())))
    header = SetHeader("priors", fingerprint, *prior_text_shape(settings.text), "")
    seal_training_set(path, header, tables.to_arrow(TRAINING_SAMPLES, samples), index, run.root)
    return left_out, (*encoded.counts, texts.counts)


def _donor(prompt: Prompt, prompts: Sequence[Prompt], seed: int) -> Prompt | None:
    """Another recording's prompt: the first one from a drawn place on; None where all are of one recording."""
    own = prompt.ground_truth_path or prompt.source
    start = derive_seed("prior donor", seed, prompt.prompt_id) % len(prompts)
    for place in range(len(prompts)):
        other = prompts[(start + place) % len(prompts)]
        if (other.ground_truth_path or other.source) != own:
            return other
    return None


def _encode_clips(run: Run, items: Sequence[PriorItem]) -> FinishedPasses[PriorItem]:
    """Store the latents of the clips and of their negatives."""
    kind, seed = run.settings.prompts.kind, run.settings.run.seed
    files = run.units(LATENTS)

    def shape_of(item: PriorItem) -> ClipShape:
        return run.shape_of(item.prompt.prompt_id)

    def pass_of(settings: Settings, members: Sequence[PriorItem]) -> StagePass[PriorItem]:
        clip = settings.clip.model_dump(mode="json")
        fingerprint = run.fingerprint(PRIOR_CLIPS, STORE_VERSION, kind, clip, codec_identity(settings), seed)
        return StagePass(
            plan_stage(PRIOR_CLIPS, "clips", fingerprint, [[item] for item in members], settings.run),
            files,
            PriorEncodeSpec(run.files, settings, files),
            Reuse(files, run.files, run.siblings, "sample_id", importer=ShardImporter(run.files)),
        )

    return run_by_shape(run, items, shape_of, pass_of)


def _encode_texts(run: Run, settings: PriorTrainingSettings, clips: pa.Table) -> FinishedUnits[TextStateItem]:
    """Store the states of the clips' texts, each once."""
    items = [TextStateItem(text_id(text), text) for text in sorted(set(clips["text"].to_pylist()))]
    fingerprint = run.fingerprint(PRIOR_TEXTS, prior_text_identity(settings.text))
    plan = plan_stage(PRIOR_TEXTS, "texts", fingerprint, [[item] for item in items], run.settings.run)
    files = run.units(LATENTS)
    spec = PriorTextSpec(run.files, run.settings, files)
    reuse: Reuse[TextStateItem] = Reuse(files, run.files, run.siblings, "sample_id", importer=ShardImporter(run.files))
    return run_stage(run, plan, files, lambda: spec, reuse, reporting.observer())


def _samples(rows: pa.Table) -> list[TrainingSample]:
    own = rows.filter(pc.equal(rows["part"], AUDIO)).to_pylist()
    size = ("num_frames", "height_px", "width_px")
    return [
        TrainingSample(row["sample_id"], row["sample_id"], "", text_id(row["text"]), *(row[name] for name in size))
        for row in own
    ]
