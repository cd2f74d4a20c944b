"""The clips of a folder: pictures, and the sound in the same file or in a sound file of the same name beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from avpref.errors import InputError, MediaError
from avpref.identity import digest, file_sha256
from avpref.media.reading import probe
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".mpg", ".mpeg"})
SOUND_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg"})


@dataclass(frozen=True)
class ClipFile:
    """A clip: ``key`` is its path in the folder without suffix. ``sound`` is the file beside it, whose sound replaces its own."""

    key: str
    video: Path | None
    sound: Path | None

    @property
    def shown(self) -> Path:
        """The file that names the clip to people."""
        path = self.video or self.sound
        assert path is not None
        return path


@dataclass(frozen=True)
class LostClip:
    """A clip that takes no part, with the reason."""

    key: str
    reason: str


@dataclass(frozen=True)
class ReadableClip:
    """A clip whose headers can be read: properties, and the identity of its bytes."""

    file: ClipFile
    content: str
    duration_s: float
    fps_hz: float
    sample_rate_hz: int

    @cached_property
    def facts(self) -> dict[str, object]:
        """Frame rate, sample rate and duration, for rows."""
        rates = {"fps_hz": round(self.fps_hz, 3), "sample_rate_hz": self.sample_rate_hz}
        return {**rates, "duration_s": round(self.duration_s, 3)}


@dataclass(frozen=True)
class ClipFolder:
    """The clips of a folder by key, in order of keys, and the names that stand for several files."""

    root: Path
    clips: tuple[ClipFile, ...]
    lost: tuple[LostClip, ...]


def find_clips(folder: Path) -> ClipFolder:
    """The clips of ``folder`` and of the folders in it; hidden files are left out.

    Two videos, or two sounds, of one name make that name a lost clip. Raises InputError where there is no folder, or no clip in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", "a folder of clips", "name the folder that holds the clips")
    videos, sounds = _by_key(folder, VIDEO_SUFFIXES), _by_key(folder, SOUND_SUFFIXES)
    clips, lost = [], []
    for key in sorted(videos | sounds):
        own_videos, own_sounds = videos.get(key, []), sounds.get(key, [])
        twice = [paths for paths in (own_videos, own_sounds) if len(paths) > 1]
        if twice:
            names = ", ".join(path.name for path in twice[0])
            lost.append(LostClip(key, f"duplicate name: {names}"))
        else:
            clips.append(ClipFile(key, next(iter(own_videos), None), next(iter(own_sounds), None)))
    if not clips and not lost:
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES | SOUND_SUFFIXES))
        raise InputError(
            f"{folder} holds no clip", f"files ending in {suffixes}", "name the folder that holds the clips"
        )
    return ClipFolder(folder, tuple(clips), tuple(lost))


def read_headers(clip: ClipFile, rules: ReadingRules = DEFAULT_READING) -> ReadableClip:
    """Properties and identity of a clip. Raises MediaError for files that cannot be read or have neither track."""
    infos = [probe(path, rules) for path in (clip.video, clip.sound) if path is not None]
    hashes = [file_sha256(path) if path else "" for path in (clip.video, clip.sound)]
    picture = next((info.video for info in infos if info.video), None)
    sound = next((info.audio for info in reversed(infos) if info.audio), None)
    if picture is None and sound is None:
        raise MediaError(f"{clip.shown.name}: neither picture nor sound", "a clip", "leave the file out")
    return ReadableClip(
        clip,
        digest("bench clip", hashes, size=32),
        max(info.duration_s for info in infos),
        picture.fps_hz if picture else 0.0,
        sound.sample_rate_hz if sound else 0,
    )


def read_all(
    clips: Sequence[ClipFile], rules: ReadingRules = DEFAULT_READING
) -> tuple[list[ReadableClip], list[LostClip]]:
    """The readable clips in order, and those that cannot be read with the reason."""
    readable, lost = [], []
    for clip in clips:
        try:
            readable.append(read_headers(clip, rules))
        except MediaError as error:
            lost.append(LostClip(clip.key, f"unreadable: {error.found}"))
        except OSError as error:
            lost.append(LostClip(clip.key, f"unreadable: {error.strerror or error}"))
    return readable, lost


def odd_rates(clips: Sequence[ReadableClip]) -> dict[ClipFile, str]:
    """A remark for every clip whose frame rate or sample rate is not that of most clips of its set."""
    remarks: dict[ClipFile, list[str]] = defaultdict(list)
    for noun, rate_of in (("frame rate", _fps_text), ("sample rate", _rate_text)):
        counts = Counter(rate_of(clip) for clip in clips if rate_of(clip))
        usual = counts.most_common(1)[0][0] if counts else ""
        for clip in clips:
            if rate_of(clip) not in ("", usual):
                remarks[clip.file].append(f"{noun} {rate_of(clip)} Hz where most have {usual} Hz")
    return {file: ", ".join(texts) for file, texts in remarks.items()}


def _fps_text(clip: ReadableClip) -> str:
    return f"{clip.fps_hz:.3f}".rstrip("0").rstrip(".") if clip.fps_hz else ""


def _rate_text(clip: ReadableClip) -> str:
    return str(clip.sample_rate_hz or "")


def set_warnings(name: str, clips: Sequence[ReadableClip]) -> list[str]:
    """Remarks on a set whose clips differ in what numbers depend on: frame rates, sample rates, or equal bytes twice."""
    warnings = []
    for noun, values in (
        ("frame rates", [_fps_text(clip) for clip in clips if clip.fps_hz]),
        ("sample rates", [_rate_text(clip) for clip in clips if clip.sample_rate_hz]),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            listed = ", ".join(f"{count} at {value} Hz" for value, count in counts.most_common())
            warnings.append(
                f"{name}: mixed {noun} ({listed}); scores that depend on them are not comparable between clips"
            )
    same: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        same[clip.content].append(clip.file.key)
    warnings += [f"{name}: {' and '.join(keys)} are the same bytes" for keys in same.values() if len(keys) > 1]
    return warnings


def _by_key(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in suffixes and not is_hidden and path.is_file():
            paths[relative.with_suffix("").as_posix()].append(path)
    return paths
