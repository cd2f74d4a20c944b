"""The training sets of SFT: its clips, and the sound that the audio branch is trained on alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.schema import Settings
from avpref.config.training_settings import SftSettings
from avpref.datasets.latents import AUDIO, LATENTS, STORE_VERSION, TrainingSample, text_id
from avpref.datasets.lists.sound_clips import SoundItem, read_sound_clips
from avpref.datasets.rows import QuarantineRow
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.flows.run import Run
from avpref.flows.shapes import drawn_shape
from avpref.flows.stages.shaped_passes import FinishedPasses, StagePass, run_by_shape
from avpref.flows.stages.training.token_budget import within_budget
from avpref.flows.stages.training.training_data import TrainingSource, write_training_set
from avpref.flows.workers.encode_worker import SftEncodeSpec
from avpref.flows.workers.generator import codec_identity
from avpref.flows.workers.prompt_sources import SftItem, reading_rules, shapes_of
from avpref.flows.workers.sound_encode_worker import SoundEncodeSpec
from avpref.media.geometry import ClipShape
from avpref.storage.latents.latent_units import ShardImporter

SFT_CLIPS, SFT_SOUND = "sft_clips", "sft_sound"


def write_clips(run: Run, settings: SftSettings, path: Path) -> tuple[str, list[QuarantineRow], tuple[ItemCounts, ...]]:
    """Encode the SFT clips and their texts and seal the training set; returns its fingerprint, the rows of what was left out, counts.

    A clip that cannot be read or fits no forward pass is left out, with the reason. Raises InputError where no clip is left.
    """
    return _write(run, settings, path, _encode_clips(run))


def write_sound(run: Run, settings: SftSettings, path: Path) -> tuple[str, list[QuarantineRow], tuple[ItemCounts, ...]]:
    """As :func:`write_clips`, of the sound of the recordings that ``settings.audio_clips`` lists."""
    seed, rules = run.settings.run.seed, reading_rules(run.settings.clip)
    items, refused = read_sound_clips(Path(settings.audio_clips), shapes_of(run.settings), seed, rules)
    rows = [QuarantineRow(row.file, SFT_SOUND, "Refused", f"line {row.line}: {row.reason}", 1) for row in refused]
    fingerprint, dropped, counts = _write(run, settings, path, _encode_sound(run, items))
    return fingerprint, [*rows, *dropped], counts


def _write(
    run: Run, settings: SftSettings, path: Path, encoded: FinishedPasses[SftItem] | FinishedPasses[SoundItem]
) -> tuple[str, list[QuarantineRow], tuple[ItemCounts, ...]]:
    index, quarantined = run.units(LATENTS).read(encoded.units)
    samples, dropped = within_budget(run, _samples(index), settings.loop, "sft")
    fingerprint, text_counts = write_training_set(run, path, TrainingSource("clips", samples, index))
    return fingerprint, [*quarantined, *dropped], (*encoded.counts, *text_counts)


def _encode_clips(run: Run) -> FinishedPasses[SftItem]:
    """Store the latents of the SFT clips. The clip of a prompt has the prompt's shape, another one a drawn shape."""
    kind, seed = run.settings.prompts.kind, run.settings.run.seed
    files = run.units(LATENTS)

    def shape_of(item: SftItem) -> ClipShape:
        return drawn_shape(run.settings, item.item_id) if item.prompt is None else run.shape_of(item.prompt.prompt_id)

    def pass_of(settings: Settings, members: Sequence[SftItem]) -> StagePass[SftItem]:
        clip = settings.clip.model_dump(mode="json")
        fingerprint = run.fingerprint(SFT_CLIPS, STORE_VERSION, kind, clip, codec_identity(settings), seed)
        return StagePass(
            plan_stage(SFT_CLIPS, "clips", fingerprint, [[item] for item in members], settings.run),
            files,
            SftEncodeSpec(run.files, settings, files),
            Reuse(files, run.files, run.siblings, "sample_id", importer=ShardImporter(run.files)),
        )

    return run_by_shape(run, run.sft_items, shape_of, pass_of)


def _encode_sound(run: Run, items: Sequence[SoundItem]) -> FinishedPasses[SoundItem]:
    """Store the latents of windows of sound."""
    files = run.units(LATENTS)

    def pass_of(settings: Settings, members: Sequence[SoundItem]) -> StagePass[SoundItem]:
        fingerprint = run.fingerprint(SFT_SOUND, STORE_VERSION, codec_identity(settings), settings.clip.audio_track)
        return StagePass(
            plan_stage(SFT_SOUND, "clips", fingerprint, [[item] for item in members], settings.run),
            files,
            SoundEncodeSpec(run.files, settings, files),
            Reuse(files, run.files, run.siblings, "sample_id", importer=ShardImporter(run.files)),
        )

    return run_by_shape(run, items, lambda item: item.shape, pass_of)


def _samples(rows: pa.Table) -> list[TrainingSample]:
    """The clips of an index as training samples, in its order."""
    own = rows.filter(pc.equal(rows["part"], AUDIO)).to_pylist()
    size = ("num_frames", "height_px", "width_px")
    return [
        TrainingSample(row["sample_id"], row["sample_id"], "", text_id(row["text"]), *(row[name] for name in size))
        for row in own
    ]
