"""Clips before and after training: the reference's and the policy's of the same held-out prompt and noise."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from avpref.datasets import tables
from avpref.datasets.rows import EvaluationKind, EvaluationSide
from avpref.domain import Candidate
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import as_candidates, read_candidates, read_prompts

FOLDER = "clips"
EVALUATE = "evaluate"
"""The stage whose units hold the policy's clips; no sealed table lists them."""


@dataclass(frozen=True)
class ClipPair:
    """The clips of a held-out prompt before and after training: names of files, and the sum of the changes of its rewards."""

    text: str
    before: str
    after: str
    gain: float


def copy_clips(run: RunFolder, out: Path, num_prompts: int) -> list[ClipPair]:
    """Copy clips of held-out prompts into ``clips/`` of ``out``: of the largest gain, of the smallest, and evenly between them.

    The choice is not of the best alone, so the clips show what training made worse too. None where the run's clips are gone.
    """
    gains = _gains(run)
    chosen = _spread(sorted(gains, key=lambda prompt: (-gains[prompt], prompt)), num_prompts)
    clips = _candidates(run, set(chosen))
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(run.tables)}
    pairs = []
    for number, prompt in enumerate(chosen, start=1):
        sides = [clips.get((prompt, side)) for side in EvaluationSide]
        names = []
        for label, clip in zip(("before", "after"), sides, strict=True):
            if clip is not None and run.media.exists(clip.path):
                names.append(f"{FOLDER}/{number}-{label}.mp4")
                (out / FOLDER).mkdir(exist_ok=True)
                (out / names[-1]).write_bytes(run.media.read(clip.path))
        if len(names) == len(sides):
            pairs.append(ClipPair(texts[prompt], names[0], names[1], gains[prompt]))
    return pairs


def _spread(ordered: list[str], num: int) -> list[str]:
    """``num`` entries from the first to the last, evenly; all where there are fewer."""
    if num >= len(ordered) or num <= 0:
        return ordered if num > 0 else []
    if num == 1:
        return [ordered[len(ordered) // 2]]
    return [ordered[round(place * (len(ordered) - 1) / (num - 1))] for place in range(num)]


def _gains(run: RunFolder) -> dict[str, float]:
    """Sum over the dimensions of policy − reference, per held-out prompt that has every reward."""
    if not run.tables.has(tables.EVALUATIONS):
        return {}
    rewards: dict[str, dict[tuple[str, str], float | None]] = defaultdict(dict)
    for row in run.tables.read(tables.EVALUATIONS).to_pylist():
        if row["kind"] == EvaluationKind.REWARD:
            rewards[row["prompt_id"]][row["side"], row["name"]] = row["value"]
    gains = {}
    for prompt, values in rewards.items():
        total = 0.0
        for (side, _), value in values.items():
            total += (value if value is not None else float("nan")) * (1 if side == EvaluationSide.POLICY else -1)
        if total == total:
            gains[prompt] = total
    return gains


def _candidates(run: RunFolder, prompts: set[str]) -> dict[tuple[str, EvaluationSide], Candidate]:
    """The clips that were compared, of some prompts, by prompt and side."""
    if not prompts:
        return {}
    side_of = {
        row["candidate_id"]: EvaluationSide(row["side"])
        for row in run.tables.read(tables.EVALUATIONS).select(["candidate_id", "side", "prompt_id"]).to_pylist()
        if row["prompt_id"] in prompts
    }
    rows = read_candidates(run.tables)
    for name in run.unit_files.names(EVALUATE):
        if name.endswith(".parquet"):
            with run.unit_files.open(name) as stream:
                rows += as_candidates(pq.ParquetFile(stream).read())
    return {(clip.prompt_id, side_of[clip.candidate_id]): clip for clip in rows if clip.candidate_id in side_of}
