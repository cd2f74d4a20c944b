"""Speed and memory of AV-DPO at the released size on one GPU, beside the released step, and of the four reward models.

Weights are random, of the released network (2.25 billion parameters, LoRA of rank 64, bfloat16 base), and so are latents and texts: speed
and memory do not depend on them. The released step is transcribed (see ``benchmarks/training_step.py``) and runs under autocast. Reward
models need their published weights (``avpref weights fetch``); one whose files are absent is reported as not measured.

    python benchmarks/gpu.py --out gpu.md                  on a GPU, under ten minutes; rows that do not fit the time are named
    python benchmarks/gpu.py --device cpu --size tiny      the same code in seconds, with numbers of no meaning
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from avpref.config.scoring_settings import ModelSettings, ScoringSettings
from avpref.config.training_settings import AdapterSettings, PreferenceLossSettings
from avpref.errors import AvprefError
from avpref.flows.workers.reward_models import reward_model
from avpref.media.reading import DecodedClip
from avpref.models.bases.velocity_network import compile_blocks
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.dit_work import forward_flop
from avpref.models.flow import Latents, interpolate, velocity_target
from avpref.rewards.protocol import ScorableClip
from avpref.trainer.adapters import Policy, make_policy
from avpref.trainer.monitoring.speed import ADAPTER_ALONE, ADAPTER_AND_REFERENCE, peak_tflops
from avpref.trainer.noise import FlowBatch, SampleIndex
from avpref.trainer.objectives import LiveReference, PreferenceObjective, Reference, ReferenceScores

FULL = NetworkConfig(
    dim=1536,
    ffn_dim=8960,
    freq_dim=256,
    text_dim=4096,
    text_len=512,
    num_heads=12,
    num_layers=30,
    in_dim=16,
    audio_in_dim=8,
)
TINY = NetworkConfig(
    dim=256, ffn_dim=512, freq_dim=32, text_dim=24, text_len=8, num_heads=2, num_layers=2, in_dim=16, audio_in_dim=8
)
"""Heads of 128, as the transcription assumes."""
RELEASED_ROW = "released step, transcribed"
GIB, TERA, WARM_UP = 2.0**30, 1e12, 2
REWARD_MODELS = ("audiobox", "imagebind", "synchformer", "videoalign")


@dataclass(frozen=True)
class Bucket:
    """A clip shape: video latents (C, T, h, w) and audio latents (C, L, M)."""

    name: str
    video: tuple[int, int, int, int]
    audio: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        (_, frames, height, width), (_, steps, rows) = self.video, self.audio
        return frames * (height // 2) * (width // 2) + (steps // 2) * (rows // 2)


BUCKETS = (
    Bucket("240p, 65 frames", (16, 17, 30, 54), (8, 102, 16)),
    Bucket("480p, 81 frames", (16, 21, 60, 108), (8, 128, 16)),
)
TINY_BUCKETS = (Bucket("tiny", (16, 2, 4, 4), (8, 8, 16)),)


@dataclass(frozen=True)
class Mode:
    """How a step computes. ``is_released``: the transcription instead of the trainer."""

    name: str
    is_cached: bool = False
    checkpointing: str = "none"
    two_pass: bool = False
    is_compiled: bool = False
    is_released: bool = False


MODES = (
    Mode("live reference, no checkpointing"),
    Mode("cached scores, no checkpointing", is_cached=True),
    Mode("cached scores, compiled blocks", is_cached=True, is_compiled=True),
    Mode("cached scores, selective checkpointing", is_cached=True, checkpointing="selective"),
    Mode("cached scores, full checkpointing", is_cached=True, checkpointing="full"),
    Mode("live reference, two passes, full checkpointing", checkpointing="full", two_pass=True),
    Mode(RELEASED_ROW, checkpointing="full", is_released=True),
)


@dataclass(frozen=True)
class Row:
    """The measurement of one mode: seconds per pair, MFU (None: peak unknown), memory in GiB; or why there is none."""

    mode: Mode
    seconds: float = 0.0
    mfu: float | None = None
    static_gib: float = 0.0
    peak_gib: float = 0.0
    missing: str = ""


def transcription() -> ModuleType:
    """The module ``benchmarks/training_step.py``."""
    spec = importlib.util.spec_from_file_location("released_step", Path(__file__).with_name("training_step.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def random_network(config: NetworkConfig, device: torch.device) -> JavisDiT:
    """Random bfloat16 weights, made on the device: norms around 1, everything else with a spread of 0.02."""
    with torch.device("meta"):
        network = JavisDiT(config, ModelType.T2AV)
    network = network.to(torch.bfloat16).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.02, generator=generator)
    return network.train()


def random_pair(bucket: Bucket, config: NetworkConfig, device: torch.device) -> FlowBatch:
    """Two rows of random latents with equal noise, timestep and text."""
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    t = torch.full((2,), 0.9, device=device)
    flows = []
    for shape in (bucket.video, bucket.audio):
        data, noise = draw(2, *shape), draw(1, *shape).expand(2, *shape)
        flows.append((interpolate(data, noise, t), velocity_target(data, noise)))
    noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
    text = draw(1, config.text_len, config.text_dim).expand(2, -1, -1).contiguous()
    return FlowBatch(noisy, target, t, text, torch.ones(2, config.text_len, device=device), (SampleIndex(0, 0),))


class KnownScores:
    """The scores of a table."""

    def __init__(self, device: torch.device) -> None:
        self._scores = ReferenceScores(torch.ones(2, device=device), torch.ones(2, device=device), None)

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        return self._scores


def our_step(policy: Policy, network: JavisDiT, batch: FlowBatch, mode: Mode) -> Callable[[], None]:
    network.checkpointing = lambda num_tokens: mode.checkpointing  # type: ignore[return-value]
    if mode.is_compiled:
        compile_blocks(network)
    live: Reference = LiveReference(policy, "mean", mode.two_pass)
    scores = KnownScores(batch.t.device) if mode.is_cached else live
    objective = PreferenceObjective(policy, PreferenceLossSettings(), scores, mode.two_pass)
    parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-5, eps=1e-15, weight_decay=0.0, fused=True)

    def step() -> None:
        objective.compute(batch).backward(1.0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def released_step(policy: Policy, batch: FlowBatch) -> Callable[[], None]:
    """The transcription, with the copy of the network that it uses as its reference; factories make tensors on the device."""
    module = transcription()
    device = batch.t.device
    step = module.transcribed_step(module.forward_module(), policy, batch)

    def run() -> None:
        with device, torch.autocast(device.type, torch.bfloat16):
            step()

    return run


def measure(bucket: Bucket, config: NetworkConfig, mode: Mode, sizes: argparse.Namespace) -> Row:
    """Build everything for one mode and time its steps."""
    device = torch.device(sizes.device)
    reset(device)
    try:
        network = random_network(config, device)
        policy = make_policy(network, AdapterSettings(rank=sizes.rank, alpha=sizes.rank / 4), 1, dtype=torch.bfloat16)
        batch = random_pair(bucket, config, device)
        step = released_step(policy, batch) if mode.is_released else our_step(policy, network, batch, mode)
        static = memory_gib(device, is_peak=False)
        seconds = statistics.median(times(step, device, sizes.repeats))
    except torch.OutOfMemoryError:
        return Row(mode, missing="out of memory")
    cost = ADAPTER_ALONE if mode.is_cached else ADAPTER_AND_REFERENCE
    flop = 2 * cost.total * forward_flop(bucket.tokens, config)
    peak = peak_tflops(device)
    mfu = None if peak is None else flop / seconds / TERA / peak
    return Row(mode, seconds, mfu, static, memory_gib(device, is_peak=True))


def times(step: Callable[[], None], device: torch.device, repeats: int) -> Iterator[float]:
    """Seconds of each of ``repeats`` steps after the warm-up."""
    for number in range(WARM_UP + repeats):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_UP:
            yield time.perf_counter() - started


def reset(device: torch.device) -> None:
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory_gib(device: torch.device, *, is_peak: bool) -> float:
    if device.type != "cuda":
        return 0.0
    return (torch.cuda.max_memory_allocated(device) if is_peak else torch.cuda.memory_allocated(device)) / GIB


def reward_rows(sizes: argparse.Namespace, has_time: Callable[[], bool]) -> list[str]:
    """Clips per second of every reward model in bfloat16, on clips of random pictures and sound."""
    model = ModelSettings(dtype="bfloat16" if sizes.device != "cpu" else "float32", batch_clips=sizes.clips)
    sections = {name: {"dtype": model.dtype, "batch_clips": model.batch_clips} for name in REWARD_MODELS}
    scoring = ScoringSettings.model_validate({"preset": "tiny" if sizes.size == "tiny" else "full", **sections})
    rows = []
    for name in REWARD_MODELS:
        if not has_time():
            rows.append(f"| {name} | not measured: no time left |")
            continue
        try:
            scorer = reward_model(name, scoring).open(sizes.device)
        except AvprefError as error:
            rows.append(f"| {name} | not measured: {str(error).splitlines()[0]} |")
            continue
        clips = random_clips(sizes.clips)
        scorer.score(clips)
        started = time.perf_counter()
        scorer.score(clips)
        rows.append(f"| {name} | {len(clips) / (time.perf_counter() - started):.2f} clips/s |")
    return rows


def random_clips(count: int) -> list[ScorableClip]:
    """Clips of 65 frames of 240 x 432 pixels at 16 per second."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (65, 240, 432, 3), dtype=np.uint8)
    sound = random.uniform(-0.5, 0.5, 65_000).astype(np.float32)
    return [
        ScorableClip(f"clip{i}", "a dog barks", DecodedClip(frames, 16.0, sound, 16000, 65 / 16)) for i in range(count)
    ]


def section(bucket: Bucket, rows: list[Row]) -> str:
    """The table of one clip shape."""
    released = next((row.seconds for row in rows if row.mode.is_released and not row.missing), 0.0)
    lines = []
    for row in rows:
        if row.missing:
            lines.append(f"| {row.mode.name} | not measured: {row.missing} | | | | | |")
            continue
        share = f"{row.seconds / released:.2f}" if released else ""
        mfu = "" if row.mfu is None else f"{row.mfu:.1%}"
        speed = f"{2 * bucket.tokens / row.seconds:,.0f}"
        lines.append(
            f"| {row.mode.name} | {row.seconds:.3f} s | {share} | {speed} | {mfu} | {row.static_gib:.1f} | {row.peak_gib:.1f} |"
        )
    head = "| step | seconds per pair | share of the released step | policy tokens/s | MFU | static GiB | peak GiB |"
    return (
        f"## {bucket.name}: {bucket.tokens:,} tokens per clip\n\n{head}\n|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
    )


def report(sizes: argparse.Namespace) -> str:
    """The page."""
    deadline = time.monotonic() + 60 * sizes.minutes
    config, buckets = (TINY, TINY_BUCKETS) if sizes.size == "tiny" else (FULL, BUCKETS)

    def has_time() -> bool:
        return time.monotonic() < deadline

    sections = []
    for bucket in buckets:
        rows = [
            measure(bucket, config, mode, sizes) if has_time() else Row(mode, missing="no time left")
            for mode in MODES
            if not (mode.is_compiled and sizes.eager)
        ]
        sections.append(section(bucket, rows))
    rewards = "\n".join(reward_rows(sizes, has_time))
    device = torch.device(sizes.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"""# AV-DPO on {name}

{datetime.date.today()} · {name} · Python {platform.python_version()}, torch {torch.__version__}

Script: `benchmarks/gpu.py`, size {sizes.size}, LoRA of rank {sizes.rank}, medians of {sizes.repeats} steps after {WARM_UP}.
MFU counts the operations of the model without recomputation; static memory is that of weights, adapter and inputs before the first step.

{chr(10).join(sections)}

## Reward models

| model | throughput |
|---|---|
{rewards}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=4, help="clips per batch of a reward model")
    parser.add_argument("--minutes", type=float, default=9.0, help="rows that would begin later are left out")
    parser.add_argument("--eager", action="store_true", help="without compiled blocks, which need a C++ compiler")
    parser.add_argument("--out", type=Path, help="file for the page; none: it is printed")
    sizes = parser.parse_args()
    text = report(sizes)
    if sizes.out:
        sizes.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
