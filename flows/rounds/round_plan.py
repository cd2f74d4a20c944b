"""Work of every round of a sequence before it starts, for dry runs: candidates, pairs, steps, bytes and GPU-hours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from avpref.config.schema import Settings
from avpref.flows.flops import TERA
from avpref.flows.workers.generator import base_of, open_sampler
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.observability.meters import S_PER_H


@dataclass(frozen=True)
class FirstRound:
    """Counts and bytes of the first round, from which those of later rounds follow.

    Attributes:
        train_prompts: training prompts.
        held_out: prompts of the evaluation.
        candidates: candidates that are sampled for training prompts.
        pairs: pairs at most.
        clip_bytes: bytes of a clip.
        latent_bytes: bytes of the latents of all clips of pairs.
        adapter_bytes: bytes of the adapter and its checkpoints.
        num_bytes: all bytes of the round.
        training_hours: GPU-hours of AV-DPO.
    """

    train_prompts: int
    held_out: int
    candidates: int
    pairs: int
    clip_bytes: int
    latent_bytes: int
    adapter_bytes: int
    num_bytes: int
    training_hours: float


@dataclass(frozen=True)
class RoundPlan:
    """Work of one round.

    Attributes:
        round: its number, from 1.
        candidates: new candidates of training prompts.
        held_out: clips sampled for the evaluation: of reference and policy in the first round, later of the policy alone.
        pairs: new pairs at most.
        earlier_pairs: pairs of the round before that are drawn again, if that one had the most pairs; the mean of the draw.
        steps: optimiser steps of AV-DPO.
        rank: rank of the adapter that the round writes.
        num_bytes: bytes of clips, latents, adapter and checkpoints; of the first round those of all its stages.
        sampling_hours: GPU-hours of sampling at the assumed speed.
        training_hours: GPU-hours of AV-DPO at the assumed speed.
    """

    round: int
    candidates: int
    held_out: int
    pairs: int
    earlier_pairs: int
    steps: int
    rank: int
    num_bytes: int
    sampling_hours: float
    training_hours: float


def round_plans(settings: Settings, first: FirstRound, tflops: float) -> Iterator[RoundPlan]:
    """The plan of every round at ``tflops`` sustained; none where the configuration has one round."""
    rounds = settings.rounds
    if rounds.count == 1:
        return
    flop = open_sampler(settings).num_passes * base_of(settings).work(clip_shape(settings)).forward_flop
    all_pairs = 0
    for number in range(1, rounds.count + 1):
        is_first = number == 1
        candidates = first.candidates if is_first else first.train_prompts * settings.sampling.num_candidates
        pairs = first.pairs if is_first else first.train_prompts * settings.pairs.max_pairs_per_prompt
        earlier = round(rounds.earlier_share * all_pairs)
        held_out = first.held_out * (2 if is_first else 1)
        all_pairs = pairs + earlier
        latents = first.latent_bytes * all_pairs // max(1, first.pairs)
        later_bytes = (candidates + held_out) * first.clip_bytes + latents + first.adapter_bytes
        yield RoundPlan(
            round=number,
            candidates=candidates,
            held_out=held_out,
            pairs=pairs,
            earlier_pairs=earlier,
            steps=settings.dpo.loop.steps,
            rank=settings.dpo.adapter.rank * (number if rounds.reference == "previous" else 1),
            num_bytes=first.num_bytes if is_first else later_bytes,
            sampling_hours=(candidates + held_out) * flop / (tflops * TERA) / S_PER_H,
            training_hours=first.training_hours,
        )
