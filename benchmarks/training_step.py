"""Claim: a step of AV-DPO takes at most 0.70 of the time of the released step, transcribed directly, and 0.55 with cached scores.

Both train a LoRA adapter on one pair of about 2,000 tokens in a network of about 50 million parameters (float32, one thread). The
transcription follows the released trainer: a deep copy of the network with its adapter is the reference, every block is checkpointed,
rotary tables are computed in float64 in every layer, and nothing is cached. Its losses and gradients must agree with ours. It leaves out
the released EMA copy of the whole network, dropout, and encoding of clips and texts in the step, which would all make it slower or larger.

Memory is the peak of a process that takes one step, above that of a process that has only taken steps of a network of about a megabyte,
which import what a step imports. Tensors of 1 MiB and more are mapped one by one (glibc's ``MALLOC_MMAP_THRESHOLD_``), so that freed
ones do not count. In glibc's heap they leave holes that the next larger tensor does not fit into.

    python benchmarks/training_step.py                                    writes benchmarks/training_step.md (some minutes)
    python benchmarks/training_step.py --layers 1 --frames 1 --repeats 1  another size: prints the result and writes nothing
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib.util
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings, PreferenceLossSettings
from avpref.models.dit import JavisDiT, NetworkConfig
from avpref.models.dit_work import attention_flop, forward_flop, num_tokens
from avpref.models.flow import Latents, LatentShapes, interpolate, velocity_target
from avpref.models.text_padding import merge_padding
from avpref.trainer.adapters import Policy, factors, make_policy
from avpref.trainer.memory_plan import MemoryRequest, plan_memory
from avpref.trainer.noise import FlowBatch, SampleIndex
from avpref.trainer.objectives import LiveReference, PreferenceObjective, Reference, ReferenceScores, errors_of

NUM_REPEATS, NUM_THREADS, AGREEMENT = 3, 1, 2e-3
RANK, ALPHA = 16, 4.0
"""The released 64 and 16, in proportion to the width."""
LOSS = PreferenceLossSettings()
RELEASED = "direct transcription"
LIVE, CACHED = "ours, live reference", "ours, cached scores"
SELECTIVE = "ours, cached, selective checkpointing"
LEAN = "ours, cached, full checkpointing, by side"
REPLAYED = "ours, cached, two passes, full checkpointing"
LIVE_LEAN = "ours, live, full checkpointing, by side"
MODES = (RELEASED, LIVE, CACHED, SELECTIVE, LEAN, REPLAYED, LIVE_LEAN)
TIMED = (RELEASED, LIVE, CACHED, LEAN)
NOTHING = "nothing"

MAPPED_BYTES, HEAD = 2**20, 128

Weights = dict[str, Tensor]
Step = Callable[[], Tensor]


def forward_module() -> ModuleType:
    """The transcription of the released forward, in a copy of ``benchmarks/forward.py`` that this script may change."""
    spec = importlib.util.spec_from_file_location("released_forward", Path(__file__).with_name("forward.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make_batch(released: ModuleType, frames: int, layers: int) -> FlowBatch:
    """One pair: two rows with equal noise, timestep and text."""
    inputs = released.make_inputs(released.config_of(next(iter(released.SHAPES)), layers), frames)
    generator = torch.Generator().manual_seed(2)
    t = torch.full((2,), 0.7)
    flows = []
    for data in (inputs.video, inputs.audio):
        noise = torch.randn(data[:1].shape, generator=generator).expand_as(data)
        flows.append((interpolate(data, noise, t), velocity_target(data, noise)))
    noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
    text, mask = (part[:1].expand_as(part).contiguous() for part in (inputs.text, inputs.mask))
    return FlowBatch(noisy, target, t, text, mask, (SampleIndex(0, 0),))


def make_trained_policy(network: JavisDiT) -> Policy:
    """A policy some steps after its start, so that both factors of its adapter have gradients."""
    policy = make_policy(network, AdapterSettings(rank=RANK, alpha=ALPHA), seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in policy.layers:
            up = factors(layer, "policy")[1]
            up.copy_(1e-3 * torch.randn(up.shape, generator=generator))
    return policy


class KnownScores:
    """Scores of the reference that were computed before."""

    def __init__(self, scores: ReferenceScores) -> None:
        self._scores = scores

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        return self._scores


def our_step(released: ModuleType, mode: str, sizes: argparse.Namespace, known: ReferenceScores | None) -> Step:
    """A step of the trainer in ``mode``; ``known`` are the reference's scores for the cached modes."""
    network = released.make_network(released.config_of(next(iter(released.SHAPES)), sizes.layers)).train()
    if "full" in mode or "selective" in mode:
        network.checkpointing = lambda num_tokens: "selective" if "selective" in mode else "full"
    policy, batch = make_trained_policy(network), make_batch(released, sizes.frames, sizes.layers)
    by_side, two_pass = "by side" in mode, "two passes" in mode
    scores: Reference = LiveReference(policy, "mean", by_side or two_pass)
    if "cached" in mode:
        scores = KnownScores(known if known is not None else zero_scores())
    objective = PreferenceObjective(policy, LOSS, scores, two_pass, by_side)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.0, eps=1e-15, weight_decay=0.0, fused=True)

    def step() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        result = objective.compute(batch)
        result.backward(1.0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        return result.loss.detach()

    step.gradients = lambda: {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}  # type: ignore[attr-defined]
    return step


def zero_scores() -> ReferenceScores:
    return ReferenceScores(torch.zeros(2), torch.zeros(2), None)


def released_step(released: ModuleType, sizes: argparse.Namespace) -> Step:
    network = released.make_network(released.config_of(next(iter(released.SHAPES)), sizes.layers))
    return transcribed_step(
        released, make_trained_policy(network), make_batch(released, sizes.frames, sizes.layers), lr=0.0
    )


def transcribed_step(released: ModuleType, policy: Policy, batch: FlowBatch, lr: float = 1e-5) -> Step:
    """The released step: policy and a copy of it as reference, adapters in both, every block checkpointed.

    ``released`` is changed: it becomes the forward of adapted and checkpointed blocks.
    """
    weights = plain_weights(policy)
    frozen = copy.deepcopy({name: tensor.detach() for name, tensor in weights.items()})
    for name, tensor in frozen.items():
        if "lora_B" in name:
            tensor.zero_()
    released.linear = adapted_linear
    released.transcribed_block = partial(checkpointed_block, released.transcribed_block)
    inputs = released.Inputs(batch.noisy.video, batch.noisy.audio, batch.t, batch.text, batch.text_mask)
    parameters = [tensor for name, tensor in weights.items() if "lora_" in name]
    optimiser = torch.optim.AdamW(parameters, lr=lr, eps=1e-15, weight_decay=0.0)

    def step() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        velocity = released.transcribed(weights, inputs)
        with torch.no_grad():
            reference = released.transcribed(frozen, inputs)
        loss = released_loss(velocity, reference, batch.target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        return loss.detach()

    step.gradients = lambda: {name: t.grad for name, t in weights.items() if t.grad is not None}  # type: ignore[attr-defined]
    return step


def plain_weights(policy: Policy) -> Weights:
    """Tensors under the released names; the factors of the adapter beside their linear layer."""
    named = {}
    for name, parameter in policy.model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".policy.weight", "")
        named[plain] = parameter
    return named


def adapted_linear(w: Weights, name: str, x: Tensor) -> Tensor:
    result = F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
    if f"{name}.lora_A" not in w:
        return result
    return result + F.linear(F.linear(x, w[f"{name}.lora_A"]), w[f"{name}.lora_B"]) * (ALPHA / RANK)


def checkpointed_block(block: Callable[..., Tensor], *arguments: object) -> Tensor:
    if not torch.is_grad_enabled():
        return block(*arguments)
    output: Tensor = checkpoint(block, *arguments, use_reentrant=False)
    return output


def released_loss(velocity: Latents, reference: Latents, target: Latents) -> Tensor:
    """Per modality -log sigmoid(-beta / 2 (D_policy - D_reference)) + 0.1 l_w, summed."""
    total = target[0].new_zeros(()) if target[0] is not None else torch.zeros(())
    for predicted, frozen, wanted, beta in zip(
        velocity, reference, target, (LOSS.beta_video, LOSS.beta_audio), strict=True
    ):
        assert predicted is not None and frozen is not None and wanted is not None
        policy, ref = ((v.float() - wanted).square().mean(tuple(range(1, v.ndim))) for v in (predicted, frozen))
        logits = -0.5 * beta * ((policy[0] - policy[1]) - (ref[0] - ref[1]))
        total = total - F.logsigmoid(logits) + LOSS.flow_weight * policy[0]
    return total


def make_step(mode: str, sizes: argparse.Namespace, known: ReferenceScores | None = None) -> Step:
    released = forward_module()
    return released_step(released, sizes) if mode == RELEASED else our_step(released, mode, sizes, known)


def known_scores(sizes: argparse.Namespace) -> ReferenceScores:
    released = forward_module()
    network = released.make_network(released.config_of(next(iter(released.SHAPES)), sizes.layers)).train()
    batch = make_batch(released, sizes.frames, sizes.layers)
    with torch.no_grad():
        velocity = network(batch.noisy, batch.t, batch.text, batch.text_mask)
    return ReferenceScores(*errors_of(velocity, batch.target, "mean"), None)


@dataclass(frozen=True)
class Seconds:
    processor: float
    wall: float


def timed(step: Step) -> Seconds:
    processor, wall = time.process_time(), time.perf_counter()
    step()
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def check_agreement(steps: dict[str, Step]) -> float:
    """The largest difference of losses and gradients, relative to the transcription's gradients. The first run of every step."""
    losses = {name: step() for name, step in steps.items()}
    expected = steps[RELEASED].gradients()  # type: ignore[attr-defined]
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    worst = max(abs(float(loss - losses[RELEASED])) for loss in losses.values())
    for name, step in steps.items():
        if name != RELEASED:
            mine = step.gradients()  # type: ignore[attr-defined]
            assert len(mine) == len(expected)
            for key, gradient in mine.items():
                plain = key.removeprefix("base_model.model.").replace(".policy.weight", "")
                worst = max(worst, float((gradient - expected[plain]).abs().max()) / scale)
    assert worst <= AGREEMENT, f"they differ by {worst}"
    return worst


def peak_mib(mode: str) -> float:
    """Peak resident memory of one step in a process of its own, in MiB."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", mode]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MAPPED_BYTES)}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def report_memory(mode: str, sizes: argparse.Namespace) -> None:
    small = argparse.Namespace(layers=1, frames=1)
    for step in (
        released_step,
        partial(our_step, mode=LEAN, known=None),
        partial(our_step, mode=SELECTIVE, known=None),
    ):
        released = forward_module()
        name, config = next(iter(released.SHAPES.items()))
        released.SHAPES = {name: replace(config, dim=HEAD, ffn_dim=8, freq_dim=8, text_dim=8, text_len=8, num_heads=1)}
        step(released, sizes=small)()
    if mode != NOTHING:
        make_step(mode, sizes)()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(sizes: argparse.Namespace) -> str:
    """The dated page."""
    start = peak_mib(NOTHING)
    memory = {mode: peak_mib(mode) - start for mode in MODES}
    known = known_scores(sizes)
    steps = {mode: make_step(mode, sizes, known) for mode in TIMED}
    agreement = check_agreement(steps)
    repeats = [{mode: timed(step) for mode, step in steps.items()} for _ in range(sizes.repeats)]
    released = forward_module()
    config = released.config_of(next(iter(released.SHAPES)), sizes.layers)
    batch = make_batch(released, sizes.frames, sizes.layers)
    network = released.make_network(config)
    grid = network.token_grid(batch.noisy)
    count = sum(parameter.numel() for parameter in network.parameters())
    shape = f"{count:,} parameters, {grid.num_video + grid.num_audio:,} tokens per clip, one pair, rank {RANK}"
    return page(shape, agreement, repeats, memory) + counted(config, batch)


def operations(tokens: int, settings: NetworkSettings) -> tuple[float, float]:
    """Operations of a forward pass, and of a backward pass to an adapter."""
    forward, attention = forward_flop(tokens, settings), attention_flop(tokens, settings)
    return forward, forward + 1.5 * attention


def counted(config: NetworkConfig, batch: FlowBatch) -> str:
    """Shares that follow from numbers of operations alone, and bytes that autograd keeps; both are counted, not measured."""
    values = asdict(config)
    settings = NetworkSettings.model_validate({name: values[name] for name in NetworkSettings.model_fields})
    shapes = LatentShapes(*(None if part is None else tuple(part.shape[1:]) for part in batch.noisy))
    tokens = num_tokens(shapes, settings)
    positions = merge_padding(batch.text, batch.text_mask)[0].shape[1]
    forward, backward = operations(tokens, settings)
    our_forward, our_backward = operations(tokens, settings.model_copy(update={"text_len": positions}))
    released = 3 * forward + backward
    live, cached = (passes * our_forward + our_backward for passes in (2, 1))
    adapter = AdapterSettings(rank=RANK, alpha=ALPHA)
    plans = {
        mode: plan_memory(MemoryRequest(settings, adapter, "float32", shapes, 2, mode))
        for mode in ("none", "selective", "full")
    }
    words = {mode: "without" if mode == "none" else f"with {mode}" for mode in plans}
    kept = ", ".join(f"{plan.activations / 2**20:.0f} MiB {words[mode]} checkpointing" for mode, plan in plans.items())
    return f"""
Counted, not measured: with F operations of a forward pass and B = F + 1.5 A of a backward pass to an adapter (A of F are attention), the
transcription takes 3 F + B, and a step without checkpointing 2 F + B with a live reference and F + B with cached scores. Our F has
{positions} of {config.text_len} positions of the text. Shares of {live / released:.2f} and {cached / released:.2f} follow, if both sides
did nothing else. For the backward pass autograd keeps {kept}
({plans["full"].block / 2**20:.0f} MiB more while a block is recomputed). Weights are {plans["none"].weights / 2**20:.0f} MiB; the
transcription holds them twice.
"""


def share(mode: str, repeats: list[dict[str, Seconds]], kind: str = "processor") -> list[float]:
    return [getattr(repeat[mode], kind) / getattr(repeat[RELEASED], kind) for repeat in repeats]


def page(shape: str, agreement: float, repeats: list[dict[str, Seconds]], memory: dict[str, float]) -> str:
    rows = []
    for mode in MODES:
        relative = memory[mode] / memory[RELEASED]
        if mode in TIMED:
            ratios = share(mode, repeats)
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            processor, wall = (statistics.median(getattr(r[mode], k) for r in repeats) for k in ("processor", "wall"))
            rows.append(
                f"| {mode} | {processor:.2f} s | {wall:.2f} s | {spread} | {memory[mode]:.0f} MiB | {relative:.2f} |"
            )
        else:
            rows.append(f"| {mode} | | | | {memory[mode]:.0f} MiB | {relative:.2f} |")
    live, cached = (statistics.median(share(mode, repeats)) for mode in (LIVE, CACHED))
    smallest = min(MODES, key=lambda mode: memory[mode])
    lean = memory[LEAN] / memory[RELEASED]
    claims = (
        ("time with a live reference", live, 0.70),
        ("time with cached scores", cached, 0.55),
        (f"memory of `{LEAN}`", lean, 0.60),
    )
    verdicts = "\n".join(
        f"* {name}: claimed at most {bound:.2f}, measured {value:.2f}: it {'holds' if value <= bound else 'does not hold'}."
        for name, value, bound in claims
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"""# One AV-DPO step

{datetime.date.today()} · {os.cpu_count()} cores ({platform.machine()}), shared with other work (load average
{load} at the end) · Python {platform.python_version()}, torch {torch.__version__}, float32, eager, {NUM_THREADS} thread

Script: `benchmarks/training_step.py`. {shape}. Medians of {len(repeats)} interleaved
repeats; shares are repeat by repeat, with their range. Losses and gradients agree within {agreement:.1e}.

| step | processor | wall | share of the transcription's processor time | peak memory | share |
|---|---|---|---|---|---|
{chr(10).join(rows)}

{verdicts}

The fast steps keep all activations and so need more memory than the transcription; the lean ones recompute them and are not as fast. The
settings are `dpo.reference`, `dpo.by_side`, `dpo.two_pass` and `loop.activation_checkpointing`. The least memory has `{smallest}`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=0, help="layers; 0: those of the shape")
    parser.add_argument("--frames", type=int, default=9, help="latent frames")
    parser.add_argument("--repeats", type=int, default=NUM_REPEATS)
    parser.add_argument("--memory-of", metavar="MODE", help="print one peak and nothing else")
    sizes = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    if sizes.memory_of:
        report_memory(sizes.memory_of, sizes)
        return
    text = measure(sizes)
    if sizes == parser.parse_args([]):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
