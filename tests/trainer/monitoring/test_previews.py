"""Previews: the same clips before and after, with sound, as files and in TensorBoard; training does not notice them."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avpref.config.base_settings import BaseSections
from avpref.config.codec_settings import IdentityCodecSettings
from avpref.config.data_settings import ClipSettings
from avpref.config.network_settings import NetworkSettings, SamplingSettings
from avpref.errors import InputError
from avpref.media.geometry import ClipShape
from avpref.media.reading import read_clip
from avpref.models.dit import JavisDiT
from avpref.models.text import TextBatch
from avpref.trainer.monitoring.previews import (
    PreviewPlan,
    Previews,
    PreviewTexts,
    animated,
    load_previews,
    preview_folder,
    save_previews,
)
from avpref.trainer.parallel import Context

CLIP = ClipSettings(num_frames=3, height_px=32, width_px=32, fps_hz=8)
CODEC = IdentityCodecSettings(video_scale=8, audio_bands=4, audio_rate_hz=16.0)
NETWORK = NetworkSettings(
    dim=24, ffn_dim=32, freq_dim=16, text_dim=8, text_len=3, num_heads=2, num_layers=2, in_dim=3, audio_in_dim=1
)
BASE = BaseSections(network=NETWORK, codec=CODEC)
SAMPLING = SamplingSettings(steps=2, guidance=2.0, shift=2.0)


def texts() -> PreviewTexts:
    draw = torch.Generator().manual_seed(1)
    text = TextBatch(torch.randn(2, 3, 8, generator=draw), torch.ones(2, 3))
    negative = TextBatch(torch.randn(1, 3, 8, generator=draw), torch.ones(1, 3))
    return PreviewTexts(("first", "second"), text, negative, (11, 12), SAMPLING, BASE)


def test_a_file_of_texts_round_trips(tmp_path: Path) -> None:
    save_previews(tmp_path / "file", texts())
    loaded = load_previews(tmp_path / "file")
    assert (loaded.names, loaded.seeds, loaded.sampling, loaded.base) == (
        ("first", "second"),
        (11, 12),
        SAMPLING,
        BASE,
    )
    assert torch.equal(loaded.text.states, texts().text.states)
    with pytest.raises(InputError, match="absent"):
        load_previews(tmp_path / "absent")


def test_an_animation_has_all_frames() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    with Image.open(BytesIO(animated(frames, 8.0))) as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((12, 8), 5)


def sampled(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_previews_come_before_the_first_step_every_n_and_after_the_last(
    make_network: Callable[..., JavisDiT], tmp_path: Path
) -> None:
    network = make_network(settings=NETWORK)
    previews = Previews(network, texts(), PreviewPlan(CLIP, tmp_path, 4, 6), Context())
    for step in range(7):
        if step == 5:
            with torch.no_grad():
                network.head.head.weight.mul_(1.5)
        previews.after_step(step)
    folders = [preview_folder(tmp_path, step) for step in (0, 4, 6)]
    assert sorted((tmp_path / "previews").iterdir()) == folders
    before, unchanged, now = map(sampled, folders)
    assert list(before) == ["first.mp4", "second.mp4"]
    assert before == unchanged, "equal weights, texts and seeds"
    assert before["first.mp4"] != now["first.mp4"] and before["first.mp4"] != before["second.mp4"]
    shape = ClipShape(3, 32, 32, 8.0, 16000)
    clip = read_clip(BytesIO(now["second.mp4"]), shape)
    assert clip.frames is not None and clip.audio is not None and clip.audio.shape == (6000,)


def test_tensorboard_has_pictures_and_sound(make_network: Callable[..., JavisDiT], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network = make_network(settings=NETWORK)
    Previews(network, texts(), PreviewPlan(CLIP, tmp_path, 4, 6), Context()).after_step(4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (picture,), (sound,) = events.Images("preview/first"), events.Audio("preview/first/sound")
    assert (picture.step, picture.width, picture.height) == (4, 32, 32)
    assert picture.encoded_image_string.startswith(b"GIF8")
    assert (sound.step, sound.sample_rate, sound.content_type) == (4, 16000.0, "audio/wav")


def test_other_ranks_sample_and_write_nothing(make_network: Callable[..., JavisDiT], tmp_path: Path) -> None:
    calls: list[int] = []
    network = make_network(settings=NETWORK)
    network.register_forward_hook(lambda *arguments: calls.append(1))
    Previews(network, texts(), PreviewPlan(CLIP, tmp_path, 4, 6), Context(rank=1)).after_step(0)
    assert len(calls) == SAMPLING.steps and not list(tmp_path.iterdir())
