"""The work of ``avpref bench features``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.bench.bench_export import export_set
from avpref.bench.features.exported_features import SUFFIX, write_published_cache
from avpref.bench.preset_files import choose, load_preset
from avpref.cli.actions.bench.run_benchmark import split
from avpref.cli.output import print_json, print_table
from avpref.config.loading import load_sections
from avpref.config.schema import BenchJobSettings
from avpref.errors import ConfigError, PartialResult
from avpref.execution.ray_session import ray_session
from avpref.flows.bench.bench_job_sources import BenchChoice, bench_job
from avpref.flows.workers.prompt_sources import reading_rules


@dataclass(frozen=True)
class Request:
    """Options of the command: the file to write, and either a folder of clips or JavisBench's cache."""

    out: Path
    clips: Path | None
    cache: Path | None
    preset: str
    prompts: Path | None
    changes: tuple[str, ...]
    columns: str
    is_tiny: bool
    root: Path


def export(request: Request, overrides: Sequence[str], as_json: bool) -> int:
    """Write the file. Exit code 5 where clips have no features. Raises ConfigError unless one source is named."""
    if (request.clips is None) == (request.cache is None):
        raise ConfigError(
            "--clips and --published-cache", "one of them", "avpref bench features --clips FOLDER --out FILE"
        )
    if request.out.suffix != SUFFIX:
        raise ConfigError(
            f"--out {request.out}", f"a name that ends in {SUFFIX}", f"--out {request.out.with_suffix(SUFFIX)}"
        )
    counts, lost = _converted(request) if request.cache is not None else _exported(request, overrides)
    rows = [{"array": name, "rows": count} for name, count in counts.items()]
    document = {"features": str(request.out), "arrays": rows, "lost": lost}
    print_json(document) if as_json else print_table(rows, ["array", "rows"])
    return PartialResult.exit_code if lost else 0


def _converted(request: Request) -> tuple[dict[str, int], list[dict[str, str]]]:
    assert request.cache is not None
    chosen = choose(load_preset(request.preset), request.changes)
    return write_published_cache(request.cache, request.out, chosen.networks), []


def _exported(request: Request, overrides: Sequence[str]) -> tuple[dict[str, int], list[dict[str, str]]]:
    assert request.clips is not None
    settings = load_sections(BenchJobSettings, overrides)
    choice = BenchChoice(
        request.preset,
        request.clips,
        prompts=request.prompts,
        changes=request.changes,
        columns=split(request.columns),
        is_tiny=request.is_tiny,
        rules=reading_rules(settings.clip),
    )
    with ray_session():
        return export_set(bench_job(choice, settings), request.root, request.out)
