"""The benchmark's part of stage ``evaluate``: a preset of ``avpref bench`` on the held-out clips of reference and policy.

Both sides are samples under the ids of their prompts. The reference set of distances is the ground truth of those prompts, at the run's
shape, or what ``evaluation.bench.reference`` names. Features are kept in the run's folder, so a repeated stage computes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from avpref.bench.bench_job import BenchJob, job_parts
from avpref.bench.bench_run import BenchOutcome, run_benchmark
from avpref.bench.bench_sets import BenchSets, ClipSet, clip_set
from avpref.bench.clips.clip_files import ClipFile, find_clips
from avpref.bench.clips.matching import MatchedSet, Sample, reference_set
from avpref.bench.features.exported_features import SUFFIX, ExportedFeatures, read_features
from avpref.bench.features.set_results import record_of
from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.results.comparison import compare_results
from avpref.bench.results.loaded_results import load_result
from avpref.config.gate_settings import BenchRule, EvaluationBenchSettings
from avpref.config.schema import BenchJobSettings, Settings
from avpref.datasets.evidence.bench_deltas import BenchDelta
from avpref.datasets.rows import EvaluationSide
from avpref.domain import Candidate, Prompt
from avpref.errors import ConfigError, InputError, MediaError
from avpref.flows.bench.bench_job_sources import BenchChoice, bench_job
from avpref.flows.run import Run
from avpref.flows.workers.prompt_sources import has_ground_truth, open_prompt_source
from avpref.media.reading_rules import DEFAULT_READING
from avpref.media.writing import encode_clip
from avpref.storage.local_files import LocalFiles, replace

FOLDER = "bench"
TRUTH = "ground_truth"


def check_bench(settings: Settings) -> None:
    """Raises ConfigError for an unknown preset, setting or column, and for a gate rule on a column that is not computed.

    Raises InputError where weights are absent, or the reference is.
    """
    bench = settings.evaluation.bench
    if not bench.preset:
        return
    job = _job(settings, bench, Path(), None)
    names = {column.name for column in job.asked_columns}
    for rule in settings.evaluation.gate.rules:
        if isinstance(rule, BenchRule) and rule.column not in names:
            found = f"evaluation.gate.rules: bench of column {rule.column}"
            raise ConfigError(found, f"a column of evaluation.bench: {', '.join(sorted(names))}", "change the rule")
    if bench.reference and not Path(bench.reference).exists():
        expected = "a folder of clips, or a file of avpref bench features"
        raise InputError(
            f"evaluation.bench.reference: no {bench.reference}", expected, "--set evaluation.bench.reference=''"
        )
    for part in job_parts(job, has_sound_text=False).all:
        record_of(part)


def bench_sides(
    run: Run, prompts: Sequence[Prompt], sides: Mapping[EvaluationSide, Sequence[Candidate]]
) -> tuple[BenchDelta, ...]:
    """Run the benchmark on both sides' clips of ``prompts``; nothing where none is configured.

    Raises as :func:`avpref.bench.bench_run.run_benchmark`.
    """
    bench = run.settings.evaluation.bench
    if not bench.preset:
        return ()
    reference = _reference(run, bench, prompts)
    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    outcomes = {}
    for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY):
        samples = [_sample(run, candidate, texts[candidate.prompt_id]) for candidate in sides[side]]
        generated = clip_set(str(side), MatchedSet(tuple(samples), ()), DEFAULT_READING)
        job = _job(run.settings, bench, Path(str(side)), Path(bench.reference) if bench.reference else None)
        outcomes[side] = run_benchmark(job, run.root / FOLDER, BenchSets(generated, reference, None))
    return _deltas(outcomes, run.settings)


def _job(settings: Settings, bench: EvaluationBenchSettings, clips: Path, reference: Path | None) -> BenchJob:
    is_tiny = settings.scoring.preset == "tiny"
    choice = BenchChoice(bench.preset, clips, reference, None, bench.changes, bench.columns, is_tiny=is_tiny)
    sections = BenchJobSettings(
        run=settings.run, executor=settings.executor, observe=settings.observe, scoring=settings.scoring
    )
    return bench_job(choice, sections)


def _sample(run: Run, candidate: Candidate, text: str) -> Sample:
    return Sample(candidate.prompt_id, ClipFile(candidate.prompt_id, _local(run, candidate.path), None), text, text)


def _local(run: Run, name: str) -> Path:
    """The path of a committed clip; one of a bucket is copied into the run's local folder."""
    media = run.media
    if isinstance(media, LocalFiles):
        return Path(media.uri(name))
    path = run.root / FOLDER / "clips" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, media.read(name))
    return path


def _reference(
    run: Run, bench: EvaluationBenchSettings, prompts: Sequence[Prompt]
) -> ClipSet | ExportedFeatures | None:
    if bench.reference:
        path = Path(bench.reference)
        if path.suffix == SUFFIX:
            return read_features(path)
        return clip_set("reference", reference_set(find_clips(path), None), DEFAULT_READING)
    samples = []
    for prompt in prompts:
        truth = _ground_truth(run, prompt) if has_ground_truth(prompt, run.settings) else None
        if truth is not None:
            samples.append(Sample(prompt.prompt_id, ClipFile(prompt.prompt_id, truth, None)))
    return clip_set("reference", MatchedSet(tuple(samples), ()), DEFAULT_READING) if samples else None


def _ground_truth(run: Run, prompt: Prompt) -> Path | None:
    """The prompt's ground truth as a file of the run's shape, written once; None where it cannot be read."""
    path = run.root / FOLDER / TRUTH / f"{prompt.prompt_id}.mp4"
    if not path.is_file():
        try:
            clip = open_prompt_source(run.settings).ground_truth(prompt)
        except MediaError:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, encode_clip(clip.frames, run.settings.clip.fps_hz, clip.audio, run.settings.clip.sample_rate_hz))
    return path


def _deltas(outcomes: Mapping[EvaluationSide, BenchOutcome], settings: Settings) -> tuple[BenchDelta, ...]:
    reference, policy = outcomes[EvaluationSide.REFERENCE], outcomes[EvaluationSide.POLICY]
    plan = BootstrapPlan(seed=settings.run.seed, confidence=settings.evaluation.confidence)
    sides = [load_result(outcome.folder, str(side)) for side, outcome in outcomes.items()]
    differences = {row["column"]: row for row in compare_results(sides, plan)["differences"]}
    return tuple(
        BenchDelta(
            column=name,
            higher_is_better=bool(value["higher_is_better"]),
            reference=value["value"],
            policy=policy.document["columns"][name]["value"],
            difference=differences[name]["value"],
            low=differences[name]["low"],
            high=differences[name]["high"],
            num_pairs=differences[name]["num_pairs"],
            reason=differences[name]["reason"] or value["reason"],
        )
        for name, value in reference.document["columns"].items()
    )
