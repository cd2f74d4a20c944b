"""A window in which the recording has no sound is flagged in scores, refused on import and never a training clip."""

from __future__ import annotations

from pathlib import Path

import odd_recordings as odd
import pytest

from avpref.config.data_settings import ClipPrompts
from avpref.datasets.prompts.clips import ground_truth_clip, prompts
from avpref.domain import Dimension, Prompt, Split
from avpref.errors import MediaError
from avpref.identity import file_sha256
from avpref.media.geometry import ClipShape
from avpref.media.reading import probe, read_clip
from avpref.rewards.validity import DEFAULT_RULES, Flag, flags, skip_reason

SHAPE = ClipShape(num_frames=16, height_px=32, width_px=32, fps_hz=8.0, sample_rate_hz=16000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    odd.late_sound(folder / "late.mp4", 3.0)
    odd.late_sound(folder / "whole.mp4", 0.0)
    odd.write(folder / "early.mp4", odd.moving(48, seed=3), odd.noise(2.0, 3))
    odd.good(folder / "a.mp4", seed=1)
    odd.good(folder / "b.mp4", seed=2)
    return folder


@pytest.mark.parametrize(
    ("name", "start_s", "share"),
    [
        *(("late.mp4", 0.0, 0.0), ("late.mp4", 2.0, 0.5), ("late.mp4", 4.0, 1.0)),
        *(("early.mp4", 0.0, 1.0), ("early.mp4", 1.0, 0.5), ("early.mp4", 3.0, 0.0), ("whole.mp4", 0.0, 1.0)),
    ],
)
def test_the_share_of_a_window_that_has_sound(folder: Path, name: str, start_s: float, share: float) -> None:
    clip = read_clip(folder / name, SHAPE, start_s=start_s)
    assert clip.has_audio and clip.sound_share == pytest.approx(share, abs=0.04)
    is_without = share == 0.0
    assert (Flag.NO_SOUND in flags(clip, DEFAULT_RULES)) == is_without and Flag.SILENT not in flags(clip, DEFAULT_RULES)
    assert ("no sound in this window" in skip_reason(clip, Dimension.AUDIO, DEFAULT_RULES)) == is_without


def test_the_start_of_the_sound_is_known_from_the_header(folder: Path) -> None:
    starts = {name: probe(folder / name).audio for name in ("late.mp4", "whole.mp4")}
    assert starts["late.mp4"] is not None and starts["late.mp4"].start_s == pytest.approx(3.0, abs=0.1)
    assert starts["whole.mp4"] is not None and starts["whole.mp4"].start_s == pytest.approx(0.0, abs=0.1)


def test_import_uses_the_windows_that_have_sound(folder: Path) -> None:
    table = folder / "clips.csv"
    table.write_text("file,text\nlate.mp4,late\na.mp4,a\nb.mp4,b\nearly.mp4,early\n")
    made, refused = prompts(ClipPrompts(clips=str(table), num_evaluation_clips=8), [SHAPE], 0)
    starts = {prompt.ground_truth_start_s for prompt in made if prompt.text == "late"}
    assert starts == {4.0}
    assert {prompt.ground_truth_start_s for prompt in made if prompt.text == "early"} == {0.0}
    ((line, reason),) = [(row.line, row.reason) for row in refused]
    assert (
        line == 2
        and reason.startswith("no sound before 2.9")
        and reason.endswith("the windows from 0, 2 s are not used")
    )


@pytest.mark.parametrize(("start_s", "is_refused"), [(0.0, True), (2.0, True), (4.0, False)])
def test_a_training_clip_has_sound(folder: Path, start_s: float, is_refused: bool) -> None:
    path = folder / "late.mp4"
    prompt = Prompt(
        "p", "late", Split.TRAIN, "", "", str(path), ground_truth_start_s=start_s, ground_truth_sha256=file_sha256(path)
    )
    if not is_refused:
        assert ground_truth_clip(prompt, SHAPE).sound_share > 0.9
        return
    with pytest.raises(MediaError, match=f"no sound in .* of the 2 s from {start_s:g} s"):
        ground_truth_clip(prompt, SHAPE)
