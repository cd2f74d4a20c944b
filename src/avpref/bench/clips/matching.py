"""Which clip belongs to which prompt, and which reference clip to which generated one.

With a list of prompts, its rows are the samples: a generated clip is the one that the column ``pred_video_path`` names, or
``sample_0000`` (the row's number), or the name of the row's ground truth. Without one, every clip is a sample under its own name. A clip
that belongs to no row, and a row without a clip, are reported and never replaced by another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, eq=False)
class _Index:
    """The clips of a folder by name: with and without the folders in it. ``lost`` are names that stand for several files."""

    root: Path
    by_name: Mapping[str, Sequence[ClipFile]]
    by_path: Mapping[Path, ClipFile]
    lost: Mapping[str, str]

    def named(self, name: str) -> tuple[ClipFile | None, str]:
        """The clip of a name, or the reason why there is none."""
        clips = self.by_name.get(name, ())
        if name in self.lost:
            return None, self.lost[name]
        if len(clips) > 1:
            return None, f"duplicate name: {', '.join(clip.key for clip in clips)}"
        return (clips[0], "") if clips else (None, f"missing: no clip named {name}")

    def knows(self, name: str) -> bool:
        """Whether a file has the name."""
        return name in self.by_name or name in self.lost


def _index(folder: ClipFolder) -> _Index:
    by_name: dict[str, list[ClipFile]] = defaultdict(list)
    for clip in folder.clips:
        for name in dict.fromkeys((clip.key, PurePosixPath(clip.key).name)):
            by_name[name].append(clip)
    by_path = {path: clip for clip in folder.clips for path in (clip.video, clip.sound) if path}
    return _Index(folder.root, by_name, by_path, {entry.key: entry.reason for entry in folder.lost})


def _matched(folder: ClipFolder, prompts: PromptList, role: str) -> MatchedSet:
    """Clips are named in one way throughout: by the row's number, or as its ground truth; the first way that any row confirms."""
    index = _index(folder)
    ways = (_stem, _number) if role == "reference" else (_number, _stem)
    way = next((way for way in ways if any(index.knows(way(row)) for row in prompts.rows)), ways[0])
    samples: list[Sample] = []
    lost: list[LostClip] = []
    for row in prompts.rows:
        clip, reason = _clip_of_row(index, row, way(row), role)
        if clip is None:
            lost.append(LostClip(row.key, reason))
        else:
            samples.append(Sample(row.key, clip, row.text, row.sound_text, row.labels))
    if not samples:
        names = ", ".join(dict.fromkeys(way(prompts.rows[0]) for way in ways))
        fix = "name the clips sample_0000, sample_0001, … in the order of the rows"
        raise InputError(f"{folder.root}: no {role} clip belongs to a row of {prompts.path}", f"names as {names}", fix)
    used = {sample.clip.key for sample in samples}
    expected = {way(row) for row in prompts.rows}
    lost += [LostClip(clip.key, "no row of the prompts names it") for clip in folder.clips if clip.key not in used]
    lost += [entry for entry in folder.lost if entry.key not in expected]
    return MatchedSet(tuple(samples), tuple(lost))


def _number(row: PromptRow) -> str:
    """The row's number as JavisBench names its predictions."""
    return row.key


def _stem(row: PromptRow) -> str:
    """The name of the row's ground truth without folders and suffix; the row's number where there is none."""
    return PurePosixPath(row.path.replace("\\", "/")).stem or row.key


def _clip_of_row(index: _Index, row: PromptRow, name: str, role: str) -> tuple[ClipFile | None, str]:
    """The row's clip, or the reason why there is none. A row that names its prediction has that file or none."""
    if row.fault:
        return None, row.fault
    if role == "reference" or not row.predicted_video:
        return index.named(name)
    path, sound = (_located(index.root, file) for file in (row.predicted_video, row.predicted_sound))
    if path is None:
        return None, f"missing: {row.predicted_video}"
    own = index.by_path.get(path)
    return ClipFile(own.key if own else row.key, path, sound or (own.sound if own else None)), ""


def _located(root: Path, name: str) -> Path | None:
    path = root / name
    return path if name and path.is_file() else None
