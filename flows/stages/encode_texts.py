"""Encodes every text once before sampling, in workers that unload the encoder afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from avpref.config.schema import Settings
from avpref.datasets.tables import TEXTS
from avpref.execution.contract import Receipt
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import plan_stage
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.same_base import on_same_base
from avpref.flows.workers.generator import base_of, device_of, open_text_encoder, text_identity
from avpref.identity import digest
from avpref.models.text import TextEncoder
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

STAGE = "texts"


@dataclass(frozen=True)
class TextItem:
    """A text to encode, and its row in the table ``texts``."""

    item_id: str
    text: str


@dataclass(frozen=True)
class TextSpec:
    """Builds workers that encode texts and keep the states beside the runs."""

    runs: Path
    settings: Settings
    files: UnitFiles

    def build(self) -> TextWorker:
        """Open the encoder. Its weights are loaded with the first text whose states are not stored yet."""
        torch.set_num_threads(1)
        return TextWorker(open_text_encoder(self.settings, self.runs, device_of(self.settings)), self.files)


@dataclass(frozen=True)
class TextWorker:
    """Encodes units of texts. The encoder writes the states to its own folder, which runs share."""

    encoder: TextEncoder
    files: UnitFiles

    def run(self, unit: Unit[TextItem]) -> Receipt:
        """Encode the texts of ``unit``'s items and commit their rows."""
        started = time.perf_counter()
        for item in unit.items:
            self.encoder.encode([item.text])
        self.files.commit(unit, unit.items)
        return Receipt(len(unit.items), 0, time.perf_counter() - started)


def encode_texts(run: Run, texts: Sequence[str]) -> tuple[ItemCounts, ...]:
    """Encode ``texts`` and the negative prompt; does nothing where the encoder has no weights.

    Raises InputError for a text that is too long for the encoder.
    """
    base = base_of(run.settings)
    if not base.precisions.text:
        return ()
    distinct = dict.fromkeys([run.settings.sampling.negative_prompt, *texts])
    base.check_texts(list(distinct))
    items = [TextItem("t" + digest("text", text), text) for text in distinct]
    plan = plan_stage(
        STAGE,
        "texts",
        run.fingerprint(STAGE, text_identity(run.settings)),
        [[item] for item in items],
        run.settings.run,
    )
    files = run.units(TEXTS)
    spec, observer = on_same_base(TextSpec(run.runs, run.settings, files), run.settings), reporting.observer()
    return (run_stage(run, plan, files, lambda: spec, observer=observer).counts,)
