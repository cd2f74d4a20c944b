"""Export of the features of a reference set, through the same store as benchmarks."""

from __future__ import annotations

from pathlib import Path

from avpref.bench.bench_features import FeatureRun, Wanted
from avpref.bench.bench_job import BenchJob, network_parts
from avpref.bench.bench_sets import clip_set
from avpref.bench.clips.clip_files import find_clips
from avpref.bench.clips.matching import reference_set
from avpref.bench.clips.prompt_rows import read_prompts
from avpref.bench.features.exported_features import write_features
from avpref.bench.features.set_results import record_of
from avpref.bench.results.bench_folder import BenchFolder, feature_files
from avpref.errors import ConfigError
from avpref.identity import digest
from avpref.observability.run_status import publishing, publishing_stage
from avpref.storage.local_files import storage_errors

STAGE = "bench"
Lost = list[dict[str, str]]


def export_set(job: BenchJob, root: Path, out: Path) -> tuple[dict[str, int], Lost]:
    """Write the features of the clips of ``job`` to ``out``; returns the number of clips per array, and the lost clips.

    Raises ConfigError where no column of the job needs a reference, InputError as :func:`avpref.bench.bench_run.run_benchmark`.
    """
    columns = [column for column in job.asked_columns if column.is_distance]
    if not columns:
        raise ConfigError("no column compares with a reference", "a preset with distances", "--preset javisbench")
    prompts = None if job.prompts is None else read_prompts(job.prompts)
    clips = clip_set("reference", reference_set(find_clips(job.clips), prompts), job.rules)
    parts = network_parts(job, columns)
    records = {part.name: record_of(part) for part in parts}
    identity = digest("bench export", [[s.key, s.identity.content] for s in clips.samples], size=8)
    folder = BenchFolder(root.resolve() / f"export-{identity}", job.placement.executor, job.placement.observe)
    with storage_errors(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    with folder.locked(), publishing(folder), publishing_stage(folder, STAGE):
        files = feature_files(root, {name: record.fingerprint for name, record in records.items()})
        run = FeatureRun(folder, files, records, job.placement, job.rules)
        (results,), _ = run.run([Wanted(clips.samples, parts)])
        arrays = list(dict.fromkeys((column.network, column.array) for column in columns))
        counts = write_features(out, results, arrays)
    lost = [{"key": clip.key, "reason": clip.reason} for clip in clips.lost]
    for network, array in arrays:
        lost += [{"key": key, "reason": f"{network}: {reason}"} for key, reason in results.rows(network, array).lost]
    return counts, lost
