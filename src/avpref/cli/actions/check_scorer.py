"""The work of ``avpref scorers check``: the contract of a scorer on real or generated clips."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import ConfigError, InputError, MediaError
from avpref.flows.workers.scorers import ScorerSource, resolve
from avpref.media.reading import probe, read_clip
from avpref.rewards.outside.sample_clips import broken_clips, sample_clips
from avpref.rewards.outside.scorer_contract import Contract, Finding
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.weights.catalogue import terms_text

SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi"})
MAX_CLIPS = 8
LENGTH_S = 5.0
FAILED = 1
FINGERPRINT = """
import sys
from avpref.cli.actions.check_scorer import sources_of
print(*(source.fingerprint for source in sources_of(sys.argv[1])), sep=chr(10))
"""


def check(entry: str, folder: Path | None, changes: Sequence[str], as_json: bool) -> int:
    """Check the scorer of ``entry`` (a name, or a mapping in YAML) and print the findings; returns the exit code.

    ``changes`` are settings as ``key=value`` that must change the scores.
    """
    clips, broken = (sample_clips(), broken_clips()) if folder is None else (_clips_in(folder), [])
    documents = []
    for source in sources_of(entry):
        contract = Contract(source.open("auto"), clips, broken)
        findings = [*contract.findings()]
        if findings[0].is_passed:
            findings += [_fingerprint(entry, source), *_changes(entry, source, changes, contract, clips)]
        documents.append(_document(source, findings))
    is_passed = all(finding["is_passed"] for document in documents for finding in document["checks"])
    if as_json:
        print_json({"is_passed": is_passed, "scorers": documents})
    else:
        for document in documents:
            _print(document)
    return 0 if is_passed else FAILED


def sources_of(entry: str, changes: Sequence[str] = ()) -> list[ScorerSource]:
    """The scorers of an entry of ``scoring.scorers``, with changed settings. Raises ConfigError."""
    value = yaml.safe_load(entry)
    use = ScoringSettings.model_validate({"scorers": [value if isinstance(value, dict) else entry]}).uses[0]
    changed = dict(change.partition("=")[::2] for change in changes)
    values = {**use.settings, **{key: yaml.safe_load(text) for key, text in changed.items()}}
    return resolve([ScorerUse(use=use.use, name=use.name, settings=values)], ScoringSettings())


def _clips_in(folder: Path) -> list[ScorableClip]:
    """The first clips of a folder, with the words of their file names as texts. Raises InputError where none can be read."""
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}", "a folder with clips", "--clips FOLDER")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    clips = []
    for path in files:
        try:
            clip = read_clip(path, duration_s=min(LENGTH_S, probe(path).duration_s))
        except MediaError:
            continue
        clips.append(ScorableClip(path.name, path.stem.replace("_", " ").replace("-", " "), clip))
        if len(clips) == MAX_CLIPS:
            break
    if len(clips) < 2:
        found = f"{folder} has {len(clips)} clips that can be read, of {len(files)} files"
        raise InputError(found, f"at least two files of {', '.join(sorted(SUFFIXES))}", "--clips FOLDER, or no --clips")
    return clips


def _fingerprint(entry: str, source: ScorerSource) -> Finding:
    """Compare the fingerprint with that of another process with another hash seed."""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", FINGERPRINT, entry], capture_output=True, text=True, env=environment)
    others = done.stdout.split()
    if done.returncode or source.fingerprint not in others:
        detail = (done.stderr.strip().splitlines() or [f"{', '.join(others)} instead of {source.fingerprint}"])[-1]
        return Finding("fingerprint equal in another process", False, detail)
    return Finding("fingerprint equal in another process", True, source.fingerprint)


def _changes(
    entry: str, source: ScorerSource, changes: Sequence[str], contract: Contract, clips: Sequence[ScorableClip]
) -> Iterator[Finding]:
    for change in changes:
        check_name = f"{change} changes the scores"
        other = next(other for other in sources_of(entry, [change]) if other.slug == source.slug)
        changed = Contract(other.open("auto"), clips)
        first = next(changed.findings())
        if not first.is_passed:
            yield Finding(check_name, False, first.observation)
        elif changed.values() == contract.values():
            yield Finding(check_name, False, "every score is the same")
        elif other.fingerprint == source.fingerprint:
            yield Finding(check_name, False, "the scores change and the fingerprint does not")
        else:
            yield Finding(check_name, True, "scores and fingerprint change")


def _document(source: ScorerSource, findings: Sequence[Finding]) -> dict[str, Any]:
    metrics = [f"{metric.name} ({metric.unit}, {metric.dimension})" for metric in source.metrics]
    return {
        "scorer": source.slug,
        "metrics": metrics,
        "terms": terms_text(source.terms),
        "checks": [vars(finding) for finding in findings],
    }


def _print(document: dict[str, Any]) -> None:
    print_facts({"scorer": document["scorer"], "metrics": ", ".join(document["metrics"]), "terms": document["terms"]})
    rows = [{**row, "result": "passed" if row["is_passed"] else "FAILED"} for row in document["checks"]]
    print_table(rows, ["check", "result", "observation"])
    print_line()
