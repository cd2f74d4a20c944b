"""The sets of a benchmark: samples whose files can be read, and everything that was lost, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.bench.clips.clip_files import (
    ClipFile,
    LostClip,
    ReadableClip,
    find_clips,
    odd_rates,
    read_all,
    set_warnings,
)
from avpref.bench.clips.matching import MatchedSet, Sample, generated_set, reference_set
from avpref.bench.clips.prompt_rows import PromptList, read_prompts
from avpref.bench.features.exported_features import SUFFIX, ExportedFeatures, read_features
from avpref.bench.features.parts import ClipIdentity
from avpref.bench.features.set_results import SampleClip
from avpref.errors import InputError
from avpref.media.reading_rules import ReadingRules


@dataclass(frozen=True, eq=False)
class ClipSet:
    """Samples in order, lost clips, and remarks on the whole set."""

    samples: tuple[SampleClip, ...]
    lost: tuple[LostClip, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class BenchSets:
    """The generated clips, the reference (clips, a file of features, or none), and the prompts."""

    generated: ClipSet
    reference: ClipSet | ExportedFeatures | None
    prompts: PromptList | None

    @property
    def has_sound_text(self) -> bool:
        """Whether sounds have prompts of their own."""
        return self.prompts is not None and self.prompts.has_sound_text

    @property
    def reference_clips(self) -> ClipSet:
        """The reference clips; an empty set where the reference is a file or absent."""
        return self.reference if isinstance(self.reference, ClipSet) else ClipSet(())


def read_sets(clips: Path, reference: Path | None, prompts: Path | None, rules: ReadingRules) -> BenchSets:
    """List and open everything that a benchmark names.

    Raises InputError where a folder has no clip, no clip belongs to a prompt, no clip can be read, or a file of features is broken.
    """
    prompt_list = None if prompts is None else read_prompts(prompts)
    generated = clip_set("generated", generated_set(find_clips(clips), prompt_list), rules)
    if reference is not None and reference.suffix == SUFFIX:
        return BenchSets(generated, read_features(reference), prompt_list)
    matched = _reference(reference, prompt_list)
    return BenchSets(generated, None if matched is None else clip_set("reference", matched, rules), prompt_list)


def clip_set(name: str, matched: MatchedSet, rules: ReadingRules) -> ClipSet:
    """The samples that can be read, with what was lost. Raises InputError where none can be read."""
    readable, unreadable = read_all([sample.clip for sample in matched.samples], rules)
    by_clip = {clip.file: clip for clip in readable}
    reason_of = {clip.key: clip.reason for clip in unreadable}
    remarks = odd_rates(readable)
    lost = [*matched.lost]
    samples = []
    for sample in matched.samples:
        clip = by_clip.get(sample.clip)
        if clip is None:
            lost.append(LostClip(sample.key, reason_of[sample.clip.key]))
        else:
            samples.append(_sample(sample, clip, remarks.get(sample.clip, "")))
    if not samples:
        reasons = "; ".join(sorted({f"{clip.key}: {clip.reason}" for clip in lost})[:3])
        raise InputError(
            f"no {name} clip can be used ({reasons})", "at least one readable clip", "copy the clips again"
        )
    return ClipSet(tuple(samples), tuple(lost), tuple(set_warnings(name, readable)))


def _sample(sample: Sample, clip: ReadableClip, remark: str) -> SampleClip:
    video, sound = (str(path.resolve()) if path else "" for path in (clip.file.video, clip.file.sound))
    identity = ClipIdentity(clip.content, sample.text, sample.sound_text)
    return SampleClip(sample.key, video, sound, identity, sample.labels, {**clip.facts, "remark": remark})


def _reference(folder: Path | None, prompts: PromptList | None) -> MatchedSet | None:
    if folder is not None:
        return _without_texts(reference_set(find_clips(folder), prompts))
    return None if prompts is None else _ground_truth(prompts)


def _without_texts(matched: MatchedSet) -> MatchedSet:
    """Reference clips have no text: no scorer judges them, and their features must not depend on one."""
    samples = tuple(Sample(sample.key, sample.clip, labels=sample.labels) for sample in matched.samples)
    return MatchedSet(samples, matched.lost)


def _ground_truth(prompts: PromptList) -> MatchedSet | None:
    """The clips that the prompts themselves name; None where none of them exists."""
    samples: list[Sample] = []
    lost: list[LostClip] = []
    root = prompts.path.parent
    for row in prompts.rows:
        path = root / row.path
        if not row.path or not path.is_file():
            lost.append(LostClip(row.key, f"missing: {row.path or 'no path'}"))
            continue
        sound = root / row.audio_path if row.audio_path and row.audio_path != row.path else None
        file = ClipFile(row.key, path, sound if sound is not None and sound.is_file() else None)
        samples.append(Sample(row.key, file, labels=row.labels))
    return MatchedSet(tuple(samples), tuple(lost)) if samples else None


def all_lost(sets: BenchSets) -> dict[str, list[dict[str, str]]]:
    """The lost clips of both sets, for JSON."""

    def rows(lost: Sequence[LostClip]) -> list[dict[str, str]]:
        return [{"key": clip.key, "reason": clip.reason} for clip in lost]

    return {"generated": rows(sets.generated.lost), "reference": rows(sets.reference_clips.lost)}
