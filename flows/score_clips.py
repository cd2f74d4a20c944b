"""Scoring of a list of clips without a run: each row of a CSV file is a candidate for the configured scorers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from avpref.config.executor_settings import Executor
from avpref.config.loading import NOT_OF_IDENTITY
from avpref.config.observe_settings import ObserveSettings
from avpref.config.schema import ScoreJob
from avpref.datasets import tables
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.listed_files import inspect_clip
from avpref.datasets.prompts.clips import ClipRow, RefusedRow, read_rows
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Candidate, Origin, Prompt, Split, prompt_id
from avpref.errors import InputError
from avpref.flows.stages.candidate_plan import GROUND_TRUTH_INDEX
from avpref.flows.stages.score import ScoringRequest, score_items
from avpref.flows.workers.prompt_sources import reading_rules
from avpref.flows.workers.score_worker import ClipView, ScoreItem
from avpref.flows.workers.scorers import sources
from avpref.identity import digest
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules
from avpref.observability.run_status import publishing, publishing_stage
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles, storage_errors
from avpref.storage.score_files import distinct
from avpref.storage.work_folder import WorkFolder

STAGE = "score"
JOB_FILE = "job.json"
TRAINING_WINDOW_S = 81 / 16
"""Length of the clips that the released model is trained on: 81 frames at 16 per second."""


@dataclass(frozen=True)
class ClipScores(WorkFolder):
    """The folder of the scores of one list of clips."""

    job: ScoreJob

    @property
    def executor(self) -> Executor:
        """The executor of the job."""
        return self.job.executor

    @property
    def observe(self) -> ObserveSettings:
        """Settings of progress, metrics and cost."""
        return self.job.observe

    @property
    def media(self) -> Files:
        """The local file system; the paths of the clips are absolute."""
        return LocalFiles(Path("/"))

    @property
    def window_s(self) -> float:
        """Length of the part of each clip that scorers see, in seconds from its start."""
        return self.job.scoring.window_s or TRAINING_WINDOW_S

    @property
    def max_quarantined_share(self) -> float:
        """The share of the list that may be quarantined: all of it, because users decide which clips they list."""
        return 1.0


@dataclass(frozen=True)
class ClipList:
    """The clips of a CSV file that can be opened, with their prompts, and the rows that cannot, with reasons."""

    prompts: list[Prompt]
    candidates: list[Candidate]
    refused: list[QuarantineRow]


def score_clip_list(csv: Path, job: ScoreJob, root: Path) -> tuple[ClipScores, list[QuarantineRow]]:
    """Score every clip of ``csv`` (columns ``file,text``; text may be empty) and seal the tables in a folder under ``root``.

    The folder's name is a hash of clips and job, so the same command again computes only missing scores. Returns the folder and the
    quarantined rows. Raises InputError where no clip can be opened or weights are absent, ConfigError for a scorer
    that cannot be used.
    """
    sources(job.scoring, job.executor)  # a scorer that cannot be used is an error before clips are read
    clip_list = open_clips(csv, reading_rules(job.clip))
    if not clip_list.candidates:
        first = clip_list.refused[0].message.splitlines()[0] if clip_list.refused else "it has no rows"
        raise InputError(f"{csv}: no clip can be opened ({first})", "at least one readable clip", f"correct {csv}")
    ids = [candidate.candidate_id for candidate in clip_list.candidates]
    excluded = NOT_OF_IDENTITY | ({"clip"} if job.clip.audio_track == "" else set())
    identity = digest("clip scores", ids, job.model_dump(mode="json", exclude=set(excluded)), size=8)
    folder = ClipScores(Path(root).resolve() / f"{job.run.name}-{identity}", job)
    with storage_errors(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    folder.files.commit_once(JOB_FILE, json.dumps(job.model_dump(mode="json"), indent=1).encode())
    with folder.locked(), publishing(folder), publishing_stage(folder, STAGE):
        return folder, _score(folder, clip_list)


def _score(folder: ClipScores, clip_list: ClipList) -> list[QuarantineRow]:
    text = {prompt.prompt_id: prompt.text for prompt in clip_list.prompts}
    items = [ScoreItem(candidate, text[candidate.prompt_id]) for candidate in clip_list.candidates]
    job = folder.job
    _refuse_toy(job)
    view = ClipView(None, folder.window_s, reading_rules(job.clip))
    scored = score_items(folder, STAGE, ScoringRequest(items, job.scoring, job.run, view))
    quarantined = clip_list.refused + distinct(folder.tables.seal_units(folder.units(tables.SCORES), scored.units))
    inputs = digest("clips", [candidate.candidate_id for candidate in clip_list.candidates])
    for table, rows in ((tables.PROMPTS, clip_list.prompts), (tables.CANDIDATES, clip_list.candidates)):
        folder.tables.seal(table, inputs, tables.to_arrow(table, rows, inputs))
    folder.tables.seal(tables.QUARANTINE, inputs, tables.to_arrow(tables.QUARANTINE, quarantined, inputs))
    return quarantined


def open_clips(csv: Path, rules: ReadingRules = DEFAULT_READING) -> ClipList:
    """Probe and hash every file of ``csv``. Unusable rows are returned with their reasons; the others are kept."""
    prompts: dict[str, Prompt] = {}
    candidates: dict[str, Candidate] = {}
    refused: list[QuarantineRow] = []
    for row in read_rows(csv):
        if isinstance(row, RefusedRow):
            refused.append(_refusal(row, "InputError", row.reason))
            continue
        try:
            prompt, candidate = _candidate(row, rules)
        except InputError as error:
            refused.append(_refusal(row, type(error).__name__, str(error)))
            continue
        prompts.setdefault(prompt.prompt_id, prompt)
        candidates.setdefault(candidate.candidate_id, candidate)
    return ClipList(list(prompts.values()), list(candidates.values()), refused)


def _refusal(row: ClipRow | RefusedRow, error: str, message: str) -> QuarantineRow:
    return QuarantineRow(f"line {row.line}: {printable(row.file)}", STAGE, error, message, 1)


def _candidate(row: ClipRow, rules: ReadingRules) -> tuple[Prompt, Candidate]:
    info, sha256 = inspect_clip(row.path, rules)
    prompt = Prompt(prompt_id(row.text), row.text, Split.TRAIN)
    fps_hz = info.video.fps_hz if info.video else 0.0
    return prompt, Candidate(
        candidate_id="c" + digest("clip", sha256, row.text),
        prompt_id=prompt.prompt_id,
        index=GROUND_TRUTH_INDEX,
        origin=Origin.GROUND_TRUTH,
        seed=0,
        checkpoint_hash="",
        sampler_hash="",
        path=str(row.path),
        sha256=sha256,
        num_frames=round(info.duration_s * fps_hz),
        height_px=info.video.height_px if info.video else 0,
        width_px=info.video.width_px if info.video else 0,
        fps_hz=fps_hz,
        sample_rate_hz=info.audio.sample_rate_hz if info.audio else 0,
        duration_s=info.duration_s,
    )


def _refuse_toy(job: ScoreJob) -> None:
    if "toy" in [use.use for use in job.scoring.uses]:
        raise InputError(
            "the toy scorers can only score clips of the built-in toy world",
            f"scorers for recordings, not {', '.join(source.name for source in sources(job.scoring, job.executor))}",
            "--scorers signal, or --scorers audiobox,imagebind,synchformer,videoalign",
        )
