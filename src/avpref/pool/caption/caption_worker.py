"""The worker of stage ``caption``: it asks a service for the description of each clip."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from avpref.config.pool.caption_settings import CaptionSettings
from avpref.config.pool.pool_settings import BucketAccess
from avpref.datasets.rows import QuarantineRow
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.media.geometry import PictureSize
from avpref.media.reading import DecodedClip
from avpref.media.reading_rules import ReadingRules
from avpref.pool.caption.caption_request import Description, description_of, request_of
from avpref.pool.measure.clip_window import ClipWindow, decode_clip
from avpref.pool.measure.measure_worker import MeasureItem
from avpref.pool.pool_tables import OK, CaptionRow
from avpref.pool.scan.pool_source import opened_source
from avpref.rewards.service.service_client import ServiceClient, ServiceFailure
from avpref.rewards.service.service_settings import ServiceSettings
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

MADE = "made"
SENT_BYTES = 64 << 20
"""Size of the pictures of a clip in memory before some of them are sent; more: every second, third … frame."""
PER_MILLION = 1e-6


class SentSize:
    """The recording's shape, with the longest side that is sent."""

    def __init__(self, longest_side_px: int) -> None:
        self._longest_side_px = longest_side_px

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`avpref.media.geometry.PictureSize`."""
        scale = min(1.0, self._longest_side_px / max(height_px, width_px))
        size = max(1, round(height_px * scale)), max(1, round(width_px * scale))
        return size, size


@dataclass(frozen=True)
class CaptionSpec:
    """Builds workers that ask the service of ``settings``."""

    files: UnitFiles
    settings: CaptionSettings
    bucket: BucketAccess
    rules: ReadingRules

    def build(self) -> CaptionWorker:
        """A worker with a connection of its own."""
        return CaptionWorker(self, ServiceClient("caption", service_settings(self.settings), "/chat/completions"))


def service_settings(settings: CaptionSettings) -> ServiceSettings:
    """The limits of requests as the client takes them."""
    names = ("url", "key_variable", "concurrency", "timeout_s", "attempts", "backoff_s", "requests_per_s")
    return ServiceSettings(**{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class CaptionWorker:
    """Describes units of clips. A clip that the service does not describe is quarantined with the reason."""

    spec: CaptionSpec
    client: ServiceClient

    def run(self, unit: Unit[MeasureItem]) -> Receipt:
        """Commit a caption per clip of ``unit``; clips are decoded one by one and described several at a time."""
        started = time.perf_counter()
        with ThreadPoolExecutor(self.spec.settings.concurrency) as threads:
            outcomes = list(threads.map(partial(self._caption, unit.stage), unit.items))
        rows = [outcome for outcome in outcomes if isinstance(outcome, CaptionRow)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, QuarantineRow)]
        self.spec.files.commit(unit, rows, lost)
        return Receipt(len(rows), len(lost), time.perf_counter() - started)

    def _caption(self, stage: str, item: MeasureItem) -> CaptionRow | QuarantineRow:
        size: PictureSize = SentSize(self.spec.settings.longest_side_px)
        try:
            with opened_source(item.source, self.spec.bucket) as media:
                window = ClipWindow(item.start_s, item.end_s, size, self.spec.rules, SENT_BYTES)
                clip = decode_clip(media, window).clip
            return self._described(item, clip)
        except MediaError as error:
            return QuarantineRow(item.item_id, stage, "MediaError", error.found, 1)
        except ServiceFailure as error:
            return QuarantineRow(item.item_id, stage, "ServiceFailure", str(error), self.spec.settings.attempts)

    def _described(self, item: MeasureItem, clip: DecodedClip) -> CaptionRow:
        """The caption; a wrong answer is asked for again with another seed. Raises ServiceFailure."""
        settings = self.spec.settings
        failures: list[str] = []
        for attempt in range(settings.attempts):
            answer = self.client.post(request_of(clip, settings, attempt))
            try:
                return caption_row(item.clip_id, description_of(answer), settings, attempt + 1)
            except ServiceFailure as error:
                failures.append(str(error))
        raise ServiceFailure(f"{failures[-1]} (after {len(failures)} requests)")


def caption_row(clip_id: str, description: Description, settings: CaptionSettings, requests: int) -> CaptionRow:
    """The row of a made caption, with the cost of its tokens."""
    cost = settings.price_per_million_input * description.input_tokens
    cost += settings.price_per_million_output * description.output_tokens
    return CaptionRow(
        *(clip_id, description.text, description.visual, description.auditory, description.category, MADE, OK, ""),
        *(settings.model, requests, description.input_tokens, description.output_tokens, PER_MILLION * cost),
    )
