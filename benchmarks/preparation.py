"""Claim: decoding and preparing a clip once for all four reward models costs at most 0.6 of doing it for each of them.

The front ends have the published sizes; no network runs. The comparison does the work of four separate programs: each opens the
file, decodes only the tracks that it needs with PyAV (audio for AudioBox, frames for VideoAlign) and prepares them. The script checks
that both ways give the same tensors. Times are CPU seconds of one thread, medians of interleaved repeats.

    python benchmarks/preparation.py CLIP [CLIP ...]
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch

from avpref.flows.workers.score_worker import ClipView
from avpref.media.picture.display import matrix
from avpref.media.reading import DecodedClip
from avpref.models.imagebind import imagebind_towers
from avpref.rewards.audiobox import audiobox, audiobox_network
from avpref.rewards.imagebind import imagebind
from avpref.rewards.model_scorer import CPU, ModelScorer
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.synchformer import synchformer, synchformer_towers
from avpref.rewards.videoalign import videoalign, videoalign_network, videoalign_settings, videoalign_text
from avpref.storage.weight_files import on_meta

HERE = Path(__file__).parent
WINDOW_S, REPEATS, LIMIT = 81 / 16, 7, 0.6
TEXT = "Two players rally on a tennis court while the crowd claps."


def front_ends() -> dict[str, ModelScorer[Any]]:
    """The four scorers at full size, without weights."""
    ears = on_meta(lambda: audiobox_network.AudioBoxNetwork(audiobox_network.FULL))
    towers = on_meta(lambda: imagebind_towers.Towers(imagebind_towers.FULL))
    eyes = on_meta(synchformer_towers.Synchformer)
    text = videoalign_text.tiny_text()
    judge = videoalign_network.network_without_memory(videoalign_network.FULL, text.video_id)
    scales = [audiobox.AxisScale(5.0, 1.0)] * 4
    terms = synchformer.SYNCHFORMER_TERMS
    return {
        "audiobox": audiobox.AudioBoxScorer(ears, scales, CPU, weights_id=""),
        "imagebind": imagebind.ImageBindScorer(towers, CPU, ""),
        "synchformer": synchformer.SynchformerScorer(eyes, synchformer.WindowLayout.JAVISBENCH, CPU, terms, ""),
        "videoalign": videoalign.VideoAlignScorer(judge, text, videoalign_settings.PUBLISHED, CPU, "", terms),
    }


NEEDS = {"audiobox": (False, True), "imagebind": (True, True), "synchformer": (True, True), "videoalign": (True, False)}


def decode_alone(path: Path, has_picture: bool, has_sound: bool) -> DecodedClip:
    """Decode the tracks that one program needs, until the end of the window."""
    frames: list[np.ndarray] = []
    pieces: list[np.ndarray] = []
    with av.open(str(path)) as container:
        picture = container.streams.video[0] if has_picture else None
        sound = max(container.streams.audio, key=lambda stream: stream.sample_rate) if has_sound else None
        fps_hz = float(picture.average_rate) if picture else 0.0
        rate_hz = sound.sample_rate if sound else 0
        needed = {0: round(WINDOW_S * fps_hz), 1: round(WINDOW_S * rate_hz)}
        for stream in filter(None, (picture, sound)):
            stream.codec_context.thread_count = 1
        for packet in container.demux([stream for stream in (picture, sound) if stream]):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    if len(frames) < needed[0]:
                        frames.append(frame.reformat(format="rgb24", src_colorspace=matrix(frame)).to_ndarray())
                else:
                    pieces.append(frame.to_ndarray())
            if len(frames) >= needed[0] and sum(piece.shape[1] for piece in pieces) >= needed[1]:
                break
    channels = np.concatenate(pieces, axis=1)[:, : needed[1]] if pieces else None
    mono = None if channels is None else channels.mean(axis=0)
    return DecodedClip(np.stack(frames) if frames else None, fps_hz, mono, rate_hz, WINDOW_S, channels=channels)


def prepared_alone(path: Path, scorers: dict[str, ModelScorer[Any]]) -> dict[str, Any]:
    return {
        name: scorer.prepare(ScorableClip("c", TEXT, decode_alone(path, *NEEDS[name]))).inputs
        for name, scorer in scorers.items()
    }


def prepared_once(path: Path, scorers: dict[str, ModelScorer[Any]]) -> dict[str, Any]:
    clip = ScorableClip("c", TEXT, ClipView(None, WINDOW_S).read(path, is_network=True))
    return {name: scorer.prepare(clip).inputs for name, scorer in scorers.items()}


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return (
        [tensor for item in vars(value).values() for tensor in tensors_of(item)] if hasattr(value, "__dict__") else []
    )


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    pairs = [
        (a.double(), b.double())
        for name in first
        for a, b in zip(tensors_of(first[name]), tensors_of(second[name]), strict=True)
    ]
    assert pairs and all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs)


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="fewer: the result is printed and not written")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    scorers = front_ends()
    lines = []
    for path in chosen.clips:
        difference = largest_difference(prepared_once(path, scorers), prepared_alone(path, scorers))
        once, alone = [], []
        for _ in range(chosen.repeats):
            once.append(cpu_s(partial(prepared_once, path, scorers)))
            alone.append(cpu_s(partial(prepared_alone, path, scorers)))
        ratio = median(once) / median(alone)
        lines.append((path.name, median(once), median(alone), ratio, difference))
        print(lines[-1])
    text = report(lines, chosen.repeats)
    if chosen.repeats == REPEATS:
        (HERE / "preparation.md").write_text(text, encoding="utf-8")
    else:
        print(text)


def report(lines: Sequence[tuple[str, float, float, float, float]], repeats: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "av", "numpy"))
    rows = [
        f"| {name} | {once:.3f} | {alone:.3f} | **{ratio:.2f}** | {gap:.1e} |"
        for name, once, alone, ratio, gap in lines
    ]
    worst = max(ratio for _, _, _, ratio, _ in lines)
    return f"""# One decoding for four reward models

{datetime.date.today()} · {platform.machine()}, one thread · Python {platform.python_version()}, {versions}

`python benchmarks/preparation.py CLIP …`: first {WINDOW_S:g} s of each clip, front ends of the published sizes,
CPU seconds, medians of {repeats} interleaved repeats. "Separately" decodes for each scorer the tracks that it needs,
with plain PyAV. The last column is the largest difference between the tensors of both ways.

| clip | once (s) | separately (s) | ratio | difference |
|---|---|---|---|---|
{chr(10).join(rows)}

Worst ratio {worst:.2f}; the claim is at most {LIMIT}.
"""


if __name__ == "__main__":
    main()
