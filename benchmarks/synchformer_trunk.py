"""Time of Synchformer's video tower compared with a plain implementation of its formulas, at full size, on a CPU.

    python benchmarks/synchformer_trunk.py                      writes benchmarks/synchformer_trunk.md (several minutes)
    python benchmarks/synchformer_trunk.py --depth 2 --dim 96   another size: prints the result and writes nothing

Both have the same random weights and the same segments, and their outputs must agree. The plain tower follows the paper:
separate heads, the class token before every group, softmax(q kᵀ) v written out, and the whole last layer. Ours uses the
fused kernel, packs the weights of its products once, and computes only the used part of the last layer. Each is timed with
one segment at a time, as the scorer runs on a CPU, and with all segments of a clip in one batch, on one thread and on all
threads. Repeats are interleaved. Ratios are given of wall time and of processor time, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from avpref.rewards.random_weights import fill
from avpref.rewards.synchformer.linear import pack
from avpref.rewards.synchformer.synchformer_towers import (
    FULL,
    DividedAttention,
    PooledTokens,
    SpaceTimeBlock,
    SynchformerSizes,
    VideoTower,
)
from avpref.storage.weight_files import on_meta

NUM_SEGMENTS, NUM_REPEATS = 2, 3
THREADS = tuple(dict.fromkeys((1, os.cpu_count() or 1)))
PLAIN, OURS = "plain, one by one", "ours, one by one"
PRODUCTS = "plain matrix products of the blocks alone, one by one"
AGREEMENT = 5e-5
CLOCKS = ("processor", "wall")


OVER_TIME, OVER_SPACE = (2, 1), (1, 2)
"""Which axes of the patches [.., T, N, ..] are groups and members."""


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v over the last two axes [L, d]; all weights are written out."""
    weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)
    return weights @ value


def plain_divided(layer: DividedAttention, tokens: Tensor, steps: int, order: tuple[int, int]) -> Tensor:
    """Tokens [B, 1 + T·N, D]: the class token attends to all of them, a patch to the class token and its own group."""
    heads = layer.qkv(tokens).unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = (part.contiguous() for part in heads)  # [B, H, 1 + T·N, d] each
    first = plain_attention(query[:, :, :1], key, value)

    def grouped(part: Tensor) -> Tensor:
        return part[:, :, 1:].unflatten(2, (steps, -1)).movedim((order[0] + 1, order[1] + 1), (2, 3)).contiguous()

    def with_class(part: Tensor) -> Tensor:
        groups = grouped(part)
        return torch.cat([part[:, :, None, :1].expand(-1, -1, groups.shape[2], -1, -1), groups], dim=3)

    rest = plain_attention(grouped(query), with_class(key), with_class(value))
    rest = rest.movedim((2, 3), (order[0] + 1, order[1] + 1)).flatten(2, 3)
    return layer.proj(torch.cat([first, rest], dim=2).transpose(1, 2).flatten(2))


def plain_block(block: SpaceTimeBlock, tokens: Tensor, steps: int) -> Tensor:
    tokens = tokens + plain_divided(block.timeattn, block.norm3(tokens), steps, OVER_TIME)
    tokens = tokens + plain_divided(block.attn, block.norm1(tokens), steps, OVER_SPACE)
    return tokens + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(tokens))))


def plain_pool(pool: PooledTokens, tokens: Tensor) -> Tensor:
    """The whole encoder layer over [B, N, D], of which the first tokens are kept."""
    attention = pool.self_attn
    tokens = torch.cat([pool.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
    packed = functional.linear(pool.norm1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = packed.unflatten(-1, (3, attention.heads, -1)).unbind(2)
    logits = torch.einsum("bnhd,bmhd->bnhm", query, key) / query.shape[-1] ** 0.5
    mixed = torch.einsum("bnhm,bmhd->bnhd", torch.softmax(logits, dim=-1), value)
    tokens = tokens + attention.out_proj(mixed.flatten(2))
    return (tokens + pool.linear2(functional.gelu(pool.linear1(pool.norm2(tokens)))))[:, 0]


def plain_tower(tower: VideoTower, segments: Tensor) -> Tensor:
    """As :meth:`VideoTower.forward`."""
    steps = tower.sizes.video_steps
    patches = tower.patch_embed_3d["proj"](segments.permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
    positions = torch.cat([tower.pos_embed[0, 1:] + moment for moment in tower.temp_embed[0]])
    first = (tower.cls_token + tower.pos_embed[:, :1]).expand(len(segments), -1, -1)
    tokens = torch.cat([first, patches + positions], dim=1)
    for block in tower.blocks:
        assert isinstance(block, SpaceTimeBlock)
        tokens = plain_block(block, tokens, steps)
    moments = tower.norm(tokens[:, 1:]).unflatten(1, (steps, -1))
    return plain_pool(tower.spatial_attn_agg, moments.flatten(0, 1)).unflatten(0, (-1, steps))


def products(tower: VideoTower, segments: Tensor) -> Tensor:
    """Only the matrix products of the blocks, without packed weights, one segment at a time: a lower limit of the time of such a tower."""
    tokens = torch.zeros(1 + tower.sizes.video_steps * tower.sizes.num_patches, tower.sizes.dim)
    for _ in segments:
        for block in tower.blocks:
            assert isinstance(block, SpaceTimeBlock)
            for attention in (block.timeattn, block.attn):
                attention.qkv(tokens)
                attention.proj(tokens)
            block.mlp.fc2(block.mlp.fc1(tokens))
    return tokens


def one_by_one(compute: Callable[[Tensor], Tensor], segments: Tensor) -> Tensor:
    return torch.cat([compute(segment) for segment in segments.split(1)])


@dataclass(frozen=True)
class Seconds:
    processor: float
    wall: float


def timed(compute: Callable[[], Tensor]) -> Seconds:
    processor, wall = time.process_time(), time.perf_counter()
    compute()
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=FULL.depth, help="layers of the tower")
    parser.add_argument("--dim", type=int, default=FULL.dim, help="width of the tower, a multiple of its 12 heads")
    parser.add_argument("--repeats", type=int, default=NUM_REPEATS)
    chosen = parser.parse_args()
    sizes = replace(FULL, depth=chosen.depth, dim=chosen.dim)
    tower: VideoTower = on_meta(lambda: VideoTower(sizes))
    fill(tower)
    ours = copy.deepcopy(tower)
    pack(ours, sizes.video_tokens)
    random = torch.Generator().manual_seed(0)
    side = sizes.image_px
    segments = torch.rand(NUM_SEGMENTS, sizes.segment_frames, side, side, 3, generator=random) * 2 - 1
    runs: dict[str, Callable[[], Tensor]] = {
        "plain, all at once": lambda: plain_tower(tower, segments),
        PLAIN: lambda: one_by_one(partial(plain_tower, tower), segments),
        "ours, all at once": lambda: ours(segments),
        OURS: lambda: one_by_one(ours, segments),
    }
    with torch.inference_mode():
        expected = runs[PLAIN]()
        difference = max(float((run() - expected).abs().max()) for run in runs.values())
        assert difference <= AGREEMENT, f"they differ by {difference}"
        runs[PRODUCTS] = lambda: products(tower, segments)
        tables = []
        for threads in THREADS:
            torch.set_num_threads(threads)
            tables.append(
                table(threads, [{name: timed(run) for name, run in runs.items()} for _ in range(chosen.repeats)])
            )
    text = report(tables, difference, tower)
    if (sizes, chosen.repeats) == (FULL, NUM_REPEATS):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    else:
        print(text)


def table(threads: int, repeats: list[dict[str, Seconds]]) -> str:
    """The table for one number of threads: seconds per segment, and ratios to ours."""
    rows = "\n".join(row(name, repeats) for name in repeats[0])
    plain, least = (statistics.median(repeat[name].wall for repeat in repeats) for name in (PLAIN, PRODUCTS))
    return f"""## {threads} thread{"s" if threads > 1 else ""}

| | processor | wall | times ours, wall | times ours, processor |
|---|---|---|---|---|
{rows}

Without packed weights none could be more than {plain / least:.2f} times faster than the plain one, segment by segment, in this
precision: that is what the plain matrix products alone would give.
"""


def row(name: str, repeats: list[dict[str, Seconds]]) -> str:
    """Seconds per segment, and ratios to ours: median, lowest and highest of the repeats."""
    seconds = [statistics.median(getattr(repeat[name], clock) for repeat in repeats) / NUM_SEGMENTS for clock in CLOCKS]
    cells = []
    for clock in reversed(CLOCKS):
        ratios = sorted(getattr(repeat[name], clock) / getattr(repeat[OURS], clock) for repeat in repeats)
        cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return f"| {name} | {seconds[0]:.2f} s | {seconds[1]:.2f} s | {cells[0]} | {cells[1]} |"


def report(tables: list[str], difference: float, tower: VideoTower) -> str:
    """The page about the tower that was measured."""
    sizes: SynchformerSizes = tower.sizes
    num_parameters = sum(parameter.numel() for parameter in tower.parameters())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    both = "\n".join(tables)
    return f"""# The picture tower of Synchformer

{datetime.date.today()} · {os.cpu_count()} cores ({processor_name()}), load average {load} at the end
Python {platform.python_version()}, torch {torch.__version__}, float32

Script: `benchmarks/synchformer_trunk.py`. {sizes.depth} layers, {sizes.dim} wide ({num_parameters:,} parameters), random weights,
{NUM_SEGMENTS} segments of {sizes.segment_frames} pictures of {sizes.image_px} × {sizes.image_px};
seconds per segment, medians of interleaved repeats;
ratios are to ours, one by one, repeat by repeat. The results agree within {difference:.1e}.

{both}"""


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()


if __name__ == "__main__":
    main()
