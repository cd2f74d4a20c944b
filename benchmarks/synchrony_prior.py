"""The prior of JavisDiT v0.1 at small size: does it tell synchronised clips from desynchronised ones, on the toy world and on a film?

    python benchmarks/synchrony_prior.py --film films/scenes/clips.csv     writes benchmarks/synchrony_prior.md (about ten minutes)
    python benchmarks/synchrony_prior.py --toy-config configs/tiny.yaml --steps 2 --seeds 1  toy size: prints, writes nothing

Trained is as `avpref train prior` does: on the product's clips, negatives and text states, with its loop. Afterwards clips of the held-out
prompts are compared with copies whose sound is late or early, and with temporal negatives as training draws them. Of the former only
copies count whose sound is known throughout, so that no silence gives the answer away. A clip's number is the logit of the
discriminator for its temporal tokens, or their mean cosine with the prior of its text. The AUROC is the probability that a clip has a
larger number than a copy (0.5 is chance), with a bootstrap interval over recordings; the mean over seeds has Student's interval. The
estimator before training is the control.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn import functional as F

from avpref.config.loading import load_config
from avpref.datasets.evidence.evaluation import BootstrapSettings
from avpref.domain import Prompt, Split
from avpref.errors import MediaError
from avpref.flows.run import Run
from avpref.flows.run_stages import owned, run_stages
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.train_prior import prior_job, prior_output, require_prior, train_prior
from avpref.flows.workers.generator import open_codec
from avpref.flows.workers.prior.prior_cuts import read_prompt_cut
from avpref.flows.workers.prior.prior_text_states import open_prior_text
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.identity import derive_seed
from avpref.media.reading import DecodedClip
from avpref.models.codecs.codec import Codec
from avpref.models.dual_stream.dual_loading import read_prior
from avpref.models.dual_stream.prior_losses import TEMPORAL, ClipBatch, clip_embeddings
from avpref.models.dual_stream.synchrony_prior import SynchronyPrior
from avpref.rewards.negatives.corruptions import Absent, NegativeKind, delayed_negatives, negatives
from avpref.storage.run_folder import create
from avpref.trainer.launch import launch
from avpref.trainer.prior.run_prior import PRIOR_FILE, new_prior, prior_config
from avpref.validation.discrimination import DiscriminationData, Estimate, discriminate

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "synchrony_prior.md"
STEPS, SEEDS, BATCH, NUM_NEGATIVES = 400, 3, 16, 4
SHIFTS_S = (0.25, 0.5)
TEMPORAL_KINDS = (NegativeKind.AUDIO_TEMPORAL, NegativeKind.VIDEO_TEMPORAL)
COPIES = (*(f"sound ± {shift_s:g} s" for shift_s in SHIFTS_S), *(f"negative {kind}" for kind in TEMPORAL_KINDS))
"""Kinds of desynchronised copies: late and early sound, and a negative of each temporal kind that training draws from."""
OWN = "the clip itself"
NUMBERS = ("logit of the discriminator", "nearness to the prior")
SECTION = (
    "{{loop: {{steps: {steps}, batch_size: {batch}, checkpoint_every: 200, num_threads: 1}}, "
    "optimiser: {{lr: 1.0e-3, warmup_steps: 20, eps: 1.0e-8}}, num_negatives: {negatives}, "
    "text: {{kind: imagebind, preset: tiny}}, "
    "network: {{spatial_tokens: 8, temporal_tokens: 16, token_dim: 32, hidden_dim: 64, num_encoder_layers: 1, num_decoder_layers: 1}}}}"
)


@dataclass(frozen=True)
class World:
    """A configuration, and overrides of its keys."""

    name: str
    config: Path
    overrides: tuple[str, ...]
    is_generated: bool


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out clips and their desynchronised copies: latents, the clip, recording and kind (:data:`COPIES` or own) of each row."""

    video: Tensor
    audio: Tensor
    text: Tensor
    clip: np.ndarray
    recording: np.ndarray
    kind: np.ndarray
    size_px: tuple[float, float]


def trained(world: World, seed: int, steps: int, runs: Path) -> tuple[Run, Path]:
    """A run, and the file of the prior that was trained on its clips; pieces that exist already are kept.

    Seeds of the toy world are runs of their own. Those of a film are trainings on the clips and negatives of one run, which take long
    to read.
    """
    section = SECTION.format(steps=steps, batch=BATCH, negatives=NUM_NEGATIVES)
    data_seed = seed if world.is_generated else 0
    changes = [*world.overrides, f"prior={section}", "executor={kind: in_process}", f"run.seed={data_seed}"]
    run = Run.of(create(runs, load_config(world.config, changes, {}).settings))
    with owned(run):
        run_stages(run, (prompts, train_prior))
    output = prior_output(run)
    if seed == data_seed:
        return run, output / PRIOR_FILE
    other = replace(prior_job(run, require_prior(run), output), seed=seed, output=output / f"seed-{seed}")
    launch(other)
    return run, other.output / PRIOR_FILE


def held_out(run: Run) -> HeldOut:
    """The held-out clips of a run, each once, with their copies."""
    codec = open_codec(run.settings)
    rows: list[tuple[DecodedClip, Prompt, int, str]] = []
    windows = {(p.ground_truth_path or p.source, p.ground_truth_start_s): p for p in run.prompts_of(Split.HELD_OUT)}
    for number, prompt in enumerate(windows.values()):
        try:
            cut = read_prompt_cut(prompt, run.settings)
        except MediaError:
            continue
        rows.append((cut.clip, prompt, number, OWN))
        for negative in delayed_negatives(cut, SHIFTS_S):
            if not isinstance(negative, Absent) and not negative.parameters["silence_s"]:
                rows.append((negative.clip, prompt, number, f"sound ± {negative.step_s:g} s"))
        for negative in negatives(cut, None, run.settings.run.seed, kinds=TEMPORAL_KINDS):
            if not isinstance(negative, Absent):
                rows.append((negative.clip, prompt, number, f"negative {negative.kind}"))
    shape = clip_shape(run.settings)
    video, audio = encoded(codec, [clip for clip, *_ in rows])
    text = open_prior_text(require_prior(run).text).encode([prompt.text for _, prompt, *_ in rows]).states
    recordings = [prompt.ground_truth_path or prompt.source for _, prompt, *_ in rows]
    numbers = {name: place for place, name in enumerate(dict.fromkeys(recordings))}
    return HeldOut(
        video,
        audio,
        text,
        np.array([clip for *_, clip, _ in rows]),
        np.array([numbers[name] for name in recordings]),
        np.array([kind for *_, kind in rows]),
        (float(shape.height_px), float(shape.width_px)),
    )


def encoded(codec: Codec, clips: Sequence[DecodedClip]) -> tuple[Tensor, Tensor]:
    parts = [codec.encode(clips[start : start + BATCH]) for start in range(0, len(clips), BATCH)]
    video = torch.cat([part.video for part in parts if part.video is not None])
    return video, torch.cat([part.audio for part in parts if part.audio is not None])


@torch.no_grad()
def numbers_of(network: SynchronyPrior, clips: HeldOut) -> Mapping[str, np.ndarray]:
    """The two numbers of every row."""
    values: dict[str, list[Tensor]] = {name: [] for name in NUMBERS}
    for start in range(0, len(clips.clip), BATCH):
        rows = slice(start, start + BATCH)
        prior = network(clips.text[rows]).temporal
        batch = ClipBatch(clips.video[rows], clips.audio[rows], clips.size_px)
        embedding = clip_embeddings(network, batch, TEMPORAL)[:, 0]
        values[NUMBERS[0]].append(network.discriminator(prior, embedding))
        values[NUMBERS[1]].append(F.cosine_similarity(embedding, prior, dim=-1).mean(dim=1))
    return {name: torch.cat(parts).double().numpy() for name, parts in values.items()}


def auroc(numbers: np.ndarray, clips: HeldOut, kind: str, seed: int) -> Estimate:
    """AUROC of the clips against their copies of ``kind``, with an interval over recordings."""
    own, other = clips.kind == OWN, clips.kind == kind
    place = {clip: index for index, clip in enumerate(clips.clip[own])}
    positive_of = np.array([place[clip] for clip in clips.clip[other]], np.int64)
    data = DiscriminationData(numbers[own], clips.recording[own].astype(np.int64), numbers[other], positive_of)
    estimate = discriminate(data, 0.0, BootstrapSettings(1000, 0.95, seed)).auroc
    assert estimate is not None
    return estimate


def piece(world: World, seed: int, steps: int, runs: Path) -> list[dict[str, Any]]:
    """The rows of one seed, each with the processor time of all; they are kept in ``runs``, where a later call reads them."""
    began = time.process_time()
    path = runs / f"{world.name.lower().replace(' ', '-')}-{seed}-{steps}.json"
    if path.exists():
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return rows
    run, path_of_prior = trained(world, seed, steps, runs)
    clips, shapes = held_out(run), open_codec(run.settings).encoded_shapes()
    config = prior_config(require_prior(run).network, clips.text.shape[2], shapes)
    networks = {
        "before": new_prior(config, derive_seed("prior network", seed)).eval(),
        "after": read_prior(path_of_prior, config),
    }
    numbers = {name: numbers_of(network, clips) for name, network in networks.items()}
    rows = [
        {
            "kind": kind,
            "number": name,
            "clips": int((clips.kind == OWN).sum()),
            "copies": int((clips.kind == kind).sum()),
            "cpu_s": round(time.process_time() - began),
            **{when: asdict(auroc(values[name], clips, kind, seed)) for when, values in numbers.items()},
        }
        for kind in COPIES
        for name in NUMBERS
    ]
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


def section(world: World, seeds: int, steps: int, runs: Path) -> list[str]:
    """The table of one world, and the processor time of its seeds."""
    pieces = [piece(world, seed, steps, runs) for seed in range(seeds)]
    lines = [
        f"| {seed} | {row['kind']} | {row['number']} | {row['clips']} / {row['copies']} | {shown(Estimate(**row['before']))} | "
        f"{shown(Estimate(**row['after']))} |"
        for seed, rows in enumerate(pieces)
        for row in rows
    ]
    for place, row in enumerate(pieces[0]):
        values = [rows[place]["after"]["value"] for rows in pieces]
        lines.append(f"| all | {row['kind']} | {row['number']} | | | {over_seeds(values)} |")
    return [
        f"## {world.name}",
        "",
        "| seed | copies | number | clips / copies | AUROC before training | AUROC after training |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        f"Processor time: {' and '.join(str(rows[0]['cpu_s']) for rows in pieces)} s.",
        "",
    ]


def shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def over_seeds(values: Sequence[float]) -> str:
    """Mean and Student's 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"**{mean:.3f}** ({mean - half:.3f} to {mean + half:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=Path, help="list of the film's pieces, as make demo-film cuts them")
    parser.add_argument("--toy-config", type=Path, default=ROOT / "configs" / "toyworld.yaml")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--runs", type=Path, help="folder of the runs, which a later call goes on with; default: a temporary one"
    )
    parser.add_argument(
        "--only", nargs=2, metavar=("WORLD", "SEED"), help="compute one piece, such as toy 0 or film 2, into --runs"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worlds = [World("Toy world", arguments.toy_config, (), is_generated=True)]
    if arguments.film is not None:
        worlds.append(
            World(
                "Film",
                ROOT / "configs" / "film.yaml",
                (f"prompts.clips={arguments.film.resolve()}",),
                is_generated=False,
            )
        )
    with tempfile.TemporaryDirectory() as temporary:
        runs = arguments.runs or Path(temporary)
        runs.mkdir(parents=True, exist_ok=True)
        if arguments.only:
            world, seed = (
                next(w for w in worlds if w.name.lower().startswith(arguments.only[0])),
                int(arguments.only[1]),
            )
            piece(world, seed, arguments.steps, runs)
            return
        tables = [line for world in worlds for line in section(world, arguments.seeds, arguments.steps, runs)]
    lines = [
        "# Synchrony prior on the toy world and on a film",
        "",
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}. Made with `python benchmarks/synchrony_prior.py --film films/scenes/clips.csv`.",
        "",
        f"{arguments.steps} steps, batch {BATCH}, {NUM_NEGATIVES} negatives of each kind and clip, text states of a small ImageBind tower "
        "with random weights. AUROC of held-out clips against copies (0.5 is chance).",
        "",
        *tables,
    ]
    print("\n".join(lines))
    if arguments.film is not None and (arguments.steps, arguments.seeds) == (STEPS, SEEDS):
        RESULT.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
