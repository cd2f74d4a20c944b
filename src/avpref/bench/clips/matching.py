"""Which clip belongs to which prompt, and which reference clip to which generated one.

With a list of prompts, its rows are the samples: a generated clip is the one that the column ``pred_video_path`` names, or
``sample_0000`` (the row's number), or the name of the row's ground truth. Without one, every clip is a sample under its own name. A clip
that belongs to no row, and a row without a clip, are reported and never replaced by another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from avpref.bench.clips.clip_files import ClipFile, ClipFolder, LostClip
from avpref.bench.clips.prompt_rows import Labels, PromptList, PromptRow
from avpref.errors import InputError


@dataclass(frozen=True)
class Sample:
    """A prompt with its clip. ``key`` names it in results and matches generated and reference clips."""

    key: str
    clip: ClipFile
    text: str = ""
    sound_text: str = ""
    labels: dict[str, Labels] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MatchedSet:
    """The samples of a set in order, and the clips and rows that take no part, with reasons."""

    samples: tuple[Sample, ...]
    lost: tuple[LostClip, ...]


def generated_set(folder: ClipFolder, prompts: PromptList | None) -> MatchedSet:
    """The generated clips. Raises InputError where no clip belongs to any prompt."""
    if prompts is None:
        return MatchedSet(tuple(Sample(clip.key, clip) for clip in folder.clips), folder.lost)
    return _matched(folder, prompts, "generated")


def reference_set(folder: ClipFolder, prompts: PromptList | None) -> MatchedSet:
    """The reference clips: those of the rows' ``path``, or of the rows' numbers. Raises InputError as :func:`generated_set`."""
    if prompts is None:
        return MatchedSet(tuple(Sample(clip.key, clip) for clip in folder.clips), folder.lost)
    return _matched(folder, prompts, "reference")


def _matched(folder: ClipFolder, prompts: PromptList, role: str) -> MatchedSet:
    by_path = {path: clip for clip in folder.clips for path in (clip.video, clip.sound) if path}
    by_key = {clip.key: clip for clip in folder.clips}
    by_stem: dict[str, list[ClipFile]] = defaultdict(list)
    for clip in folder.clips:
        by_stem[PurePosixPath(clip.key).name].append(clip)
    duplicate = {lost.key: lost.reason for lost in folder.lost}
    samples, lost, used = [], [], set()
    for row in prompts.rows:
        names = _names(row, role)
        own, reason = _clip_of_row(folder.root, row, names, (by_path, by_key, by_stem))
        if own is None:
            twice = next((duplicate[name] for name in names if name in duplicate), "")
            lost.append(LostClip(row.key, twice or reason))
            continue
        used.add(own.key)
        samples.append(Sample(row.key, own, row.text, row.sound_text, row.labels))
    unused = [clip.key for clip in folder.clips if clip.key not in used]
    lost += [LostClip(key, "no row of the prompts names it") for key in unused]
    lost += [
        entry for entry in folder.lost if entry.key not in {name for row in prompts.rows for name in _names(row, role)}
    ]
    if not samples:
        first = prompts.rows[0]
        expected = f"clips named as the rows: {', '.join(_names(first, role))}, …"
        fix = "name the clips sample_0000, sample_0001, … in the order of the rows"
        raise InputError(f"{folder.root}: no {role} clip belongs to a row of {prompts.path}", expected, fix)
    return MatchedSet(tuple(samples), tuple(lost))


def _names(row: PromptRow, role: str) -> list[str]:
    """Names under which the row's clip is looked for."""
    stem = PurePosixPath(row.path.replace("\\", "/")).stem if row.path else ""
    names = [stem, row.key] if role == "reference" else [row.key, stem]
    return [name for name in dict.fromkeys(names) if name]


Indices = tuple[dict[Path, ClipFile], dict[str, ClipFile], dict[str, list[ClipFile]]]


def _clip_of_row(root: Path, row: PromptRow, names: Sequence[str], indices: Indices) -> tuple[ClipFile | None, str]:
    """The row's clip, or the reason why there is none. A row that names a file has that file or none."""
    by_path, by_key, by_stem = indices
    if row.fault:
        return None, row.fault
    if row.predicted_video and row.key in names[:1]:
        path = _located(root, row.predicted_video)
        sound = _located(root, row.predicted_sound) if row.predicted_sound else None
        if path is None:
            return None, f"missing: {row.predicted_video}"
        own = by_path.get(path)
        return ClipFile(own.key if own else row.key, path, sound or (own.sound if own else None)), ""
    for name in names:
        if name in by_key:
            return by_key[name], ""
        candidates = by_stem.get(name, [])
        if len(candidates) > 1:
            return None, f"duplicate name: {', '.join(clip.key for clip in candidates)}"
        if candidates:
            return candidates[0], ""
    return None, f"missing: no clip named {' or '.join(names)}"


def _located(root: Path, name: str) -> Path | None:
    path = root / name
    return path if path.is_file() else None
