"""Built-in scorers that are scorer classes: the name in ``scoring.scorers`` and the class.

A class is imported only where a configuration names it. It keeps the contract of :mod:`avpref.rewards.outside.declaration` and has
the attribute ``fingerprint``, because the sources of this package change for other reasons than its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

BUILT_IN_CLASSES: Mapping[str, str] = {
    "aesthetics": "avpref.rewards.aesthetics.aesthetics:Aesthetics",
    "reward_service": "avpref.rewards.service.reward_service:RewardService",
    "vlm_judge": "avpref.rewards.service.vlm_judge:VlmJudge",
}
"""``package.module:Class`` by name."""
