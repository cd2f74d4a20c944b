"""Claim: a forward pass of our network takes at most 1 / 1.15 of the time of the released forward, transcribed directly.

Both have the same weights (about 50 million parameters, float32), the same inputs (about 2,000 tokens, two rows: a text and a
negative one) and one thread, in eager mode; their outputs must agree. The transcription follows the released code's steps: it
computes the rotary tables in float64 in every layer and for every sample, reads sizes with ``.tolist()``, rotates rows one by one
as complex128, embeds patches by convolutions, and writes out norms and modulation. Attention is the same fused kernel in both.

More rows show where the time goes: the transcription with one table in all, the bare matrix products, and our forward with one timestep per
latent frame. The possible gain depends on the shape: a shape with the released proportions and a narrower one are timed.

    python benchmarks/forward.py                            writes benchmarks/forward.md (some minutes)
    python benchmarks/forward.py --layers 1 --repeats 1     another size: prints the result and writes nothing
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from avpref.models.conditioning import LatentTimes
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents
from avpref.models.initialisation import create_network
from avpref.models.positions import TokenGrid

SHAPES = {
    "384 wide, 10 layers (the released proportions)": NetworkConfig(
        dim=384,
        ffn_dim=2240,
        freq_dim=256,
        text_dim=4096,
        text_len=512,
        num_heads=3,
        num_layers=10,
        in_dim=16,
        audio_in_dim=8,
    ),
}
SHAPES["256 wide, 22 layers"] = replace(*SHAPES.values(), dim=256, ffn_dim=1493, num_heads=2, num_layers=22)
"""Heads of 128 and a feed-forward of 35 / 6 the width, as released."""
VIDEO, AUDIO = (16, 9, 20, 40), (8, 52, 16)
"""A clip of 33 frames, 160 x 320, with its 2.08 s of sound: 1,800 + 208 tokens."""
HEAD_DIM, PATCH, AUDIO_PATCH = 128, (1, 2, 2), (2, 2)
NUM_ROWS, NUM_REPEATS, NUM_THREADS = 2, 7, 1
AGREEMENT, CLAIM, EPS, THETA = 1e-4, 1.15, 1e-6, 10000.0
OURS, PER_FRAME, PLAIN = "ours", "ours, one timestep per latent frame", "direct transcription"
ONE_TABLE, FLOOR = "transcription, one float64 table for all layers", "bare matrix products"
FORWARDS = (OURS, PER_FRAME, PLAIN, ONE_TABLE)

Weights = dict[str, Tensor]
RotaryTable = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Inputs:
    video: Tensor
    audio: Tensor
    t: Tensor
    text: Tensor
    mask: Tensor


def config_of(shape: str, num_layers: int) -> NetworkConfig:
    return replace(SHAPES[shape], num_layers=num_layers) if num_layers else SHAPES[shape]


def make_network(config: NetworkConfig) -> JavisDiT:
    """Every parameter random, output heads included."""
    generator = torch.Generator().manual_seed(0)
    network = create_network(config, ModelType.T2AV, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def make_inputs(config: NetworkConfig, frames: int) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, generator=generator)
    mask = (torch.arange(config.text_len) < torch.tensor([[60], [110]])).float()
    t = torch.full((NUM_ROWS,), 0.7)
    video = draw(NUM_ROWS, VIDEO[0], frames, *VIDEO[2:])
    text = draw(NUM_ROWS, config.text_len, config.text_dim)
    return Inputs(video, draw(NUM_ROWS, *AUDIO), t, text, mask)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def frequencies(width: int) -> Tensor:
    return 1.0 / torch.pow(THETA, torch.arange(0, width, 2).to(torch.float64).div(width))


def position_rows(grid_sizes: Tensor) -> Tensor:
    """Positions (t, h, w) of the tokens of one sample, float64: its video grid, then audio interleaved with an offset."""
    frames, height, width, steps, rows = grid_sizes.tolist()
    t, h, w = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    video = torch.stack([t.flatten(), h.flatten(), w.flatten()], dim=1).double()
    seconds = torch.linspace(0, frames - 1, steps, dtype=torch.float64).ceil()
    audio = torch.stack(
        [
            seconds[:, None].expand(steps, rows),
            (height + torch.arange(steps).double())[:, None].expand(steps, rows),
            (width + torch.arange(rows).double())[None].expand(steps, rows),
        ],
        dim=-1,
    )
    return torch.cat([video, audio.reshape(-1, 3)])


def turning(grid_sizes: Tensor, head_dim: int) -> Tensor:
    """The table of one sample: complex128 [tokens, 1, head_dim / 2]."""
    spatial = 2 * (head_dim // 6)
    positions = position_rows(grid_sizes)
    bands = [
        torch.outer(positions[:, axis], frequencies(width))
        for axis, width in enumerate((head_dim - 2 * spatial, spatial, spatial))
    ]
    angles = torch.cat(bands, dim=1)
    return torch.polar(torch.ones_like(angles), angles).unsqueeze(1)


def rope_apply(x: Tensor, grid_sizes: Tensor, table: RotaryTable) -> Tensor:
    """Rotate x [B, N, heads, head_dim] sample by sample."""
    rows = []
    for index in range(len(x)):
        pairs = torch.view_as_complex(x[index].to(torch.float64).reshape(*x.shape[1:3], -1, 2))
        rows.append(torch.view_as_real(pairs * table(grid_sizes[index], x.shape[3])).flatten(2))
    return torch.stack(rows).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    exact = x.float()
    return (exact * torch.rsqrt(exact.pow(2).mean(dim=-1, keepdim=True) + EPS)).type_as(x) * weight


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return mixed.transpose(1, 2).flatten(2)


def split_heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], -1, HEAD_DIM)


def self_attention(w: Weights, name: str, x: Tensor, grid_sizes: Tensor, table: RotaryTable) -> Tensor:
    q = split_heads(rms_norm(linear(w, f"{name}.q", x), w[f"{name}.norm_q.weight"]))
    k = split_heads(rms_norm(linear(w, f"{name}.k", x), w[f"{name}.norm_k.weight"]))
    v = split_heads(linear(w, f"{name}.v", x))
    mixed = attention(rope_apply(q, grid_sizes, table), rope_apply(k, grid_sizes, table), v)
    return linear(w, f"{name}.o", mixed)


def cross_attention(w: Weights, name: str, x: Tensor, context: Tensor) -> Tensor:
    q = split_heads(rms_norm(linear(w, f"{name}.q", x), w[f"{name}.norm_q.weight"]))
    k = split_heads(rms_norm(linear(w, f"{name}.k", context), w[f"{name}.norm_k.weight"]))
    return linear(w, f"{name}.o", attention(q, k, split_heads(linear(w, f"{name}.v", context))))


def feed(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.2", F.gelu(linear(w, f"{name}.0", x), approximate="tanh"))


def transcribed_block(
    w: Weights,
    name: str,
    x: Tensor,
    e0: Tensor,
    a0: Tensor,
    context: Tensor,
    grid_sizes: Tensor,
    table: RotaryTable,
) -> Tensor:
    shift, scale, gate, shift_2, scale_2, gate_2 = (w[f"{name}.modulation"] + e0).chunk(6, dim=1)
    y = self_attention(w, f"{name}.self_attn", layer_norm(x) * (1 + scale) + shift, grid_sizes, table)
    x = x + y * gate
    affine = F.layer_norm(x, x.shape[-1:], w[f"{name}.norm3.weight"], w[f"{name}.norm3.bias"], EPS)
    x = x + cross_attention(w, f"{name}.cross_attn", affine, context)
    num_video = int(grid_sizes[0, :3].prod())
    video, audio = x[:, :num_video], x[:, num_video:]
    video = video + feed(w, f"{name}.ffn", layer_norm(video) * (1 + scale_2) + shift_2) * gate_2
    shift_a, scale_a, gate_a = (w[f"{name}.audio_modulation.param"] + a0).chunk(3, dim=1)
    audio = audio + feed(w, f"{name}.audio_ffn", layer_norm(audio) * (1 + scale_a) + shift_a) * gate_a
    return torch.cat([video, audio], dim=1)


def head(w: Weights, name: str, x: Tensor, e: Tensor) -> Tensor:
    shift, scale = (w[f"{name}.modulation"] + e.unsqueeze(1)).chunk(2, dim=1)
    return linear(w, f"{name}.head", layer_norm(x.float()) * (1 + scale) + shift)


def transcribed(w: Weights, inputs: Inputs, table: RotaryTable = turning) -> Latents:
    """The released forward; velocities in our sign."""
    video = F.conv3d(inputs.video, w["patch_embedding.weight"], w["patch_embedding.bias"], stride=PATCH)
    audio = F.conv2d(
        inputs.audio, w["audio_patch_embedding.weight"], w["audio_patch_embedding.bias"], stride=AUDIO_PATCH
    )
    grid_sizes = torch.tensor([[*video.shape[2:], *audio.shape[2:]]] * len(inputs.t))
    x = torch.cat([video.flatten(2).transpose(1, 2), audio.flatten(2).transpose(1, 2)], dim=1)

    half = w["time_embedding.0.weight"].shape[1] // 2
    angles = torch.outer(inputs.t.double() * 1000, torch.pow(THETA, -torch.arange(half).double().div(half)))
    features = torch.cat([angles.cos(), angles.sin()], dim=1).float()
    e = linear(w, "time_embedding.2", F.silu(linear(w, "time_embedding.0", features)))
    e0 = linear(w, "time_projection.1", F.silu(e)).unflatten(1, (6, -1))
    a0 = linear(w, "audio_time_projection.1", F.silu(e)).unflatten(1, (3, -1))
    kept = inputs.text * (inputs.mask != 0).unsqueeze(-1)
    context = feed(w, "text_embedding", kept)
    num_blocks = sum(name.endswith("self_attn.q.weight") for name in w)
    for index in range(num_blocks):
        x = transcribed_block(w, f"blocks.{index}", x, e0, a0, context, grid_sizes, table)
    frames, height, width, steps, rows = grid_sizes[0].tolist()
    num_video = frames * height * width
    seen = head(w, "head", x[:, :num_video], e).view(-1, frames, height, width, *PATCH, VIDEO[0])
    heard = head(w, "audio_head", x[:, num_video:], e).view(-1, steps, rows, *AUDIO_PATCH, AUDIO[0])
    return Latents(
        torch.einsum("bfhwpqrc->bcfphqwr", seen).reshape(inputs.video.shape),
        torch.einsum("btmpqc->bctpmq", heard).reshape(inputs.audio.shape),
    )


def matrix_products(config: NetworkConfig, grid: TokenGrid) -> Callable[[], None]:
    """All products of one forward and nothing else: linear maps without bias, and the two products of each attention.

    Products of one shape share an output buffer, so that no time is spent on new memory.
    """
    d, hidden, text = config.dim, config.ffn_dim, NUM_ROWS * config.text_len
    tokens = grid.num_video + grid.num_audio
    parts = [NUM_ROWS * count for count in (grid.num_video, grid.num_audio)]
    shapes = [(text, config.text_dim, d), (text, d, d)]
    layer = [(NUM_ROWS * tokens, d, d)] * 6 + [(text, d, d)] * 2
    for rows in parts:
        layer += [(rows, d, hidden), (rows, hidden, d)]
    for keys in (tokens, config.text_len):
        layer += [(tokens, HEAD_DIM, keys), (tokens, keys, HEAD_DIM)] * NUM_ROWS * config.num_heads
    buffers = {shape: product_buffers(*shape) for shape in {*shapes, *layer}}

    def run() -> None:
        for shape in shapes + layer * config.num_layers:
            a, b, out = buffers[shape]
            torch.mm(a, b, out=out)

    return run


def product_buffers(rows: int, inner: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)


def peak_mib(shape: str, name: str) -> float:
    """Peak resident memory of one forward above network and inputs, in MiB, measured in a process of its own.

    Call it while this process is small, because the peak of a child process starts at that of its parent.
    """
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", shape, name]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(completed.stdout)


def report_memory(shape: str, name: str, sizes: argparse.Namespace) -> None:
    config = config_of(shape, sizes.layers)
    work = runs(make_network(config), make_inputs(config, sizes.frames))[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        work()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def runs(network: JavisDiT, inputs: Inputs) -> dict[str, Callable[[], Latents]]:
    weights: Weights = {name: tensor.detach() for name, tensor in network.named_parameters()}
    latents, tables = Latents(inputs.video, inputs.audio), dict[int, Tensor]()
    per_frame = LatentTimes(*(inputs.t[:, None].expand(-1, part.shape[2]) for part in (inputs.video, inputs.audio)))

    def kept(grid_sizes: Tensor, head_dim: int) -> Tensor:
        return tables[head_dim] if head_dim in tables else tables.setdefault(head_dim, turning(grid_sizes, head_dim))

    return {
        OURS: lambda: network(latents, inputs.t, inputs.text, inputs.mask),
        PER_FRAME: lambda: network(latents, per_frame, inputs.text, inputs.mask),
        PLAIN: lambda: transcribed(weights, inputs),
        ONE_TABLE: lambda: transcribed(weights, inputs, kept),
    }


@dataclass(frozen=True)
class Seconds:
    processor: float
    wall: float


def timed(compute: Callable[[], object]) -> Seconds:
    processor, wall = time.process_time(), time.perf_counter()
    compute()
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def largest_difference(actual: Latents, expected: Latents) -> float:
    """Largest absolute difference, relative to the largest absolute value expected."""
    gaps = [
        (a - b).abs().max() / b.abs().max()
        for a, b in zip(actual, expected, strict=True)
        if a is not None and b is not None
    ]
    return float(max(gaps))


def measure(shape: str, memory: dict[str, float], sizes: argparse.Namespace) -> str:
    """The section of the result about one shape."""
    config = config_of(shape, sizes.layers)
    network, inputs = make_network(config), make_inputs(config, sizes.frames)
    grid = network.token_grid(Latents(inputs.video, inputs.audio))
    forwards = runs(network, inputs)
    works: dict[str, Callable[[], object]] = {**forwards, FLOOR: matrix_products(config, grid)}
    with torch.inference_mode():
        expected = forwards[PLAIN]()
        difference = max(largest_difference(run(), expected) for run in forwards.values())
        assert difference <= AGREEMENT, f"they differ by {difference}"
        for work in works.values():
            work()
        repeats = [{name: timed(work) for name, work in works.items()} for _ in range(sizes.repeats)]
    num_parameters, num_tokens = (
        sum(parameter.numel() for parameter in network.parameters()),
        grid.num_video + grid.num_audio,
    )
    rows = "\n".join(row(name, repeats, memory) for name in works)
    return f"""## {shape}

{num_parameters:,} parameters, {num_tokens:,} tokens, {config.text_len} text positions, batch {NUM_ROWS}.
All forwards agree within {difference:.1e} of the output's scale.

| | processor | wall | times ours, processor | wall | peak |
|---|---|---|---|---|---|
{rows}

Claim: ours is at least {CLAIM} times faster than the direct transcription.
{verdict(repeats)}
"""


def verdict(repeats: list[dict[str, Seconds]]) -> str:
    ratio = ratio_of(PLAIN, repeats, "processor")
    bound = statistics.median(repeat[PLAIN].processor / repeat[FLOOR].processor for repeat in repeats)
    return (
        f"Measured {ratio:.2f}: it {'holds' if ratio >= CLAIM else 'does not hold'} for this shape. "
        f"The bare products alone, with nothing between\nthem, are {bound:.2f} times faster than the transcription."
    )


def ratio_of(name: str, repeats: list[dict[str, Seconds]], kind: str) -> float:
    """Median over repeats of the ratio to the time of our forward."""
    return statistics.median(getattr(repeat[name], kind) / getattr(repeat[OURS], kind) for repeat in repeats)


def row(name: str, repeats: list[dict[str, Seconds]], memory: dict[str, float]) -> str:
    processor, wall = (
        statistics.median(getattr(repeat[name], kind) for repeat in repeats) for kind in ("processor", "wall")
    )
    ratios = [repeat[name].processor / repeat[OURS].processor for repeat in repeats]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    peak = f"{memory[name]:.0f} MiB" if name in memory else ""
    return f"| {name} | {processor:.2f} s | {wall:.2f} s | {spread} | {ratio_of(name, repeats, 'wall'):.2f} | {peak} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=0, help="layers of every shape; 0: those of the shape")
    parser.add_argument("--frames", type=int, default=VIDEO[1], help="latent frames")
    parser.add_argument("--repeats", type=int, default=NUM_REPEATS)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="number of shapes")
    parser.add_argument("--memory-of", nargs=2, metavar=("SHAPE", "FORWARD"), help="print one peak and nothing else")
    sizes = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    if sizes.memory_of:
        report_memory(*sizes.memory_of, sizes)
        return
    shapes = list(SHAPES)[: sizes.shapes]
    memory = {shape: {name: peak_mib(shape, name) for name in FORWARDS} for shape in shapes}
    text = report([measure(shape, memory[shape], sizes) for shape in shapes], sizes.repeats)
    if sizes == parser.parse_args([]):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


def report(sections: list[str], repeats: int) -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"""# One forward pass

{datetime.date.today()} · {os.cpu_count()} cores ({processor_name()}), shared with other work (load average
{load} at the end) · Python {platform.python_version()}, torch {torch.__version__}, float32, eager, {NUM_THREADS} thread

Script: `benchmarks/forward.py`. Medians of {repeats} interleaved repeats; "times ours" is repeat by repeat, with
its range. Peak is how far one forward, in a process of its own, raises resident memory above network and inputs.

{chr(10).join(sections)}"""


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()


if __name__ == "__main__":
    main()
