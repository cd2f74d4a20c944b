"""The worker that makes candidates: noise from derived seeds, the network, the codec, an mp4 named by its content."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from avpref.config.schema import Settings
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Candidate, Origin
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.flows.stages.candidate_plan import CandidateRequest, sampler_hash, sampler_parts
from avpref.flows.workers.encode_worker import mp4
from avpref.flows.workers.generator import (
    NetworkFiles,
    device_of,
    load_for_sampling,
    negative_text,
    open_codec,
    open_text,
    sampler_settings,
)
from avpref.flows.workers.prompt_sources import RawClip, World, clip_shape, open_world
from avpref.identity import bytes_sha256
from avpref.media.geometry import ClipShape
from avpref.media.reading import read_clip
from avpref.models.codecs.codec import Codec
from avpref.models.dit import JavisDiT
from avpref.models.flow import Latents
from avpref.models.sampling import draw_noise, sample
from avpref.models.text import TextBatch, TextEncoder
from avpref.storage.failpoints import Moment, reached
from avpref.storage.files import Files
from avpref.storage.model_files import TrainedFiles
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

CLIPS = "clips"
LATENTS = "latents"
HASH_IN_NAME = 8


@dataclass(frozen=True)
class GenerateSpec:
    """Builds workers that make candidates with one checkpoint (and adapter).

    Media go to ``place``; states of texts are kept beside the runs, in ``runs``; ``models`` brings the network to a machine
    that lacks it.
    """

    place: Files
    models: TrainedFiles
    runs: Path
    settings: Settings
    files: UnitFiles
    network: NetworkFiles

    def build(self) -> GenerateWorker:
        """Load the network once. On a CPU one thread, so that every executor adds up in the same order."""
        torch.set_num_threads(1)
        device = device_of(self.settings)
        codec = open_codec(self.settings, device)
        text = open_text(self.settings, self.runs, device)
        dtype = getattr(torch, self.settings.sampling.dtype)
        self.models.bring(self.network.checkpoint)
        if self.network.adapter is not None:
            self.models.bring(self.network.adapter)
        network = load_for_sampling(self.network, self.settings).to(device, dtype)
        return GenerateWorker(
            self, open_world(self.settings), clip_shape(self.settings), codec, text, network, torch.device(device)
        )


@dataclass(frozen=True)
class GenerateWorker:
    """Samples, decodes and writes candidates; re-encodes ground truth through the same codec and file format."""

    spec: GenerateSpec
    world: World
    shape: ClipShape
    codec: Codec
    text: TextEncoder
    network: JavisDiT
    device: torch.device

    def run(self, unit: Unit[CandidateRequest]) -> Receipt:
        """Commit the candidates of ``unit``'s items, media first, then the rows that refer to them."""
        started, rows, lost = time.perf_counter(), {}, []
        drawn = [item for item in unit.items if item.origin == Origin.GENERATED]
        size = self.spec.settings.sampling.batch_candidates
        for start in range(0, len(drawn), size):
            for item, made in self._sample(drawn[start : start + size]):
                rows[item.item_id] = self._write(item, made)
        for item in unit.items:
            if item.origin == Origin.GROUND_TRUTH:
                try:
                    rows[item.item_id] = self._write(item, self._ground_truth(item))
                except MediaError as error:
                    lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        ordered = [rows[item.item_id] for item in unit.items if item.item_id in rows]
        self.spec.files.commit(unit, ordered, lost)
        return Receipt(len(ordered), len(lost), time.perf_counter() - started)

    def _sample(self, items: Sequence[CandidateRequest]) -> Iterator[tuple[CandidateRequest, Made]]:
        """One pass through the network for all of ``items``, decoded one by one."""
        started = time.perf_counter()
        noise = _on(self.device, draw_noise(self.codec.latent_shapes(), [item.seed for item in items]))
        text = self.text.encode([item.prompt.text for item in items])
        negative = negative_text(self.text, self.spec.settings)
        settings = sampler_settings(self.spec.settings)
        latents = sample(self.network, noise, _placed(self.device, text), _placed(self.device, negative), settings)
        sampled_s = (time.perf_counter() - started) / len(items)
        for index, item in enumerate(items):
            started = time.perf_counter()
            one = Latents(*(None if each is None else each[index : index + 1] for each in latents))
            ((frames, audio),) = self.codec.decode(one)
            elapsed_s = sampled_s + time.perf_counter() - started
            yield item, Made(RawClip(item.prompt.text, frames, audio), one, elapsed_s)

    def _ground_truth(self, item: CandidateRequest) -> Made:
        """Ground truth as the codec and file format render it, so that it is not told apart by how it was stored."""
        started = time.perf_counter()
        raw = self.world.ground_truth(item.prompt)
        if not self.spec.settings.sampling.ground_truth_through_codec:
            return Made(raw, None, time.perf_counter() - started)
        clip = read_clip(io.BytesIO(mp4(raw, self.shape)), self.shape)
        latents = self.codec.encode([clip])
        ((frames, audio),) = self.codec.decode(latents)
        return Made(RawClip(raw.text, frames, audio), latents, time.perf_counter() - started)

    def _write(self, item: CandidateRequest, made: Made) -> Candidate:
        data = mp4(made.raw, self.shape)
        sha256 = bytes_sha256(data)
        path = f"{CLIPS}/{item.item_id[:3]}/{item.item_id}-{sha256[:HASH_IN_NAME]}.mp4"
        self.spec.place.commit_once(path, data)
        reached(Moment.MEDIA_COMMITTED)
        is_drawn = item.origin == Origin.GENERATED
        return Candidate(
            candidate_id=item.item_id,
            prompt_id=item.prompt.prompt_id,
            index=item.index,
            origin=item.origin,
            seed=item.seed,
            checkpoint_hash=self.spec.network.hash if is_drawn else "",
            sampler_hash=sampler_hash(self.spec.settings),
            adapter_hash=self.spec.network.adapter_hash if is_drawn else "",
            sampler=json.dumps(sampler_parts(self.spec.settings), sort_keys=True, ensure_ascii=False),
            latents_path=self._keep(item, made),
            elapsed_s=made.elapsed_s,
            path=path,
            sha256=sha256,
            num_frames=self.shape.num_frames,
            height_px=self.shape.height_px,
            width_px=self.shape.width_px,
            fps_hz=self.shape.fps_hz,
            sample_rate_hz=self.shape.sample_rate_hz,
            duration_s=self.shape.duration_s,
        )

    def _keep(self, item: CandidateRequest, made: Made) -> str:
        """Commit the latents where they are asked for; returns their path relative to the run."""
        if not self.spec.settings.sampling.store_latents or made.latents is None:
            return ""
        named = zip(("video", "audio"), made.latents, strict=True)
        tensors = {name: each[0].cpu().contiguous() for name, each in named if each is not None}
        path = f"{LATENTS}/{item.item_id[:3]}/{item.item_id}.safetensors"
        self.spec.place.commit_once(path, save(tensors))
        return path


@dataclass(frozen=True, eq=False)
class Made:
    """A clip before it is written, its latents (one row; None where it has none), and the seconds that it took."""

    raw: RawClip
    latents: Latents | None
    elapsed_s: float


def _on(device: torch.device, latents: Latents) -> Latents:
    return Latents(*(None if each is None else each.to(device) for each in latents))


def _placed(device: torch.device, text: TextBatch) -> TextBatch:
    return TextBatch(*(each.to(device) for each in text))
