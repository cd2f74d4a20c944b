"""The parts of a benchmark's work on a clip: networks that give features, and scorers that give numbers.

Each part names, by its fingerprint and by the key of a clip, everything that its results depend on, so that a result is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from avpref.bench.networks.network_sources import NetworkSource
from avpref.domain import Metric, MetricInput, Terms
from avpref.identity import digest
from avpref.media.reading import DecodedClip


class ScorerSource(Protocol):
    """A scorer that is not loaded yet; the sources of scorers that a configuration names are of this kind."""

    @property
    def name(self) -> str:
        """The scorer's name."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that the scorer computes."""
        ...

    @property
    def terms(self) -> Terms:
        """Licence of the numbers, and whether they are meaningful."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the numbers depend on, except the clip."""
        ...

    def open(self, device: str) -> Any:
        """Load the scorer on ``device``."""
        ...


@dataclass(frozen=True)
class ClipIdentity:
    """The bytes of a clip (a hash), and its two texts."""

    content: str
    text: str
    sound_text: str


KeyKind = Literal["content", "text", "sound_text"]
"""What the results of a clip depend on: its bytes alone, or also the prompt of its picture or of its sound."""


def clip_key(clip: ClipIdentity, depends_on: KeyKind) -> str:
    """Identity of a clip as far as results depend on it."""
    texts = {"content": None, "text": clip.text, "sound_text": clip.sound_text}
    return digest("bench key", clip.content, depends_on != "content", texts[depends_on], size=32)


@dataclass(frozen=True)
class NetworkPart:
    """A network; its features depend on the bytes of a clip alone."""

    source: NetworkSource

    @property
    def name(self) -> str:
        """The network's name in the preset."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """See :class:`avpref.bench.networks.network_sources.NetworkSource`."""
        return self.source.fingerprint

    @property
    def terms(self) -> Terms:
        """Licence of the weights, and whether features are meaningful."""
        return self.source.terms

    @property
    def depends_on(self) -> KeyKind:
        """The bytes of a clip alone."""
        return "content"


@dataclass(frozen=True)
class ScorerPart:
    """A scorer under its name in the preset, the text that it receives, and the seconds of a clip that it sees (0: all).

    ``has_librosa_sound``: it receives sound at 48 kHz by librosa 0.9.2's resampler.
    """

    name: str
    source: ScorerSource
    text: Literal["picture", "sound"] = "picture"
    cut_s: float = 0.0
    has_librosa_sound: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of the scorer's own fingerprint, of the part of a clip that it sees and of the text that it reads."""
        return digest("bench scorer", self.source.fingerprint, self.cut_s, self.depends_on, self.has_librosa_sound)

    @property
    def terms(self) -> Terms:
        """Licence of the numbers, and whether they are meaningful."""
        return self.source.terms

    @property
    def reads_text(self) -> bool:
        """Whether a metric depends on the prompt."""
        return any(MetricInput.PROMPT in metric.inputs for metric in self.source.metrics)

    def text_of(self, clip: ClipIdentity) -> str:
        """The prompt that the scorer receives."""
        return clip.text if self.text == "picture" else clip.sound_text

    @property
    def depends_on(self) -> KeyKind:
        """The bytes of a clip, and the text where a metric reads it."""
        if not self.reads_text:
            return "content"
        return "text" if self.text == "picture" else "sound_text"


Part = NetworkPart | ScorerPart


@dataclass(frozen=True)
class FeatureItem:
    """A clip to work on: its files, identity, and the names of the parts that lack results of it."""

    video: str
    sound: str
    identity: ClipIdentity
    parts: tuple[str, ...]

    @property
    def item_id(self) -> str:
        """Identity of the clip with its texts."""
        identity = self.identity
        return "b" + digest("bench item", identity.content, identity.text, identity.sound_text)


def cut_clip(clip: DecodedClip, cut_s: float) -> DecodedClip:
    """The first ``cut_s`` seconds of ``clip``: frames that begin within them, and int(``cut_s`` · rate) samples; 0: all of it."""
    if not cut_s or clip.duration_s <= cut_s:
        return clip
    num_frames, num_samples = math.ceil(cut_s * clip.fps_hz - 1e-6), int(cut_s * clip.sample_rate_hz)
    return replace(
        clip,
        frames=None if clip.frames is None else clip.frames[:num_frames],
        audio=None if clip.audio is None else clip.audio[:num_samples],
        channels=None if clip.channels is None else clip.channels[:, :num_samples],
        duration_s=cut_s,
    )


def by_name(parts: Sequence[Part]) -> Mapping[str, Part]:
    """The parts by name."""
    return {part.name: part for part in parts}
