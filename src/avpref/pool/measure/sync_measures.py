"""Delay of the sound against the picture, from onsets and motion: the curves of the signal scorers without the published AV-Align.

AV-Align needs the flow of every frame at its own size, which costs seconds per clip; these curves need 32 rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from avpref.domain import OWN_TERMS, PICTURE_AND_SOUND, Dimension, Metric, Score
from avpref.identity import digest
from avpref.rewards.protocol import ScorableClip, measured, skipped
from avpref.rewards.signals.av_align import best_lag, motion_curve, sound_curve
from avpref.rewards.signals.motion import fastest_share_px, small_flow
from avpref.rewards.signals.onsets import mel_power, onset_strength_from_mel
from avpref.rewards.signals.signals import NO_MOTION, NO_ONSET
from avpref.rewards.validity import ValidityRules, skip_reason

VERSION = 1
RULES = ValidityRules(min_frames=3)
METRICS = (
    Metric("sync_lag_s", "s, positive if the sound is late", False, Dimension.AV, PICTURE_AND_SOUND),
    Metric("sync_error_s", "s", False, Dimension.AV, PICTURE_AND_SOUND),
    Metric("sync_correlation", "correlation", True, Dimension.AV, PICTURE_AND_SOUND),
)


class SyncMeasures:
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`.

    ``sync_error_s`` is the magnitude of the lag, and ``sync_correlation`` says how far the lag can be trusted.
    """

    metrics, terms = METRICS, OWN_TERMS

    @property
    def fingerprint(self) -> str:
        """Hash of this file's version and of the validity rules."""
        return digest("sync measures", VERSION, repr(RULES))

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [self._scores(clip) for clip in clips]

    def _scores(self, clip: ScorableClip) -> list[Score]:
        media, reason = clip.clip, skip_reason(clip.clip, Dimension.AV, RULES)
        if not reason:
            assert media.frames is not None and media.audio is not None
            picture = motion_curve(fastest_share_px(small_flow(media.frames)), media.fps_hz, media.duration_s)
            strength = onset_strength_from_mel(mel_power(media.audio, media.sample_rate_hz))
            sound = sound_curve(strength, media.sample_rate_hz, media.duration_s)
            reason = NO_MOTION if picture is None else NO_ONSET if sound is None else ""
        if reason:
            return [skipped(clip.candidate_id, metric, reason) for metric in METRICS]
        assert picture is not None and sound is not None
        lag = best_lag(sound, picture)
        values = (lag.lag_s, abs(lag.lag_s), lag.correlation)
        return [measured(clip.candidate_id, metric, value) for metric, value in zip(METRICS, values, strict=True)]
