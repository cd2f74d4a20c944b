"""The work of a benchmark on clips: what the store lacks is computed in units on actors; a killed command goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avpref.bench.bench_job import Placement
from avpref.bench.features.feature_files import STAGE, FeatureFiles
from avpref.bench.features.feature_worker import FeatureSpec
from avpref.bench.features.parts import FeatureItem, Part
from avpref.bench.features.set_results import PartRecord, SampleClip, SetResults, load_results
from avpref.bench.results.bench_folder import BenchFolder
from avpref.execution.plan import Shard, StagePlan
from avpref.execution.run_units import run_stage
from avpref.identity import digest
from avpref.media.reading_rules import ReadingRules
from avpref.storage.unit import Unit


@dataclass(frozen=True)
class FeatureCounts:
    """Results (a clip with a network or scorer) that were computed now, and those that the store had."""

    computed: int
    reused: int


@dataclass(frozen=True, eq=False)
class Wanted:
    """Samples, and the parts that are wanted of each of them."""

    samples: Sequence[SampleClip]
    parts: Sequence[Part]


@dataclass(frozen=True, eq=False)
class FeatureRun:
    """A run over the store of one folder."""

    folder: BenchFolder
    files: FeatureFiles
    records: Mapping[str, PartRecord]
    placement: Placement
    rules: ReadingRules

    def run(self, wanted: Sequence[Wanted]) -> tuple[list[SetResults], FeatureCounts]:
        """Compute what is missing; returns the results of each set, in order.

        Raises InputError where weights are absent, CircuitOpen where every unit fails in the same way.
        """
        parts = {part.name: part for entry in wanted for part in entry.parts}
        present = self._present(wanted)
        items = self._missing(wanted, present)
        total = sum(
            len({(part.name, self._key(part, s)) for s in entry.samples}) for entry in wanted for part in entry.parts
        )
        plan = self._plan(items)
        spec = FeatureSpec(self.files, tuple(parts.values()), self.placement.executor.device, self.rules)
        if plan.shards:
            run_stage(self.folder, plan, self.files, lambda: spec)
        messages = {row.candidate_id: row.message for row in self.files.quarantined(plan.units)} if plan.shards else {}
        lost = {item.identity.content: messages[item.item_id] for item in items if item.item_id in messages}
        missing = sum(len(item.parts) for item in items)
        counts = FeatureCounts(missing, max(0, total - missing))
        return [self._results(entry, lost) for entry in wanted], counts

    def _key(self, part: Part, sample: SampleClip) -> str:
        return self.records[part.name].key(sample.identity)

    def _present(self, wanted: Sequence[Wanted]) -> dict[str, set[str]]:
        """Keys that the store has, by part."""
        keys: dict[str, set[str]] = {}
        for entry in wanted:
            for part in entry.parts:
                keys.setdefault(part.name, set()).update(self._key(part, sample) for sample in entry.samples)
        return {name: set(self.files.results(name, own)) for name, own in keys.items()}

    def _missing(self, wanted: Sequence[Wanted], present: Mapping[str, set[str]]) -> list[FeatureItem]:
        """An item per clip that lacks a result; a clip of both sets is one item."""
        seen: set[tuple[str, str]] = set()
        items: dict[str, FeatureItem] = {}
        for entry in wanted:
            for sample in entry.samples:
                missing = []
                for part in entry.parts:
                    key = (part.name, self._key(part, sample))
                    if key[1] not in present[part.name] and key not in seen:
                        seen.add(key)
                        missing.append(part.name)
                if missing:
                    item = FeatureItem(sample.video, sample.sound, sample.identity, tuple(missing))
                    known = items.get(item.item_id)
                    names = tuple(dict.fromkeys((*known.parts, *missing))) if known else item.parts
                    items[item.item_id] = FeatureItem(item.video, item.sound, item.identity, names)
        return list(items.values())

    def _plan(self, items: Sequence[FeatureItem]) -> StagePlan[FeatureItem]:
        """Units of clips that lack the same results."""
        groups: dict[tuple[str, ...], list[FeatureItem]] = {}
        for item in items:
            groups.setdefault(item.parts, []).append(item)
        size, run = self.placement.run.unit_candidates, self.placement.run
        units: list[Unit[FeatureItem]] = []
        for names, members in groups.items():
            fingerprint = digest("bench units", [self.records[name].fingerprint for name in names])
            for start in range(0, len(members), size):
                units.append(
                    Unit(
                        STAGE,
                        len(units) // max(1, run.shard_prompts),
                        fingerprint,
                        tuple(members[start : start + size]),
                    )
                )
        shards: dict[int, list[Unit[FeatureItem]]] = {}
        for unit in units:
            shards.setdefault(unit.shard, []).append(unit)
        return StagePlan(STAGE, tuple(Shard(number, tuple(own)) for number, own in shards.items()), "clips")

    def _results(self, entry: Wanted, lost: Mapping[str, str]) -> SetResults:
        records = {part.name: self.records[part.name] for part in entry.parts}
        reasons = {
            sample.key: lost[sample.identity.content].splitlines()[0]
            for sample in entry.samples
            if sample.identity.content in lost
        }
        return load_results(self.files, entry.samples, records, reasons)
