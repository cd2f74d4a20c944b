"""Data files: what is written is read, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avpref.errors import InputError
from avpref.trainer.batches import ClipSet, PairSet, load_clip_set, load_pair_set, save_clip_set, save_pair_set


def same(first: ClipSet | PairSet, second: ClipSet | PairSet) -> bool:
    for field in fields(first):
        mine, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(mine, torch.Tensor):
            if not (torch.equal(mine, theirs) and mine.dtype == theirs.dtype):
                return False
        elif mine != theirs:
            return False
    return True


def test_clip_set_round_trip(tmp_path: Path, make_clips: Callable[..., ClipSet]) -> None:
    clips = make_clips(5)
    save_clip_set(tmp_path / "c.safetensors", clips)
    assert same(load_clip_set(tmp_path / "c.safetensors"), clips)


def test_one_modality_and_half_precision(tmp_path: Path, make_clips: Callable[..., ClipSet]) -> None:
    clips = make_clips(5)
    assert clips.audio is not None
    clips = replace(clips, video=None, audio=clips.audio.bfloat16(), negative_text=None, negative_mask=None)
    save_clip_set(tmp_path / "c.safetensors", clips)
    assert same(load_clip_set(tmp_path / "c.safetensors"), clips)


@pytest.mark.parametrize("num_delays", [0, 3])
def test_pair_set_round_trip(tmp_path: Path, make_pairs: Callable[..., PairSet], num_delays: int) -> None:
    pairs = make_pairs(4, num_delays=num_delays)
    save_pair_set(tmp_path / "p.safetensors", pairs)
    assert same(load_pair_set(tmp_path / "p.safetensors"), pairs)


def test_writing_twice_gives_equal_bytes(tmp_path: Path, make_pairs: Callable[..., PairSet]) -> None:
    for name in "ab":
        save_pair_set(tmp_path / name, make_pairs(4))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_files_are_refused(tmp_path: Path, make_clips: Callable[..., ClipSet]) -> None:
    save_clip_set(tmp_path / "clips", make_clips(4))
    (tmp_path / "torn").write_bytes((tmp_path / "clips").read_bytes()[:100])
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(InputError, match="ClipSet of schema"):
        load_pair_set(tmp_path / "clips")
    for name in ("torn", "other", "absent"):
        with pytest.raises(InputError):
            load_clip_set(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: replace(clips, ids=("a", "a", "b", "c")),
        lambda clips: replace(clips, ids=("a", "b")),
        lambda clips: replace(clips, video=None, audio=None),
        lambda clips: replace(clips, audio=torch.zeros(4, 2, 2)),
        lambda clips: replace(clips, text_index=torch.tensor([0, 0, 0, 9])),
        lambda clips: replace(clips, text_index=torch.tensor([0, 0, 0])),
        lambda clips: replace(clips, text_mask=torch.ones(1, 1)),
        lambda clips: replace(clips, negative_mask=None),
        lambda clips: replace(clips, negative_text=torch.zeros(1, 9, 9)),
    ],
)
def test_clip_sets_that_do_not_fit(make_clips: Callable[..., ClipSet], change: Callable[[ClipSet], ClipSet]) -> None:
    clips = make_clips(4)
    with pytest.raises(InputError):
        change(clips)


@pytest.mark.parametrize(
    "change",
    [
        lambda pairs: replace(pairs, rejected_video=None),
        lambda pairs: replace(pairs, rejected_audio=torch.zeros(4, 1, 2, 2)),
        lambda pairs: replace(pairs, desync_audio=torch.zeros(4, 2, 1, 2, 2)),
        lambda pairs: replace(pairs, desync_audio=torch.zeros(3, 2, 1, 6, 4)),
    ],
)
def test_pair_sets_that_do_not_fit(make_pairs: Callable[..., PairSet], change: Callable[[PairSet], PairSet]) -> None:
    pairs = make_pairs(4)
    with pytest.raises(InputError):
        change(pairs)


def test_values_that_are_not_finite_are_not_written(tmp_path: Path, make_clips: Callable[..., ClipSet]) -> None:
    clips = make_clips(4)
    assert clips.video is not None
    clips.video[2] = torch.nan
    with pytest.raises(InputError, match="video holds values that are not finite"):
        save_clip_set(tmp_path / "c.safetensors", clips)
    assert not (tmp_path / "c.safetensors").exists()
