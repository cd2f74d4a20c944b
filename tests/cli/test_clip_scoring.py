"""``avpref candidates score --clips``: a number where a clip can be judged, a reason where not, and the others are scored."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avpref.cli.main import main
from avpref.flows.workers.canary import canary_clip
from avpref.media.writing import encode_clip

EVERYTHING = "audiobox,imagebind,synchformer,videoalign,javis_score"
LONG = " ".join(f"word{number}" for number in range(400))


def _moving(num: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    ground = ((rows * 5 + columns * 3) % 97 + 60).astype(np.uint8)
    frames = np.repeat(np.stack([ground, 255 - ground, ground // 2], axis=-1)[None], num, axis=0)
    for k, frame in enumerate(frames):
        left = (k * width) // (num + 4)
        frame[height // 4 : height // 2, left : left + width // 5] = (240, 30, 30)
    return frames


def _noise(seconds: float, rate_hz: int = 16000) -> np.ndarray:
    random = np.random.default_rng(5)
    return (0.1 * random.standard_normal(round(seconds * rate_hz))).astype(np.float32)


def good(path: Path) -> None:
    path.write_bytes(encode_clip(_moving(25, 96, 128), 25.0, _noise(1.0), 16000))


def too_short(path: Path) -> None:
    path.write_bytes(encode_clip(_moving(8, 96, 128), 25.0, _noise(0.3), 16000))


def silent(path: Path) -> None:
    path.write_bytes(encode_clip(_moving(25, 96, 128), 25.0, np.zeros(16000, np.float32), 16000))


def still(path: Path) -> None:
    path.write_bytes(encode_clip(np.repeat(_moving(1, 96, 128), 25, axis=0), 25.0, _noise(1.0), 16000))


def telephone(path: Path) -> None:
    """8 kHz stereo."""
    path.write_bytes(encode_clip(_moving(25, 96, 128), 25.0, _noise(1.0, 8000), 8000))


def cinema(path: Path) -> None:
    """3840 x 2160."""
    path.write_bytes(encode_clip(_moving(8, 2160, 3840), 8.0, _noise(1.0), 16000))


def odd(path: Path) -> None:
    """101 x 67 pixels, which yuv420p cannot hold and yuv444p can."""
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.height, picture.width, picture.pix_fmt = 67, 101, "yuv444p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for pixels in _moving(25, 67, 101):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(_noise(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def corrupt(path: Path) -> None:
    whole = encode_clip(_moving(25, 96, 128), 25.0, _noise(1.0), 16000)
    path.write_bytes(whole[: len(whole) // 2])


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "first": (good, "A red box moves over a striped wall while noise is heard."),
    "too_short": (too_short, "short"),
    "silent": (silent, "silent"),
    "still": (still, "still"),
    "telephone": (telephone, "eight kilohertz"),
    "cinema": (cinema, "large"),
    "odd": (odd, "odd sizes"),
    "corrupt": (corrupt, "broken"),
    "long": (good, LONG),
    "marked": (good, "a clip <|VQ_reward|> with <|endoftext|> marks <|im_end|>"),
    "empty": (good, ""),
    "last": (good, "The last clip of the list."),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One command over all cases; documents by case, and the whole document under ``""``."""
    folder = tmp_path_factory.mktemp("cases")
    lines = ["file,text"]
    for name, (make, text) in CASES.items():
        make(folder / f"{name}.mp4")
        lines.append(f'{name}.mp4,"{text}"')
    (folder / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["candidates", "score", "--clips", str(folder / "clips.csv"), "--runs", str(folder / "runs"), "--json"]
    command += ["--scorers", EVERYTHING, "--set", "scoring.preset=tiny"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 5
    document = json.loads(printed.getvalue())
    return {"": document, **{Path(clip["file"]).stem: clip for clip in document["clips"]}}


def judged(clip: dict[str, Any]) -> set[str]:
    """Metrics with a number; every other one has a reason."""
    assert {name for name, value in clip["scores"].items() if value is None} == set(clip["reasons"])
    return {name for name, value in clip["scores"].items() if value is not None}


AUDIO = {"audiobox_ce", "audiobox_cu", "audiobox_pc", "audiobox_pq", "audio_quality"}
VIDEO = {"visual_quality", "motion_quality", "videoalign_vq", "videoalign_mq"}
OF_TEXT = {"text_video", "text_alignment", "videoalign_ta"}
SYNC = {"audio_video", "desync", "desync_expected", "javis_score", "avh_score"}
ALL = AUDIO | VIDEO | OF_TEXT | {"text_audio"} | SYNC


@pytest.mark.parametrize("case", ["first", "last", "telephone", "cinema", "odd"])
def test_what_can_be_judged_gets_every_number(scored: dict[str, dict[str, Any]], case: str) -> None:
    assert judged(scored[case]) == ALL, scored[case]["reasons"]


def test_equal_clips_with_other_texts_differ_in_text_metrics_alone(scored: dict[str, dict[str, Any]]) -> None:
    first, last = scored["first"]["scores"], scored["last"]["scores"]
    same = {name for name in ALL if first[name] == pytest.approx(last[name], abs=1e-5)}
    assert same == ALL - OF_TEXT - {"text_audio"}


@pytest.mark.parametrize(
    ("case", "left", "reason"),
    [
        ("too_short", set(), "too short"),
        ("silent", VIDEO | OF_TEXT, "silent"),
        ("still", ALL - SYNC, "the picture does not move"),
        ("empty", ALL - OF_TEXT - {"text_audio"}, "empty text"),
    ],
)
def test_what_cannot_be_judged_has_a_reason_and_no_number(
    scored: dict[str, dict[str, Any]], case: str, left: set[str], reason: str
) -> None:
    assert judged(scored[case]) == left
    assert all(reason in why for why in scored[case]["reasons"].values())


def test_text_that_a_model_cannot_take_is_refused_by_that_model_alone(scored: dict[str, dict[str, Any]]) -> None:
    for case in ("long", "marked"):
        assert judged(scored[case]) == ALL - {"text_video", "text_audio"}
        assert all("text" in why for why in scored[case]["reasons"].values())


def test_special_tokens_in_a_caption_do_not_move_what_the_caption_comes_after(
    scored: dict[str, dict[str, Any]],
) -> None:
    for name in VIDEO:
        assert scored["marked"]["scores"][name] == pytest.approx(scored["first"]["scores"][name], abs=1e-4)


def test_a_corrupt_file_in_the_middle_is_a_row_of_its_own(scored: dict[str, dict[str, Any]]) -> None:
    assert "corrupt" not in scored
    (lost,) = scored[""]["quarantined"]
    assert "corrupt.mp4" in lost["candidate_id"] and lost["message"]


def test_terms_and_meaninglessness_are_said(scored: dict[str, dict[str, Any]]) -> None:
    scorers = scored[""]["scorers"]
    assert len(scorers) == 5 and not any(one["is_meaningful"] for one in scorers)
    assert all("tiny" in one["name"] for one in scorers)


def test_costs_are_there(scored: dict[str, dict[str, Any]]) -> None:
    assert all(clip["elapsed_ms"] > 0 for name, clip in scored.items() if name not in ("", "too_short"))


def test_scorers_without_clips_are_refused(call: Callable[..., Any]) -> None:
    answer = call("candidates", "score", "--scorers", "signal")
    assert answer.code == 2 and "--clips" in answer.err


def test_an_unknown_scorer_is_named(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("file,text\nx.mp4,y\n", encoding="utf-8")
    answer = call("candidates", "score", "--clips", tmp_path / "clips.csv", "--scorers", "audiobx")
    assert answer.code == 2 and "audiobx" in answer.err


def test_wrong_weights_are_one_error(call: Callable[..., Any], tmp_path: Path) -> None:
    clip = canary_clip().clip
    assert clip.frames is not None and clip.audio is not None
    (tmp_path / "x.mp4").write_bytes(encode_clip(clip.frames, clip.fps_hz, clip.audio, clip.sample_rate_hz))
    (tmp_path / "clips.csv").write_text("file,text\nx.mp4,y\n", encoding="utf-8")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "synchformer_state_dict.pth").write_bytes(b"PK\x03\x04 half a download")
    answer = call(
        *("candidates", "score", "--clips", tmp_path / "clips.csv", "--runs", tmp_path / "runs"),
        *("--scorers", "synchformer", "--set", f"scoring.synchformer.folder={weights}"),
    )
    assert answer.code == 4 and "synchformer_state_dict.pth" in answer.err
