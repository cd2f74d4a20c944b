"""What is to be done: candidates, shards and units, all derived from the prompts and the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from avpref.config.run_settings import RunSettings
from avpref.config.schema import Settings
from avpref.domain import Origin, Prompt, Split, candidate_id, candidate_seed
from avpref.execution.pool import Unit
from avpref.flows.workers.generator import codec_identity, text_identity
from avpref.flows.workers.prompt_sources import has_ground_truth
from avpref.identity import digest

GROUND_TRUTH_INDEX = 0
FIRST_GENERATED_INDEX = 1


@dataclass(frozen=True)
class CandidateRequest:
    """A candidate that is to be made."""

    item_id: str
    prompt: Prompt
    index: int
    origin: Origin
    seed: int


@dataclass(frozen=True)
class Shard:
    """The units of a few hundred prompts: one task per stage."""

    ordinal: int
    units: tuple[Unit, ...]

    @property
    def num_items(self) -> int:
        """Candidates in the shard."""
        return sum(len(unit.items) for unit in self.units)


NOT_OF_A_CLIP = frozenset({"num_candidates", "ground_truth", "store_latents"})
"""Settings of section sampling that no clip depends on."""


def sampler_hash(settings: Settings) -> str:
    """Hash of everything but checkpoint, prompt and seed that a generated clip depends on."""
    return digest("sampler", sampler_parts(settings))


def sampler_parts(settings: Settings) -> dict[str, Any]:
    """What :func:`sampler_hash` is the hash of: sections sampling and clip, and the identities of codec and text encoder."""
    sampling = settings.sampling.model_dump(mode="json", exclude=set(NOT_OF_A_CLIP))
    codec, text = codec_identity(settings), text_identity(settings)
    return {**sampling, "clip": settings.clip.model_dump(mode="json"), "codec": codec, "text": text}


@dataclass(frozen=True)
class Wanted:
    """A candidate before it has an identity."""

    prompt: Prompt
    index: int
    origin: Origin


def wanted(prompts: Sequence[Prompt], settings: Settings) -> Iterator[Wanted]:
    """Every candidate of ``prompts``: N generated and the ground truth for training, one generated for held-out prompts."""
    for prompt in prompts:
        is_train = prompt.split == Split.TRAIN
        if is_train and settings.sampling.ground_truth and has_ground_truth(prompt, settings):
            yield Wanted(prompt, GROUND_TRUTH_INDEX, Origin.GROUND_TRUTH)
        num = settings.sampling.num_candidates if is_train else 1
        for index in range(FIRST_GENERATED_INDEX, FIRST_GENERATED_INDEX + num):
            yield Wanted(prompt, index, Origin.GENERATED)


def requests(prompts: Sequence[Prompt], settings: Settings, checkpoint_hash: str) -> Iterator[CandidateRequest]:
    """The candidates of :func:`wanted` with their ids and seeds."""
    sampler = sampler_hash(settings)
    for each in wanted(prompts, settings):
        prompt, index = each.prompt, each.index
        if each.origin == Origin.GROUND_TRUTH:
            source = ground_truth_source(prompt, settings)
            identity = candidate_id(prompt.prompt_id, index, 0, source, sampler)
            yield CandidateRequest(identity, prompt, index, each.origin, 0)
        else:
            seed = candidate_seed(settings.run.seed, prompt.prompt_id, index)
            identity = candidate_id(prompt.prompt_id, index, seed, checkpoint_hash, sampler)
            yield CandidateRequest(identity, prompt, index, each.origin, seed)


def ground_truth_source(prompt: Prompt, settings: Settings) -> str:
    """What a ground-truth clip is made from: a recording's bytes and where they begin, or the seed of the toy world."""
    made_from = [prompt.ground_truth_sha256, prompt.ground_truth_start_s]
    return "ground_truth" + digest("ground truth", made_from if prompt.ground_truth_sha256 else settings.run.seed)


def shards(stage: str, fingerprint: str, groups: Sequence[Sequence[Any]], run: RunSettings) -> list[Shard]:
    """Cut ``groups`` (the items of one prompt each) into shards of prompts and units of candidates."""
    size, found = run.shard_prompts, []
    for ordinal, start in enumerate(range(0, len(groups), size)):
        items = [item for group in groups[start : start + size] for item in group]
        found.append(Shard(ordinal, tuple(_units(stage, ordinal, fingerprint, items, run.unit_candidates))))
    return found


def _units(stage: str, shard: int, fingerprint: str, items: Sequence[Any], size: int) -> Iterator[Unit]:
    for start in range(0, len(items), size):
        yield Unit(stage, shard, fingerprint, tuple(items[start : start + size]))


def grouped(items: Sequence[Any], keys: Sequence[str]) -> list[list[Any]]:
    """Items of equal key together, in order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return list(groups.values())
