"""The worker that makes candidates: noise from derived seeds, sampling, decoding, and an mp4 file named by its content."""

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
from avpref.flows.workers.encode_worker import mp4_bytes
from avpref.flows.workers.generator import (
    NetworkFiles,
    device_of,
    load_for_sampling,
    negative_text,
    open_codec,
    open_sampler,
    open_text_encoder,
)
from avpref.flows.workers.prompt_sources import PromptSource, UnencodedClip, clip_shape, open_prompt_source
from avpref.identity import bytes_sha256
from avpref.media.geometry import ClipShape
from avpref.media.reading import read_clip
from avpref.models.bases.base_model import Sampler
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.codecs.codec import Codec
from avpref.models.flow import Latents
from avpref.models.sampling import draw_noise
from avpref.models.text import TextBatch, TextEncoder
from avpref.storage.failpoints import FailPoint, hit
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

    Clips and latents are committed to ``store``, rows to ``files``; states of texts are kept in the folder of runs, ``runs``;
    ``models`` copies the network to a machine that lacks it.
    """

    store: Files
    models: TrainedFiles
    runs: Path
    settings: Settings
    files: UnitFiles
    network: NetworkFiles

    def build(self) -> GenerateWorker:
        """Load the network. Uses one CPU thread, so that sums are equal with every executor. Raises InputError for absent weights."""
        torch.set_num_threads(1)
        device = device_of(self.settings)
        codec = open_codec(self.settings, device)
        text_encoder = open_text_encoder(self.settings, self.runs, device)
        dtype = getattr(torch, self.settings.sampling.dtype)
        self.models.bring(self.network.checkpoint)
        if self.network.adapter is not None:
            self.models.bring(self.network.adapter)
        network = load_for_sampling(self.network, self.settings).to(device, dtype)
        return GenerateWorker(
            self,
            open_prompt_source(self.settings),
            clip_shape(self.settings),
            codec,
            text_encoder,
            network,
            open_sampler(self.settings),
            torch.device(device),
        )


@dataclass(frozen=True)
class GenerateWorker:
    """Samples, decodes and writes candidates; passes ground truth through the same codec and file format."""

    spec: GenerateSpec
    prompt_source: PromptSource
    shape: ClipShape
    codec: Codec
    text_encoder: TextEncoder
    network: VelocityNetwork
    sampler: Sampler
    device: torch.device

    def run(self, unit: Unit) -> Receipt:
        """Commit the candidates of ``unit``'s items (CandidateRequest): media first, then the rows that refer to them.

        Ground truth that cannot be read is quarantined.
        """
        started, rows, quarantined = time.perf_counter(), {}, []
        generated = [item for item in unit.items if item.origin == Origin.GENERATED]
        size = self.spec.settings.sampling.batch_candidates
        for start in range(0, len(generated), size):
            for item, clip in self._sample(generated[start : start + size]):
                rows[item.item_id] = self._write(item, clip)
        for item in unit.items:
            if item.origin == Origin.GROUND_TRUTH:
                try:
                    rows[item.item_id] = self._write(item, self._ground_truth(item))
                except MediaError as error:
                    quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        ordered = [rows[item.item_id] for item in unit.items if item.item_id in rows]
        self.spec.files.commit(unit, ordered, quarantined)
        return Receipt(len(ordered), len(quarantined), time.perf_counter() - started)

    def _sample(self, items: Sequence[CandidateRequest]) -> Iterator[tuple[CandidateRequest, FinishedClip]]:
        """Sample all of ``items`` as one batch, then decode them one by one; each clip counts an equal share of the sampling time."""
        started = time.perf_counter()
        noise = _on(self.device, draw_noise(self.codec.latent_shapes(), [item.seed for item in items]))
        text = self.text_encoder.encode([item.prompt.text for item in items])
        negative = negative_text(self.text_encoder, self.spec.settings)
        texts = _text_on(self.device, text), _text_on(self.device, negative)
        latents = self.sampler.sample(self.network, noise, *texts)
        sampled_s = (time.perf_counter() - started) / len(items)
        for index, item in enumerate(items):
            started = time.perf_counter()
            row = Latents(*(None if tensor is None else tensor[index : index + 1] for tensor in latents))
            ((frames, audio),) = self.codec.decode(row)
            elapsed_s = sampled_s + time.perf_counter() - started
            yield item, FinishedClip(UnencodedClip(item.prompt.text, frames, audio), row, elapsed_s)

    def _ground_truth(self, item: CandidateRequest) -> FinishedClip:
        """Ground truth passed through file format and codec, so that it shows the same artefacts as generated clips."""
        started = time.perf_counter()
        unencoded = self.prompt_source.ground_truth(item.prompt)
        if not self.spec.settings.sampling.ground_truth_through_codec:
            return FinishedClip(unencoded, None, time.perf_counter() - started)
        clip = read_clip(io.BytesIO(mp4_bytes(unencoded, self.shape)), self.shape)
        latents = self.codec.encode([clip])
        ((frames, audio),) = self.codec.decode(latents)
        return FinishedClip(UnencodedClip(unencoded.text, frames, audio), latents, time.perf_counter() - started)

    def _write(self, item: CandidateRequest, clip: FinishedClip) -> Candidate:
        """Commit the clip's file and latents; returns its row."""
        data = mp4_bytes(clip.unencoded, self.shape)
        sha256 = bytes_sha256(data)
        path = f"{CLIPS}/{item.item_id[:3]}/{item.item_id}-{sha256[:HASH_IN_NAME]}.mp4"
        self.spec.store.commit_once(path, data)
        hit(FailPoint.MEDIA_COMMITTED)
        is_generated = item.origin == Origin.GENERATED
        return Candidate(
            candidate_id=item.item_id,
            prompt_id=item.prompt.prompt_id,
            index=item.index,
            origin=item.origin,
            seed=item.seed,
            checkpoint_hash=self.spec.network.hash if is_generated else "",
            sampler_hash=sampler_hash(self.spec.settings),
            adapter_hash=self.spec.network.adapter_hash if is_generated else "",
            sampler=json.dumps(sampler_parts(self.spec.settings), sort_keys=True, ensure_ascii=False),
            latents_path=self._store_latents(item, clip),
            elapsed_s=clip.elapsed_s,
            path=path,
            sha256=sha256,
            num_frames=self.shape.num_frames,
            height_px=self.shape.height_px,
            width_px=self.shape.width_px,
            fps_hz=self.shape.fps_hz,
            sample_rate_hz=self.shape.sample_rate_hz,
            duration_s=self.shape.duration_s,
        )

    def _store_latents(self, item: CandidateRequest, clip: FinishedClip) -> str:
        """Commit the latents if the settings say so; returns their path relative to the run, or an empty one."""
        if not self.spec.settings.sampling.store_latents or clip.latents is None:
            return ""
        named = zip(("video", "audio"), clip.latents, strict=True)
        tensors = {name: tensor[0].cpu().contiguous() for name, tensor in named if tensor is not None}
        path = f"{LATENTS}/{item.item_id[:3]}/{item.item_id}.safetensors"
        self.spec.store.commit_once(path, save(tensors))
        return path


@dataclass(frozen=True, eq=False)
class FinishedClip:
    """A clip before it is written, its latents (one row; None for unchanged ground truth), and the seconds that it took."""

    unencoded: UnencodedClip
    latents: Latents | None
    elapsed_s: float


def _on(device: torch.device, latents: Latents) -> Latents:
    return Latents(*(None if tensor is None else tensor.to(device) for tensor in latents))


def _text_on(device: torch.device, text: TextBatch) -> TextBatch:
    return TextBatch(*(tensor.to(device) for tensor in text))
