"""Claim: what the synchronisers of JavisDiT++'s table 3 do to synchrony and to time per sample, on the toy world.

Per seed and arm: SFT from random values by the product's loop, one clip per held-out prompt with the same noise in all arms, scored by
the product's scorers. All arms of a seed have the same clips, steps and initial values of the tensors that they share. Arm st_prior
(and ta_rope_st_prior) needs a prior estimator, which is trained first with its own losses on clean clips of the training prompts.

    python benchmarks/synchronisers.py --runs FOLDER --seeds 0 --arms none ta_rope     some of the pieces; finished ones are kept
    python benchmarks/synchronisers.py --runs FOLDER --write                           all that are missing; writes synchronisers.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.datasets import tables
from avpref.datasets.reward_formula import MetricScale, MissingScores, compute_rewards
from avpref.domain import METRICS, Dimension, ScoreStatus, Split
from avpref.flows.run import Run
from avpref.flows.run_stages import owned, run_stages
from avpref.flows.stages.generate import generate
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.score import score
from avpref.flows.stages.sft import sft
from avpref.flows.workers.generator import base_of, negative_text, open_codec, open_sampler, open_text_encoder
from avpref.flows.workers.prompt_sources import clip_shape, open_prompt_source
from avpref.media.reading import DecodedClip
from avpref.models.codecs.codec import IdentityCodec, moments_of
from avpref.models.dual_stream.prior_losses import TEMPORAL, ClipBatch, prior_loss
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.sampling import draw_noise
from avpref.models.synchronisers.synchroniser import Synchroniser
from avpref.models.text import WordText
from avpref.storage.run_folder import create
from avpref.storage.table_readers import read_candidates

CONFIG = Path(__file__).parents[1] / "configs" / "toyworld-full.yaml"
RESULT = Path(__file__).with_suffix(".md")
SETTINGS = (
    "executor={kind: in_process}",
    "prompts.num_prompts=8",
    "prompts.num_evaluation_clips=160",
    "prompts.num_sft_clips=1024",
    "sampling.num_candidates=1",
    "sft.loop.steps=450",
    "sft.loop.batch_size=20",
    "sft.loop.num_processes=1",
    "sft.loop.launcher=in_process",
)
ARMS = ("none", "ta_rope", "st_prior", "frame_attention")
PRIOR_CLIPS, PRIOR_STEPS, PRIOR_BATCH = 160, 250, 16
SPARE = 8
"""Frames that a clip for the estimator is longer than a window of it."""
TOKENS = {"spatial_tokens": 8, "temporal_tokens": 16, "channels": 32}
TIMED_CLIPS, REPEATS = 8, 5
RESAMPLES = 4000
OF_AV = tuple(metric for metric in METRICS if metric.dimension is Dimension.AV)
PUBLISHED = {
    "none": (0.142, 1.044, "1m17s"),
    "ta_rope": (0.153, 0.901, "1m17s"),
    "st_prior": (0.145, 0.973, "1m33s"),
    "frame_attention": (0.124, 0.951, "1m45s"),
    "ta_rope_st_prior": (0.155, 0.953, "1m33s"),
    "ta_rope_frame_attention": (0.151, 0.890, "1m45s"),
}
"""JavisDiT++, table 3: JavisScore, DeSync, latency."""


def windows(settings: Settings, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of clean clips that are longer than the run's by :data:`SPARE` frames, video and audio, and the states of their texts."""
    clip = settings.clip.model_copy(update={"num_frames": settings.clip.num_frames + SPARE})
    longer = settings.model_copy(update={"clip": clip})
    source, shape = open_prompt_source(longer), clip_shape(longer)
    training = [prompt for prompt in source.prompts().prompts if prompt.split == Split.TRAIN]
    made = [source.ground_truth(training[index % len(training)]) for index in range(num)]
    assert settings.network is not None
    encoder = WordText(settings.network.text_dim, settings.network.text_len)
    decoded = [
        DecodedClip(clip.frames, shape.fps_hz, clip.audio, shape.sample_rate_hz, shape.duration_s) for clip in made
    ]
    encoded = moments_of(IdentityCodec(settings.codec, shape), decoded)
    return encoded.video, encoded.audio, encoder.encode([clip.text for clip in made]).states


def train_prior(settings: Settings, path: Path, arguments: argparse.Namespace) -> None:
    """Train a prior estimator on windows: temporal negatives have one track from another time, spatial ones that of another clip."""
    num_prompts = settings.prompts.model_copy(update={"num_prompts": arguments.prior_clips})
    video, audio, text = windows(settings.model_copy(update={"prompts": num_prompts}), arguments.prior_clips)
    seed, frames, per_frame = settings.run.seed, settings.clip.num_frames, audio.shape[2] // video.shape[2]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SynchronyPrior(prior_config(settings, video.shape[1], audio.shape[1]))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    size = float(settings.clip.height_px), float(settings.clip.width_px)
    for _ in range(arguments.prior_steps):
        rows = torch.randint(0, len(video), (PRIOR_BATCH,), generator=generator)
        starts = torch.randperm(SPARE + 1, generator=generator)[:2].tolist()
        (own_video, own_audio), (late_video, late_audio) = (
            (video[rows, :, at : at + frames], audio[rows, :, per_frame * at : per_frame * (at + frames)])
            for at in starts
        )
        clips = ClipBatch(
            own_video,
            own_audio,
            size,
            {"spatial": own_video.roll(1, dims=0)[:, None], TEMPORAL: late_video[:, None]},
            {"spatial": own_audio.roll(1, dims=0)[:, None], TEMPORAL: late_audio[:, None]},
        )
        noise = torch.randn(PRIOR_BATCH, network.config.num_tokens, network.config.out_dim, generator=generator)
        optimiser.zero_grad()
        prior_loss(network, network(text[rows], noise), clips).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    partial = path.with_suffix(".partial")
    save_file(network.state_dict(), partial)
    partial.replace(path)


def prior_config(settings: Settings, video_channels: int, audio_channels: int) -> PriorConfig:
    assert settings.network is not None
    return PriorConfig(
        text_emb_dim=settings.network.text_dim,
        spatial_token_num=TOKENS["spatial_tokens"],
        temporal_token_num=TOKENS["temporal_tokens"],
        hidden_size=64,
        out_dim=TOKENS["channels"],
        num_encoder_layers=1,
        num_decoder_layers=1,
        encode_va=True,
        video_in_channel=video_channels,
        audio_in_channel=audio_channels,
    )


def settings_of(arguments: argparse.Namespace, seed: int, arm: str) -> Settings:
    changes = [*SETTINGS, *arguments.set, f"run.seed={seed}"]
    if Synchroniser(arm).has_priors:
        path = (arguments.runs / f"prior-{seed}.safetensors").resolve()
        if not path.exists():
            train_prior(load_config(arguments.config, changes, environment={}).settings, path, arguments)
        changes.append(f"network.prior={json.dumps({'weights': str(path), **TOKENS})}")
    return load_config(arguments.config, [*changes, f"network.synchroniser={arm}"], environment={}).settings


def finish(arguments: argparse.Namespace, seed: int, arm: str) -> None:
    """Train, sample and score an arm of a seed unless its result exists."""
    path = result_file(arguments.runs, seed, arm)
    if path.exists():
        return
    settings, began = settings_of(arguments, seed, arm), time.process_time()
    run = Run.of(create(arguments.runs, settings))
    with owned(run):
        run_stages(run, (prompts, sft, generate, score))
    elapsed_s = time.process_time() - began
    own_s, none_s = sampling_times(run, arguments.repeats)
    held_out = {prompt.prompt_id for prompt in run.prompts_of(Split.HELD_OUT)}
    of_candidate = {row.candidate_id: row.prompt_id for row in read_candidates(run.tables) if row.prompt_id in held_out}
    scores: dict[str, dict[str, float]] = {prompt: {} for prompt in sorted(held_out)}
    for row in run.tables.read(tables.SCORES).to_pylist():
        if row["candidate_id"] in of_candidate and row["status"] == ScoreStatus.OK:
            scores[of_candidate[row["candidate_id"]]][row["metric"]] = row["value"]
    document = {
        "seed": seed,
        "arm": arm,
        "run": run.run_id,
        "parameters": sum(parameter.numel() for parameter in base_of(settings).outline().parameters()),
        "steps": run.settings.sft.loop.steps,
        "batch": run.settings.sft.loop.batch_size,
        "processor_s": elapsed_s,
        "sample_s": own_s,
        "sample_none_s": none_s,
        "scores": scores,
    }
    path.write_text(json.dumps(document))


def result_file(runs: Path, seed: int, arm: str) -> Path:
    return runs / f"synchronisers-{seed}-{arm}.json"


def sampling_times(run: Run, repeats: int) -> tuple[float, float]:
    """Processor seconds per clip with the run's network, and with the network of ``none`` in between, which makes the ratio."""
    torch.set_num_threads(1)
    settings = run.settings
    plain = settings.network.model_copy(update={"synchroniser": "none", "prior": None})
    of_none = settings.model_copy(update={"network": plain})
    held_out = run.prompts_of(Split.HELD_OUT)[:TIMED_CLIPS]
    jobs = []
    for own in (settings, of_none):
        network = base_of(own).create(0).eval()
        encoder = open_text_encoder(own, run.runs)
        texts = encoder.encode([prompt.text for prompt in held_out]), negative_text(encoder, own)
        jobs.append((network, open_sampler(own), texts))
    noise = draw_noise(open_codec(settings).latent_shapes(), range(len(held_out)))
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for index, (network, sampler, texts) in enumerate(jobs):
            began = time.process_time()
            sampler.sample(network, noise, *texts)
            times[index].append((time.process_time() - began) / len(held_out))
    own_s, none_s = (float(np.median(values)) for values in times)
    return own_s, none_s


Pieces = dict[tuple[int, str], dict[str, Any]]
Floats = NDArray[np.float64]


def values_of(pieces: Pieces, arms: Sequence[str]) -> dict[str, dict[str, list[Floats]]]:
    """Measure -> arm -> values per prompt of each seed (NaN where a clip could not be scored): the metrics of synchrony, the reward."""
    seeds = sorted({seed for seed, _ in pieces})
    names = [metric.name for metric in OF_AV]
    raw = {arm: [of_metrics(pieces[seed, arm], names) for seed in seeds] for arm in arms}
    reference = np.concatenate(raw[arms[0]], axis=1)
    scales = [
        MetricScale(
            metric.name,
            metric.dimension,
            metric.higher_is_better,
            float(np.nanmean(reference[row])),
            float(np.nanstd(reference[row])),
        )
        for row, metric in enumerate(OF_AV)
    ]
    values = {name: {arm: [scores[row] for scores in raw[arm]] for arm in arms} for row, name in enumerate(names)}
    values["reward"] = {
        arm: [
            compute_rewards(scores, scales, "micro", MissingScores.EXCLUDE, np.arange(scores.shape[1])).by_dimension[0]
            for scores in raw[arm]
        ]
        for arm in arms
    }
    return values


def of_metrics(piece: dict[str, Any], names: Sequence[str]) -> Floats:
    """[metrics, prompts], NaN where there is no score."""
    by_prompt = [piece["scores"][prompt] for prompt in sorted(piece["scores"])]
    return np.array([[scores.get(name, np.nan) for scores in by_prompt] for name in names], dtype=np.float64)


def interval(by_seed: Sequence[Floats]) -> str:
    """Mean over seeds of the means over prompts, with a 95 % interval: seeds are resampled, and prompts within each."""
    generator = np.random.default_rng(0)
    means = np.array([np.nanmean(values) for values in by_seed])
    drawn = np.empty((len(by_seed), RESAMPLES))
    for row, values in enumerate(by_seed):
        known = values[~np.isnan(values)]
        drawn[row] = known[generator.integers(0, len(known), (RESAMPLES, len(known)))].mean(axis=1)
    chosen = generator.integers(0, len(by_seed), (RESAMPLES, len(by_seed)))
    low, high = np.quantile(drawn[chosen, np.arange(RESAMPLES)[:, None]].mean(axis=1), (0.025, 0.975))
    return f"{means.mean():.3f} [{low:.3f}, {high:.3f}]"


def change(own: Sequence[Floats], other: Sequence[Floats]) -> str:
    return interval([first - second for first, second in zip(own, other, strict=True)])


def table(pieces: Pieces, arms: Sequence[str]) -> Iterator[str]:
    """Lines of the tables: means over seeds, then every seed."""
    values, seeds = values_of(pieces, arms), sorted({seed for seed, _ in pieces})
    reference = arms[0]
    yield (
        f"| arm | parameters | desync, s | audio-video cosine | reward | desync − {reference} | reward − {reference} "
        "| ms per clip | ratio to none |"
    )
    yield "|" + "---|" * 9
    for arm in arms:
        own = [pieces[seed, arm] for seed in seeds]
        cells = [arm, f"{own[0]['parameters']:,}"]
        cells += [interval(values[name][arm]) for name in ("desync", "audio_video", "reward")]
        cells += [
            "–" if arm == reference else change(values[name][arm], values[name][reference])
            for name in ("desync", "reward")
        ]
        ratios = [piece["sample_s"] / piece["sample_none_s"] for piece in own]
        cells += [f"{1000 * np.mean([piece['sample_s'] for piece in own]):.1f}"]
        cells += [f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield "| seed | arm | clips scored | desync, s | audio-video cosine | reward | processor s |"
    yield "|" + "---|" * 7
    for index, seed in enumerate(seeds):
        for arm in arms:
            by_name = {name: values[name][arm][index] for name in ("desync", "audio_video", "reward")}
            known = f"{np.isfinite(by_name['reward']).sum()} of {len(by_name['reward'])}"
            means = [f"{np.nanmean(numbers):.3f}" for numbers in by_name.values()]
            yield "| " + " | ".join([str(seed), arm, known, *means, f"{pieces[seed, arm]['processor_s']:.0f}"]) + " |"


def page(pieces: Pieces, arms: Sequence[str]) -> str:
    first = next(iter(pieces.values()))
    num, seeds = len(first["scores"]), sorted({seed for seed, _ in pieces})
    lines = [
        "# The synchronisers of table 3 on the toy world",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch"
        f" {version('torch')}; a machine that others used at the same time. Made by `benchmarks/synchronisers.py`.",
        "",
        f"SFT from random values, {first['steps']} steps of {first['batch']} clips; {num} held-out prompts per",
        "seed, one clip each, the same noise in all arms of a seed. Desync (lower is better) and the cosine of impacts and onsets are",
        f"the toy world's metrics; the reward is the product's, in standard deviations of the clips of `{arms[0]}`. Intervals: 95 %,",
        f"bootstrap over seeds and over prompts within a seed. Seeds: {', '.join(map(str, seeds))}; with one seed, intervals say nothing",
        "of the differences between trainings.",
        "Time is processor time of sampling a batch, alternating with a network of `none`. What the options are:",
        "docs/decisions/0068-synchronisers-of-table-3.md.",
        "",
        *table(pieces, arms),
        "",
        "Published (JavisDiT++, table 3, Wan2.1-1.3B on JavisBench-mini; other data, sizes and metrics):",
        "",
        "| arm | JavisScore ↑ | DeSync ↓ | latency |",
        "|---|---|---|---|",
        *(f"| {arm} | {own[0]:.3f} | {own[1]:.3f} | {own[2]} |" for arm, own in PUBLISHED.items()),
    ]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Finish the arms and print the page of those that are finished; with ``--write``, write it beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=None)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(PUBLISHED), default=list(ARMS))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--prior-clips", type=int, default=PRIOR_CLIPS)
    parser.add_argument("--prior-steps", type=int, default=PRIOR_STEPS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        arguments.runs = arguments.runs or Path(folder)
        arguments.runs.mkdir(parents=True, exist_ok=True)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                finish(arguments, seed, arm)
        pieces = {
            (seed, arm): json.loads(result_file(arguments.runs, seed, arm).read_text())
            for seed in arguments.seeds
            for arm in arguments.arms
        }
    text = page(pieces, arguments.arms)
    print(text)
    if arguments.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
