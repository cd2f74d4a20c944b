"""The learned scorers whose weights are parts of Python packages, by name.

A source describes its scorer without loading the network, so a configuration is checked where the packages are absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from avpref.domain import Metric, Terms
from avpref.rewards.learned import faces, screen_text, shot_cuts, sound_classes, speech, speech_quality, unsafe_frames
from avpref.rewards.learned.packaged_weights import PackagedWeights
from avpref.rewards.protocol import Scorer


@dataclass(frozen=True)
class LearnedScorer:
    """A learned scorer before it is loaded; see :class:`avpref.flows.workers.scorers.ScorerSource`. Picklable.

    ``weights`` are the files that it reads, ``trained_on`` says which data its network has seen.
    """

    name: str
    metrics: tuple[Metric, ...]
    terms: Terms
    weights: tuple[PackagedWeights, ...]
    trained_on: str
    load: Callable[[], Scorer]
    compute_fingerprint: Callable[[], str]
    is_network: bool = False
    keeps_embeddings: bool = False
    uses_device: bool = False
    is_isolated: bool = False
    has_canary: bool = False

    @property
    def slug(self) -> str:
        """The scorer's name in settings, stage names and folders."""
        return self.name

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the scores depend on, except the clip. Raises InputError where a package is absent."""
        return self.compute_fingerprint()

    def open(self, device: str = "cpu") -> Scorer:
        """Load the network, which runs on the CPU in one thread. Raises InputError where a package is absent."""
        return self.load()


_SPEECH = LearnedScorer(
    speech.NAME,
    speech.METRICS,
    speech.TERMS,
    (speech.WEIGHTS,),
    "speech in thousands of languages, against noise, music and silence",
    speech.SpeechScorer,
    speech.speech_fingerprint,
)
_SPEECH_QUALITY = LearnedScorer(
    speech_quality.NAME,
    speech_quality.METRICS,
    speech_quality.TERMS,
    (speech_quality.P835, speech_quality.P808, speech.WEIGHTS),
    "rated speech after noise suppression",
    speech_quality.SpeechQualityScorer,
    speech_quality.speech_quality_fingerprint,
)
_SOUND_CLASSES = LearnedScorer(
    sound_classes.NAME,
    sound_classes.METRICS,
    sound_classes.TERMS,
    (sound_classes.WEIGHTS,),
    "recordings labelled as speech, singing and music",
    sound_classes.SoundClassesScorer,
    sound_classes.sound_classes_fingerprint,
)
_SHOT_CUTS = LearnedScorer(
    shot_cuts.NAME,
    shot_cuts.METRICS,
    shot_cuts.TERMS,
    (shot_cuts.WEIGHTS,),
    "television and film, with real and synthetic transitions",
    shot_cuts.ShotCutsScorer,
    shot_cuts.shot_cuts_fingerprint,
)
_SCREEN_TEXT = LearnedScorer(
    screen_text.NAME,
    screen_text.METRICS,
    screen_text.TERMS,
    (screen_text.DETECTION, screen_text.RECOGNITION),
    "Chinese and English text in documents and scenes",
    screen_text.ScreenTextScorer,
    screen_text.screen_text_fingerprint,
)
_UNSAFE_FRAMES = LearnedScorer(
    unsafe_frames.NAME,
    unsafe_frames.METRICS,
    unsafe_frames.TERMS,
    (unsafe_frames.WEIGHTS,),
    "photographs, for nudity",
    unsafe_frames.UnsafeFramesScorer,
    unsafe_frames.unsafe_frames_fingerprint,
)
_FACES = LearnedScorer(
    faces.NAME,
    faces.METRICS,
    faces.TERMS,
    (faces.WEIGHTS,),
    "photographs of people in everyday scenes (WIDER FACE)",
    faces.FacesScorer,
    faces.faces_fingerprint,
)
LEARNED = {
    source.name: source
    for source in (_SPEECH, _SPEECH_QUALITY, _SOUND_CLASSES, _SHOT_CUTS, _SCREEN_TEXT, _UNSAFE_FRAMES, _FACES)
}
"""All learned scorers by name, in the order of :data:`avpref.config.learned_names.MODULES_OF`."""
