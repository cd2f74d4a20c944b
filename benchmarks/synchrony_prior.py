"""The prior estimator of JavisDiT v0.1 at toy size: does it tell synchronised clips of the toy world from desynchronised ones?

    python benchmarks/synchrony_prior.py                          writes benchmarks/synchrony_prior.md (some minutes)
    python benchmarks/synchrony_prior.py --clips 12 --steps 2 --seeds 1     the same at toy size: prints the lines, writes nothing

Clips of the toy world are encoded by the identity codec. The estimator is trained with its own losses; temporal negatives have the
sound or the pictures of the clip shifted in time, spatial ones those of another clip. Held-out clips are then compared with copies
whose sound is late or early: the share of pairs in which the clip itself has the larger logit of the discriminator, or lies nearer to
the prior of its text (0.5 is chance), with a bootstrap interval over clips. Windows are cut from longer clips, so that a shift leaves
no seam and no silence that would give the answer away.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.config.loading import load_config
from avpref.flows.workers.prompt_sources import clip_shape, open_prompt_source
from avpref.media.reading import DecodedClip
from avpref.models.codecs.codec import IdentityCodec, moments_of
from avpref.models.dual_stream.prior_losses import TEMPORAL, ClipBatch, clip_embeddings, prior_loss
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.text import WordText

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "synchrony_prior.md"
CLIPS, STEPS, SEEDS, BATCH = 320, 300, 3, 16
WINDOW, SPARE = 16, 8
"""Frames of a window, and frames that a clip is longer."""
SHIFTS_S = (0.125, 0.25, 0.5)
TEXT_DIM, TEXT_LENGTH = 48, 16
RESAMPLES = 1000
CONFIG = PriorConfig(
    text_emb_dim=TEXT_DIM,
    spatial_token_num=8,
    temporal_token_num=16,
    hidden_size=64,
    out_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    encode_va=True,
    video_in_channel=3,
    audio_in_channel=1,
)


@dataclass(frozen=True, eq=False)
class Clips:
    """Latents and text states of clips: video [N, 3, T, h, w], audio [N, 1, L, M], text [N, K, d]."""

    video: Tensor
    audio: Tensor
    text: Tensor
    size_px: tuple[float, float]
    fps_hz: float

    def rows(self, index: Tensor | slice) -> Clips:
        return Clips(self.video[index], self.audio[index], self.text[index], self.size_px, self.fps_hz)


def toy_clips(num: int) -> Clips:
    """Clean clips of the toy world, each of another seed."""
    settings = load_config(
        ROOT / "configs" / "toyworld.yaml", [f"prompts.num_prompts={num}", f"clip.num_frames={WINDOW + SPARE}"], {}
    ).settings
    source, shape = open_prompt_source(settings), clip_shape(settings)
    prompts = source.prompts().prompts[:num]
    codec = IdentityCodec(settings.codec, shape)
    made = [source.ground_truth(prompt) for prompt in prompts]
    decoded = [
        DecodedClip(clip.frames, shape.fps_hz, clip.audio, shape.sample_rate_hz, shape.duration_s) for clip in made
    ]
    encoded = moments_of(codec, decoded)
    text = WordText(TEXT_DIM, TEXT_LENGTH).encode([clip.text for clip in made]).states
    size = float(shape.height_px), float(shape.width_px)
    return Clips(encoded.video, encoded.audio, text, size, shape.fps_hz)


def window(clips: Clips, picture_start: int, sound_start: int) -> tuple[Tensor, Tensor]:
    """Pictures and sound of :data:`WINDOW` frames, which begin at these frames of the clips."""
    steps = clips.audio.shape[2] // clips.video.shape[2]
    video = clips.video[:, :, picture_start : picture_start + WINDOW]
    return video, clips.audio[:, :, steps * sound_start : steps * (sound_start + WINDOW)]


def batch_of(clips: Clips, generator: torch.Generator) -> ClipBatch:
    """Windows with negatives: one track from another time of the same clip for time, that of the next clip for space."""
    starts = clips.video.shape[2] - WINDOW + 1
    own, other = torch.randperm(starts, generator=generator)[:2].tolist()
    video, audio = window(clips, own, own)
    other_video, other_audio = window(clips, other, other)
    return ClipBatch(
        video,
        audio,
        clips.size_px,
        {"spatial": video.roll(1, dims=0)[:, None], TEMPORAL: other_video[:, None]},
        {"spatial": audio.roll(1, dims=0)[:, None], TEMPORAL: other_audio[:, None]},
    )


def trained(clips: Clips, num_steps: int, seed: int) -> SynchronyPrior:
    """An estimator after ``num_steps`` steps of Adam."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SynchronyPrior(CONFIG)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(num_steps):
        rows = clips.rows(torch.randint(0, len(clips.video), (min(BATCH, len(clips.video)),), generator=generator))
        noise = torch.randn(len(rows.video), CONFIG.num_tokens, CONFIG.out_dim, generator=generator)
        loss = prior_loss(network, network(rows.text, noise), batch_of(rows, generator))
        optimiser.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


@torch.no_grad()
def wins(network: SynchronyPrior, clips: Clips, shift_s: float) -> dict[str, np.ndarray]:
    """For every clip 1, ½ or 0: whether it is above its copies with late and with early sound, on average of both."""
    priors = network(clips.text)
    numbers: dict[str, list[Tensor]] = {"logit of the discriminator": [], "nearness to the prior": []}
    middle, shift = (clips.video.shape[2] - WINDOW) // 2, round(shift_s * clips.fps_hz)
    for sound_start in (middle, middle + shift, middle - shift):
        shown = ClipBatch(*window(clips, middle, sound_start), clips.size_px)
        embedding = clip_embeddings(network, shown, TEMPORAL)[:, 0]
        numbers["logit of the discriminator"].append(network.discriminator(priors.temporal, embedding))
        numbers["nearness to the prior"].append(F.cosine_similarity(embedding, priors.temporal, dim=-1).mean(dim=1))
    return {
        name: torch.stack([(own > other).float() + 0.5 * (own == other).float() for other in others]).mean(0).numpy()
        for name, (own, *others) in numbers.items()
    }


def interval(values: np.ndarray, seed: int) -> str:
    """Mean and 95 % bootstrap interval over clips."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def benchmark(num_clips: int, num_steps: int, seeds: int) -> list[str]:
    torch.set_num_threads(1)
    began = time.process_time()
    clips = toy_clips(num_clips)
    held_out, train = clips.rows(slice(0, num_clips // 4)), clips.rows(slice(num_clips // 4, None))
    lines = [
        "# Synchrony prior on the toy world",
        "",
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}. Made with `python benchmarks/synchrony_prior.py`.",
        "",
        f"{len(train.video)} clips to train on, {len(held_out.video)} held out, {num_steps} steps, batch {BATCH}. Share of comparisons "
        "that the synchronised clip wins (0.5 is chance), 95 % interval over clips.",
        "",
        "| seed | sound shifted by | measure | before training | after training |",
        "|---|---|---|---|---|",
    ]
    for seed in range(seeds):
        before, after = trained(train, 0, seed), trained(train, num_steps, seed)
        for shift_s in SHIFTS_S:
            first, second = wins(before, held_out, shift_s), wins(after, held_out, shift_s)
            for name in first:
                row = (f"± {shift_s:g} s", name, interval(first[name], seed), interval(second[name], seed))
                lines.append(f"| {seed} | " + " | ".join(row) + " |")
    return [*lines, "", f"Processor time: {time.process_time() - began:.0f} s."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    lines = benchmark(arguments.clips, arguments.steps, arguments.seeds)
    print("\n".join(lines))
    if (arguments.clips, arguments.steps, arguments.seeds) == (CLIPS, STEPS, SEEDS):
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
