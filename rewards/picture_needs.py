"""The size at which pictures are kept for scorers.

Every scorer reduces pictures before its network sees them. A window whose pictures fit into :data:`KEPT_BYTES` is kept at its own size,
so that each scorer resizes it exactly as published. Pictures of a larger window are reduced while they are decoded, to the
largest size that any scorer asks for. The rule does not depend on the scorers of a job, so neither does a score.
"""

from __future__ import annotations

from avpref.media.geometry import BoundedSize

KEPT_BYTES = 256 << 20
"""Size of the pictures of a window, as RGB, up to which they are kept as they are: 1280 x 720 for 97 frames, for example."""
LARGEST_AREA_PX = 200_704
"""Pixels of the largest input, that of VideoAlign."""
LARGEST_SIDE_PX = 256
"""Short side of the largest square or side that the other scorers ask for: 224 pixels, and 256 for the signal scorers."""

SCORED_SIZE = BoundedSize(KEPT_BYTES, LARGEST_AREA_PX, LARGEST_SIDE_PX)
