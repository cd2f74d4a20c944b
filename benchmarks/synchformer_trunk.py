"""The picture tower of Synchformer against its formulas written down plainly, at full size, on a CPU.

    python benchmarks/synchformer_trunk.py            writes benchmarks/synchformer_trunk.md (a few minutes)

Both take the same random weights and the same segments and must agree. The plain one takes a segment at a time and writes attention
as softmax(q kᵀ) v; ours takes all segments at once with the fused kernel and computes of the last layer only what is used. Repeats
are interleaved, and the ratio is that of processor time, which other work on the machine disturbs least; wall time is beside it.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpref.rewards.random_weights import fill
from avpref.rewards.synchformer_towers import FULL, DividedAttention, PooledTokens, SpaceTimeBlock, VideoTower
from avpref.weight_files import on_meta

NUM_SEGMENTS, NUM_REPEATS, NUM_THREADS = 2, 3, 1
CLAIM = 1.2
AGREEMENT = 5e-5


OVER_TIME = ("tnhd,snhd->tnhs", "tnhs,snhd->tnhd")
OVER_SPACE = ("tnhd,tmhd->tnhm", "tnhm,tmhd->tnhd")


def plain_divided(layer: DividedAttention, tokens: Tensor, steps: int, formulas: tuple[str, str]) -> Tensor:
    """One segment's tokens [1 + T·N, D]; ``formulas`` say which patches a patch (t, n) compares with and takes up."""
    query, key, value = layer.qkv(tokens).unflatten(-1, (3, layer.heads, -1)).unbind(1)
    query = query / query.shape[-1] ** 0.5
    of_all = torch.softmax(torch.einsum("hd,lhd->hl", query[0], key), dim=-1)
    first = torch.einsum("hl,lhd->hd", of_all, value)

    queries, keys, values = (part[1:].unflatten(0, (steps, -1)) for part in (query, key, value))
    class_logits = torch.einsum("tnhd,hd->tnh", queries, key[0])
    patch_logits = torch.einsum(formulas[0], queries, keys)
    weights = torch.softmax(torch.cat([class_logits[..., None], patch_logits], dim=-1), dim=-1)
    inside = weights[..., :1] * value[0] + torch.einsum(formulas[1], weights[..., 1:], values)
    return layer.proj(torch.cat([first[None], inside.flatten(0, 1)]).flatten(1))


def plain_block(block: SpaceTimeBlock, tokens: Tensor, steps: int) -> Tensor:
    tokens = tokens + plain_divided(block.timeattn, block.norm3(tokens), steps, OVER_TIME)
    tokens = tokens + plain_divided(block.attn, block.norm1(tokens), steps, OVER_SPACE)
    return tokens + block.mlp["fc2"](functional.gelu(block.mlp["fc1"](block.norm2(tokens))))


def plain_pool(pool: PooledTokens, tokens: Tensor, heads: int) -> Tensor:
    """The whole encoder layer over [T, N, D], of which the first tokens are kept."""
    tokens = torch.cat([pool.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
    packed = functional.linear(pool.norm1(tokens), pool.self_attn.in_proj_weight, pool.self_attn.in_proj_bias)
    query, key, value = packed.unflatten(-1, (3, heads, -1)).unbind(2)
    logits = torch.einsum("tnhd,tmhd->tnhm", query, key) / query.shape[-1] ** 0.5
    seen = torch.einsum("tnhm,tmhd->tnhd", torch.softmax(logits, dim=-1), value)
    tokens = tokens + pool.self_attn.out_proj(seen.flatten(2))
    return (tokens + pool.linear2(functional.gelu(pool.linear1(pool.norm2(tokens)))))[:, 0]


def plain_tower(tower: VideoTower, segments: Tensor) -> Tensor:
    """As :meth:`VideoTower.forward`, one segment after the other."""
    steps, found = tower.sizes.video_steps, []
    for frames in segments:
        patches = tower.patch_embed_3d["proj"](frames.permute(3, 0, 1, 2)[None])[0].flatten(1).T
        positions = torch.cat([tower.pos_embed[0, 1:] + moment for moment in tower.temp_embed[0]])
        tokens = torch.cat([tower.cls_token[0] + tower.pos_embed[0, :1], patches + positions])
        for block in tower.blocks:
            tokens = plain_block(block, tokens, steps)
        moments = tower.norm(tokens[1:]).unflatten(0, (steps, -1))
        found.append(plain_pool(tower.spatial_attn_agg, moments, tower.sizes.heads))
    return torch.stack(found)


@dataclass(frozen=True)
class Seconds:
    processor: float
    wall: float


def timed(compute: Callable[[], Tensor]) -> Seconds:
    processor, wall = time.process_time(), time.perf_counter()
    compute()
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def median(values: list[float]) -> float:
    return statistics.median(values)


def main() -> None:
    torch.set_num_threads(NUM_THREADS)
    tower: VideoTower = on_meta(lambda: VideoTower(FULL))
    fill(tower)
    random = torch.Generator().manual_seed(0)
    side = FULL.image_px
    segments = torch.rand(NUM_SEGMENTS, FULL.segment_frames, side, side, 3, generator=random) * 2 - 1
    runs: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain_tower(tower, segments),
        "ours": lambda: tower(segments),
    }
    with torch.inference_mode():
        difference = float((runs["plain"]() - runs["ours"]()).abs().max())
        assert difference <= AGREEMENT, f"the two differ by {difference}"
        repeats = [{name: timed(run) for name, run in runs.items()} for _ in range(NUM_REPEATS)]
    report(repeats, difference, tower)


def report(repeats: list[dict[str, Seconds]], difference: float, tower: nn.Module) -> None:
    """Write the result beside this file."""
    ratios = [pair["plain"].processor / pair["ours"].processor for pair in repeats]
    wall_ratios = [pair["plain"].wall / pair["ours"].wall for pair in repeats]
    rows = [
        f"| {label} | {median([pair[name].processor for pair in repeats]) / NUM_SEGMENTS:.2f} s | "
        f"{median([pair[name].wall for pair in repeats]) / NUM_SEGMENTS:.2f} s |"
        for name, label in (("plain", "plain, segment by segment"), ("ours", "ours, all segments at once"))
    ]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    verdict = "holds" if median(ratios) >= CLAIM else "does not hold"
    text = f"""# The picture tower of Synchformer

{datetime.date.today()} · {os.cpu_count()} cores ({processor_name()}), load average {load} at the end · Python {platform.python_version()},
torch {torch.__version__}, float32, {NUM_THREADS} thread

Script: `benchmarks/synchformer_trunk.py`. Full size ({sum(each.numel() for each in tower.parameters()):,} parameters), random weights,
{NUM_SEGMENTS} segments of {FULL.segment_frames} pictures of {FULL.image_px} × {FULL.image_px}; medians of {NUM_REPEATS} interleaved repeats, per segment.
The results of both agree within {difference:.1e} (features of size 1).

| | processor | wall |
|---|---|---|
{chr(10).join(rows)}
| ratio (median of the repeats' ratios) | {median(ratios):.2f} | {median(wall_ratios):.2f} |
| ratio, lowest to highest | {min(ratios):.2f} to {max(ratios):.2f} | {min(wall_ratios):.2f} to {max(wall_ratios):.2f} |

Claim: at least {CLAIM} times faster. It {verdict}.
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()


if __name__ == "__main__":
    main()
