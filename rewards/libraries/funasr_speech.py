"""Speech in a clip by FunASR: the share of FSMN-VAD, and the verdict of SenseVoice by which JavisDiT removes clips with speech.

The published filter keeps a clip if SenseVoiceSmall's text for the whole sound contains ``<|nospeech|>``: its number is 0 then and 1
otherwise. FSMN-VAD gives stretches of speech; their share of the sound is a number as ``speech_share`` of Silero VAD. Both networks
are folders of one's own; the library is optional and imported where the scorer loads; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from avpref.domain import SOUND, Dimension, Metric, Score, Terms
from avpref.identity import digest
from avpref.rewards.learned.mono16k import mono_16k
from avpref.rewards.libraries.funasr_files import FILTER_BANKS, FUNASR, NAME, FunasrFiles
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import DEFAULT_RULES, score_valid

if TYPE_CHECKING:
    from avpref.rewards.libraries.funasr_networks import FunasrNetwork

VERSION = 1
SHARE = Metric("funasr_speech_share", "share of the clip", True, Dimension.AUDIO, SOUND)
VERDICT = Metric("sense_voice_speech", "0 or 1", True, Dimension.AUDIO, SOUND)
NO_SPEECH = "<|nospeech|>"
SAMPLES_PER_MS = 16


class FunasrSpeech:
    """The scorer ``funasr``; see :mod:`avpref.rewards.outside.declaration`. Its direction means more speech, not better speech."""

    terms: ClassVar[Terms] = Terms("that of the models", commercial_use=False)
    has_canary: ClassVar[bool] = True
    not_of_scores: ClassVar[tuple[str, ...]] = ("vad", "sense_voice")

    class Settings(BaseModel):
        """Folders of FSMN-VAD (``vad``) and of SenseVoiceSmall (``sense_voice``), one of them or both; their bytes identify them."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        vad: str = ""
        sense_voice: str = ""

        @model_validator(mode="after")
        def _has_a_folder(self) -> FunasrSpeech.Settings:
            if not self.vad and not self.sense_voice:
                raise ValueError("a folder in vad, in sense_voice, or in both")
            return self

    def __init__(self, settings: Settings) -> None:
        folders = (
            (SHARE, "vad", "FsmnVADStreaming", settings.vad),
            (VERDICT, "sense_voice", "SenseVoiceSmall", settings.sense_voice),
        )
        self._files = {
            metric: FunasrFiles(setting, model_class, Path(folder))
            for metric, setting, model_class, folder in folders
            if folder
        }
        for files in self._files.values():
            files.paths()
        FUNASR.folder(NAME)
        self._networks: dict[Metric, FunasrNetwork] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """One metric for each of the two folders that is named."""
        return tuple(self._files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of this file's version, of FunASR's and its filter banks', of the rules, and of the bytes of both folders' files."""
        identities = [(files.setting, files.identity()) for files in self._files.values()]
        versions = [package.version() for package in (FUNASR, *FILTER_BANKS)]
        return digest(NAME, VERSION, versions, identities, repr(DEFAULT_RULES))

    def load(self, device: str) -> None:
        """Load the networks on ``device``. Raises InputError where FunASR does not import or a folder has another model."""
        from avpref.rewards.libraries.funasr_networks import open_funasr_network

        self._networks = {metric: open_funasr_network(files, device) for metric, files in self._files.items()}

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [score_valid(clip, self.metrics, DEFAULT_RULES, self._values) for clip in clips]

    def _values(self, clip: ScorableClip, metrics: Sequence[Metric]) -> Mapping[str, float]:
        assert self._networks, "load comes before score"
        sound = mono_16k(clip.clip)
        values = {}
        for metric in metrics:
            network = self._networks[metric]
            if metric is SHARE:
                values[metric.name] = covered_share(network.segments_ms(sound), len(sound) / SAMPLES_PER_MS)
            else:
                values[metric.name] = float(NO_SPEECH not in network.text(sound))
        return values


def covered_share(segments_ms: Sequence[tuple[int, int]], length_ms: float) -> float:
    """Share of ``length_ms`` that segments (start, end) cover together; what lies beyond the end does not count."""
    covered, reached = 0.0, 0.0
    for start, end in sorted(segments_ms):
        last = min(float(end), length_ms)
        covered += max(0.0, last - max(float(start), reached))
        reached = max(reached, last)
    return covered / length_ms
