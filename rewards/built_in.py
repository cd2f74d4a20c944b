"""Built-in scorers that are scorer classes: the name in ``scoring.scorers`` and the class.

A class is imported only where a configuration names it. It keeps the contract of :mod:`avpref.rewards.outside.declaration` and has
the attribute ``fingerprint``, because the sources of this package change for other reasons than its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

BUILT_IN_CLASSES: Mapping[str, str] = {
    "cavp_score": "avpref.rewards.cavp.cavp_score:CavpScore",
    "clip_score": "avpref.rewards.clip.clip_score:ClipScore",
    "funasr": "avpref.rewards.libraries.funasr_speech:FunasrSpeech",
    "imagebind_sliding": "avpref.rewards.imagebind.imagebind_sliding:ImageBindSliding",
    "aesthetics": "avpref.rewards.aesthetics.aesthetics:Aesthetics",
    "optical_flow": "avpref.rewards.libraries.optical_flow:OpticalFlow",
    "reward_service": "avpref.rewards.service.reward_service:RewardService",
    "vlm_judge": "avpref.rewards.service.vlm_judge:VlmJudge",
}
"""``package.module:Class`` by name."""
