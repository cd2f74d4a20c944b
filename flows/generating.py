"""The worker that makes candidates: noise from derived seeds, the network, the codec, an mp4 named by its content."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from avpref.cluster import Receipt, Unit
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Candidate, Origin
from avpref.errors import MediaError
from avpref.flows.networks import NetworkFiles, load_for_sampling, negative_text, sampler_settings
from avpref.flows.plan import CandidateRequest, sampler_hash
from avpref.flows.rendering import mp4
from avpref.flows.units import UnitFiles
from avpref.flows.worlds import RawClip, World, clip_shape, open_world
from avpref.geometry import ClipShape
from avpref.identity import bytes_sha256
from avpref.media import read_clip
from avpref.models.codecs import IdentityCodec
from avpref.models.dit import JavisDiT
from avpref.models.sampling import draw_noise, sample
from avpref.models.text import WordText
from avpref.settings import Settings
from avpref.store import commit_once

CLIPS = "clips"
HASH_IN_NAME = 8


@dataclass(frozen=True)
class GenerateSpec:
    """Builds workers that make candidates with one checkpoint (and adapter)."""

    root: Path
    settings: Settings
    files: UnitFiles
    network: NetworkFiles

    def build(self) -> GenerateWorker:
        """Load the network once. One thread, so that every executor adds up in the same order."""
        torch.set_num_threads(1)
        shape = clip_shape(self.settings)
        codec = IdentityCodec(self.settings.codec, shape)
        text = WordText(self.settings.network.text_dim, self.settings.network.text_len)
        network = load_for_sampling(self.network, self.settings)
        return GenerateWorker(self, open_world(self.settings), shape, codec, text, network)


@dataclass(frozen=True)
class GenerateWorker:
    """Samples, decodes and writes candidates; re-encodes ground truth through the same codec and file format."""

    spec: GenerateSpec
    world: World
    shape: ClipShape
    codec: IdentityCodec
    text: WordText
    network: JavisDiT

    def run(self, unit: Unit) -> Receipt:
        """Commit the candidates of ``unit``'s items (CandidateRequest), media first, then the rows that refer to them."""
        started, rows, lost = time.perf_counter(), {}, []
        drawn = [item for item in unit.items if item.origin == Origin.GENERATED]
        for item, raw in zip(drawn, self._sample(drawn), strict=True):
            rows[item.item_id] = self._write(item, raw)
        for item in unit.items:
            if item.origin == Origin.GROUND_TRUTH:
                try:
                    rows[item.item_id] = self._write(item, self._ground_truth(item))
                except MediaError as error:
                    lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        ordered = [rows[item.item_id] for item in unit.items if item.item_id in rows]
        self.spec.files.commit(unit, ordered, lost)
        return Receipt(len(ordered), len(lost), time.perf_counter() - started)

    def _sample(self, items: Sequence[CandidateRequest]) -> list[RawClip]:
        if not items:
            return []
        texts = [item.prompt.text for item in items]
        noise = draw_noise(self.codec.latent_shapes(), [item.seed for item in items])
        negative = negative_text(self.text, self.spec.settings)
        latents = sample(self.network, noise, self.text.encode(texts), negative, sampler_settings(self.spec.settings))
        return [RawClip(text, *media) for text, media in zip(texts, self.codec.decode(latents), strict=True)]

    def _ground_truth(self, item: CandidateRequest) -> RawClip:
        """Ground truth as the codec and file format render it, so that it is not told apart by how it was stored."""
        raw = self.world.ground_truth(item.prompt)
        clip = read_clip(io.BytesIO(mp4(raw, self.shape)), self.shape)
        ((frames, audio),) = self.codec.decode(self.codec.encode([clip]))
        return RawClip(raw.text, frames, audio)

    def _write(self, item: CandidateRequest, raw: RawClip) -> Candidate:
        data = mp4(raw, self.shape)
        sha256 = bytes_sha256(data)
        path = f"{CLIPS}/{item.item_id[:3]}/{item.item_id}-{sha256[:HASH_IN_NAME]}.mp4"
        commit_once(self.spec.root / path, data)
        is_drawn = item.origin == Origin.GENERATED
        return Candidate(
            candidate_id=item.item_id,
            prompt_id=item.prompt.prompt_id,
            index=item.index,
            origin=item.origin,
            seed=item.seed,
            checkpoint_hash=self.spec.network.hash if is_drawn else "",
            sampler_hash=sampler_hash(self.spec.settings),
            path=path,
            sha256=sha256,
            num_frames=self.shape.num_frames,
            height_px=self.shape.height_px,
            width_px=self.shape.width_px,
            fps_hz=self.shape.fps_hz,
            sample_rate_hz=self.shape.sample_rate_hz,
            duration_s=self.shape.duration_s,
        )
