"""Damaged clips are quarantined with a reason and are in no pair; the run stops only if there are too many."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from avpref.config.loading import identity_hash
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Metric, Split
from avpref.errors import CircuitOpen, InputError, MediaError
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.score import score
from avpref.flows.workers import generate_worker as generating
from avpref.media.geometry import ClipShape
from avpref.models.codecs.codec import IdentityCodec
from avpref.models.flow import Latents
from avpref.rewards.fake import FakeScorer
from avpref.rewards.protocol import ScorableClip
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import read_prompts

Copy = Callable[..., RunFolder]


def clip_paths(folder: RunFolder, split: Split = Split.TRAIN) -> list[str]:
    """Paths of the sealed candidates of one split, in the plan's order."""
    prompt_ids = {prompt.prompt_id for prompt in read_prompts(folder.tables) if prompt.split == split}
    return [row["path"] for row in folder.tables.read(tables.CANDIDATES).to_pylist() if row["prompt_id"] in prompt_ids]


def candidate_of(path: str) -> str:
    return Path(path).name.split("-")[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def pair_members(folder: RunFolder) -> set[str]:
    pairs = folder.tables.read(tables.PAIRS)
    return set(pairs["chosen"].to_pylist()) | set(pairs["rejected"].to_pylist())


def test_changed_or_missing_clips_are_quarantined_and_the_run_goes_on(tiny_copy: Copy) -> None:
    folder = tiny_copy("score")
    paths = clip_paths(folder)
    damaged: dict[str, Callable[[Path], None]] = {paths[1]: truncate, paths[20]: flip, paths[40]: Path.unlink}
    for path, damage in damaged.items():
        damage(folder.root / path)
    document = run_loop(folder).document()
    assert document["quarantined"] == 3
    rows = {row["candidate_id"]: row for row in folder.tables.read(tables.QUARANTINE).to_pylist()}
    assert set(rows) == {candidate_of(path) for path in damaged}
    for path in damaged:
        row = rows[candidate_of(path)]
        assert (row["stage"], row["error"]) == ("score", "MediaError")
        assert path in row["message"]
    assert (
        "missing" in rows[candidate_of(paths[40])]["message"] and "sha-256" in rows[candidate_of(paths[1])]["message"]
    )
    assert not pair_members(folder) & set(rows)
    assert not set(folder.tables.read(tables.SCORES)["candidate_id"].to_pylist()) & set(rows)
    assert folder.tables.num_rows(tables.SCORES) == 7 * (folder.tables.num_rows(tables.CANDIDATES) - 3)
    assert (
        run_loop(folder).document()["quarantined"] == folder.tables.num_rows(tables.QUARANTINE) == 3
    )  # nor does a second run forget


def test_too_many_bad_clips_stop_the_run_until_the_cause_is_gone(
    tiny_copy: Copy, tiny_run: RunFolder, sealed: Callable[[RunFolder, str], list[bytes]]
) -> None:
    """Every execution stops while the clips are damaged; once they are restored, the run ends with the same pairs."""
    folder = tiny_copy("score")
    paths = clip_paths(folder)
    allowed = round(folder.settings.run.max_quarantined_share * folder.tables.num_rows(tables.CANDIDATES))
    for path in paths[: allowed + 1]:
        truncate(folder.root / path)
    for _ in range(2):
        with pytest.raises(CircuitOpen) as caught:
            run_loop(folder)
        assert f"{allowed + 1} candidates are quarantined, {allowed} were allowed" in caught.value.found
        assert "MediaError" in caught.value.found and "sha-256" in caught.value.found
        assert str(folder.root / "units") in caught.value.fix
        assert not folder.tables.has(tables.SCORES)
    shutil.rmtree(folder.root / "units" / "score")
    for path in paths:
        shutil.copy2(tiny_run.root / path, folder.root / path)
    assert run_loop(folder).document()["quarantined"] == 0
    assert sealed(folder, "pairs") == sealed(tiny_run, "pairs")


def test_a_circuit_opened_by_the_very_last_unit_does_not_let_the_next_execution_pass(tiny_copy: Copy) -> None:
    folder = tiny_copy("score")
    held_out = clip_paths(folder, Split.HELD_OUT)
    train = clip_paths(folder)
    allowed = round(folder.settings.run.max_quarantined_share * folder.tables.num_rows(tables.CANDIDATES))
    for path in [*train[: allowed + 1 - len(held_out)], *held_out]:
        truncate(folder.root / path)
    for _ in range(2):
        with pytest.raises(CircuitOpen):
            score.fn(Run.of(folder))


def test_a_pair_s_clip_that_goes_bad_or_vanishes_later_stops_the_run_and_nothing_is_lost_by_restoring_it(
    tiny_copy: Copy, tiny_run: RunFolder, sealed: Callable[[RunFolder, str], list[bytes]]
) -> None:
    folder = tiny_copy("train")
    members = pair_members(folder)
    victim = next(path for path in clip_paths(folder) if candidate_of(path) in members)
    damages: list[Callable[[Path], object]] = [truncate, Path.unlink]
    for damage in damages:
        damage(folder.root / victim)
        with pytest.raises(InputError) as caught:
            run_loop(folder)
        assert not isinstance(caught.value, MediaError)
        assert f"restore {folder.root / victim}" in caught.value.fix
    shutil.copy2(tiny_run.root / victim, folder.root / victim)
    run_loop(folder)
    assert sealed(folder, "evaluations") == sealed(tiny_run, "evaluations")


# clips that are damaged when they are made


def without_sound(data: bytes) -> bytes:
    """The same mp4 with its picture alone."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(target, "w", format="mp4") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target.getvalue()


def mute(monkeypatch: pytest.MonkeyPatch, is_muted: Callable[[generating.CandidateRequest], bool]) -> set[str]:
    """Patch the worker so that the clips of some requests are written without sound; returns the set of their ids as it grows."""
    muted: set[str] = set()
    real_write, real_mp4 = generating.GenerateWorker._write, generating.mp4_bytes

    def write(
        self: generating.GenerateWorker, item: generating.CandidateRequest, clip: generating.FinishedClip
    ) -> object:
        def mp4_bytes(unencoded: generating.UnencodedClip, shape: ClipShape) -> bytes:
            data = real_mp4(unencoded, shape)
            return without_sound(data) if is_muted(item) else data

        if is_muted(item):
            muted.add(item.item_id)
        with monkeypatch.context() as patch:
            patch.setattr(generating, "mp4_bytes", mp4_bytes)
            return real_write(self, item, clip)

    monkeypatch.setattr(generating.GenerateWorker, "_write", write)
    return muted


def score_by_index(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch the fake scorer so that a candidate of a higher index is better in every metric."""
    index_of: dict[str, int] = {}

    def values(self: FakeScorer, clip: ScorableClip, metrics: Sequence[Metric]) -> dict[str, float]:
        if not index_of:
            rows = folder.tables.read(tables.CANDIDATES).to_pylist()
            index_of.update({row["candidate_id"]: row["index"] for row in rows})
        index = float(index_of[clip.candidate_id])
        return {metric.name: index if metric.higher_is_better else -index for metric in metrics}

    monkeypatch.setattr(FakeScorer, "_values", values)


def test_a_candidate_without_sound_is_skipped_with_the_reason_and_is_in_no_pair(
    tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best candidate of every prompt is muted: the second best is chosen in its place."""
    folder = tiny_copy("generate")
    best = folder.settings.sampling.num_candidates
    score_by_index(folder, monkeypatch)
    muted = mute(monkeypatch, lambda item: item.index == best)
    for stage in (generate, score, pair):
        stage.fn(Run.of(folder))
    candidates = {row["candidate_id"]: row for row in folder.tables.read(tables.CANDIDATES).to_pylist()}
    pairs = folder.tables.read(tables.PAIRS).to_pylist()
    num_prompts = sum(prompt.split == Split.TRAIN for prompt in read_prompts(folder.tables))
    assert len(muted) == len(pairs) == num_prompts > 0
    assert {candidates[pair["chosen"]]["index"] for pair in pairs} == {best - 1}
    assert {candidates[pair["rejected"]]["index"] for pair in pairs} == {0}
    assert not pair_members(folder) & muted
    assert folder.documents.quarantined() == []
    rows = [row for row in folder.tables.read(tables.SCORES).to_pylist() if row["candidate_id"] in muted]
    metrics_of_sound = {"audio_quality", "text_audio", "audio_video", "desync"}
    for row in rows:
        if row["metric"] in metrics_of_sound:
            assert (row["status"], row["value"]) == ("skipped", None) and "audio" in row["reason"]
        else:
            assert row["status"] == "ok" and row["value"] is not None
    assert {row["candidate_id"] for row in rows} == muted


def test_a_policy_that_makes_clips_without_sound_is_refused(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_copy("evaluate")
    muted = mute(monkeypatch, lambda item: True)
    document = run_loop(folder).document()
    assert len(muted) == sum(prompt.split == Split.HELD_OUT for prompt in read_prompts(folder.tables))
    for dimension in ("audio", "sync"):
        compared = document["evaluation"][dimension]
        assert compared["delta_sd"] < 0 and compared["win_rate"] < 0.5
        assert compared["num_pairs"] == len(muted)
    assert document["gate"]["verdict"] == "refuse"


def test_a_candidate_that_cannot_be_made_is_quarantined_alone(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error other than MediaError: the candidate is tried again, separated from its unit, and quarantined."""
    folder = tiny_copy("generate")
    victim = [prompt for prompt in read_prompts(folder.tables) if prompt.split == Split.TRAIN][4]
    real, calls = generating.GenerateWorker._ground_truth, []

    def ground_truth(self: generating.GenerateWorker, item: generating.CandidateRequest) -> object:
        if item.prompt == victim:
            calls.append(item.item_id)
            raise ZeroDivisionError("no such clip")
        return real(self, item)

    monkeypatch.setattr(generating.GenerateWorker, "_ground_truth", ground_truth)
    generate.fn(Run.of(folder))
    assert folder.documents.quarantined() == [
        QuarantineRow(calls[0], "generate", "ZeroDivisionError", "no such clip", 2)
    ]
    assert calls[0] not in folder.tables.read(tables.CANDIDATES)["candidate_id"].to_pylist()
    events = [json.loads(line) for line in (folder.root / "events.jsonl").read_text().splitlines()]
    assert [e["candidate_id"] for e in events if e["event"] == "quarantined"] == [calls[0]]


def test_a_network_that_gives_no_numbers_opens_the_circuit(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every unit fails with the same error, the run stops after a few units and names the error."""
    folder = tiny_copy("generate")
    real = IdentityCodec.decode

    def decode(self: IdentityCodec, latents: Latents) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(frames, np.full_like(audio, np.nan)) for frames, audio in real(self, latents)]

    monkeypatch.setattr(IdentityCodec, "decode", decode)
    with pytest.raises(CircuitOpen, match="every unit failed with ValueError: audio must be finite"):
        run_loop(folder)


def test_the_share_that_may_be_lost_is_part_of_the_configuration(tiny_copy: Copy) -> None:
    folder = tiny_copy("score")
    stricter = folder.settings.model_copy(
        update={"run": folder.settings.run.model_copy(update={"max_quarantined_share": 0.02})}
    )
    assert identity_hash(stricter) != identity_hash(folder.settings)
    strict = RunFolder(folder.root, stricter)
    paths = clip_paths(folder)
    for path in paths[:2]:
        truncate(folder.root / path)
    with pytest.raises(CircuitOpen, match="2 candidates are quarantined, 1 were allowed"):
        run_loop(strict)
