"""A run's folder: the truth about a run. Everything in it is named by what it depends on.

run.json  config.yaml            who this is
units/<stage>/<fingerprint>/     committed units
clips/                           candidate media, named by id and content hash
tables/<table>/                  sealed versions and CURRENT
models/<stage>-<fingerprint>/    checkpoints and trained weights
result.json report.html plots/   what came out
events.jsonl                     what happened

With ``storage.kind: objects`` the bucket holds all of it but the last line, checkpoints, report and plots; the folder is
then scratch of the trainer and a cache of finished models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from avpref import __version__
from avpref.config import loading as config
from avpref.config.observe_settings import ObserveSettings
from avpref.config.schema import Executor, Settings
from avpref.config.storage_settings import FolderStorage, ObjectStorage
from avpref.domain import SCHEMA_VERSION
from avpref.errors import ConfigError, InputError, ProductVersionError, SchemaVersionError
from avpref.storage.documents import CONFIG_FILE, EVENTS_FILE, RESULT_FILE, RUN_FILE
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles, storage_errors
from avpref.storage.lock import owned
from avpref.storage.model_files import KeptModels, PublishedModels, TrainedFiles
from avpref.storage.object_files import ListedFiles, ObjectFiles, check_commit_rule
from avpref.storage.work_folder import WorkFolder


def run_id(settings: Settings) -> str:
    """The run's identity: name, seed and the hash of its settings. The executor does not enter."""
    return f"{settings.run.name}-s{settings.run.seed}-{config.identity_hash(settings)}"


@dataclass(frozen=True)
class RunFolder(WorkFolder):
    """One run's folder and its settings. Build with :func:`create` or :func:`open_run`."""

    settings: Settings

    @property
    def run_id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.root.name

    @property
    def executor(self) -> Executor:
        """Who runs the units of candidate stages."""
        return self.settings.executor

    @property
    def observe(self) -> ObserveSettings:
        """How the run is watched, and at what price."""
        return self.settings.observe

    @property
    def max_quarantined_share(self) -> float:
        """The share of a stage's candidates that may be given up."""
        return self.settings.run.max_quarantined_share

    @property
    def files(self) -> Files:
        """What is true of the run, wherever the settings keep it."""
        return _storage_of(self).files

    @property
    def unit_files(self) -> Files:
        """Where units are committed."""
        return _storage_of(self).units

    @property
    def shared(self) -> Files:
        """What runs of the same place have in common."""
        return _storage_of(self).shared

    @property
    def models(self) -> TrainedFiles:
        """Finished models."""
        return _storage_of(self).models

    def model_folder(self, stage: str, fingerprint: str) -> Path:
        """Folder of a training stage's checkpoints and result."""
        return self.root / "models" / f"{stage}-{fingerprint}"

    def record_settings(self) -> None:
        """See :class:`WorkFolder`; the run's id says that settings can differ in the executor alone.

        Raises ProductVersionError for a run that another version of the product began.
        """
        _refuse_other_version(self)
        text = config.to_yaml(self.settings).encode()
        self.documents.replace_everywhere(CONFIG_FILE, text)


@dataclass(frozen=True)
class _Storage:
    """Where a run's files, its units, the files that runs share, and finished models are."""

    files: Files
    units: Files
    shared: Files
    models: TrainedFiles


def _storage_of(folder: RunFolder) -> _Storage:
    match folder.settings.storage:
        case FolderStorage():
            own = LocalFiles(folder.root)
            return _Storage(own, own.subfolder("units"), LocalFiles(folder.runs), KeptModels())
        case ObjectStorage() as given:
            shared = ObjectFiles(given, given.prefix)
            files = shared.subfolder(folder.run_id)
            units = ListedFiles(given, files.subfolder("units").prefix)
            return _Storage(files, units, shared, PublishedModels(files.subfolder("models"), folder.root / "models"))


def create(runs: Path, settings: Settings) -> RunFolder:
    """The folder of the run that ``settings`` describe, made if it is not there yet; and its place in a bucket, if it has one.

    Raises StorageError for a folder or bucket that cannot be written, SchemaVersionError for a run of another schema,
    ConfigError where the folder says that the run keeps its files elsewhere.
    """
    root = Path(runs).resolve() / run_id(settings)
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    document = {
        "schema_version": SCHEMA_VERSION,
        "run_id": root.name,
        "seed": settings.run.seed,
        "version": __version__,
    }
    text, identity = config.to_yaml(settings).encode(), json.dumps(document, indent=1).encode()
    folder = RunFolder(root, settings)
    if (root / RUN_FILE).exists():
        _check_schema(LocalFiles(root))
        _refuse_other_storage(folder)
    if isinstance(folder.files, ObjectFiles):
        check_commit_rule(folder.files, RUN_FILE, identity)
        _check_schema(folder.files)
    folder.documents.commit_everywhere(CONFIG_FILE, text)
    folder.documents.commit_everywhere(RUN_FILE, identity)
    return folder


def _refuse_other_storage(folder: RunFolder) -> None:
    """A run whose units are in one place is not begun again in another without a word."""
    recorded, asked = open_root(folder.root).settings.storage, folder.settings.storage
    known, wanted = (getattr(storage, "url", "the folder itself") for storage in (recorded, asked))
    if known != wanted:
        raise ConfigError(
            f"run {folder.run_id} keeps its files in {known}, and {wanted} was asked for",
            "the place that the run was begun in",
            f"--set 'storage={json.dumps(recorded.model_dump(mode='json'))}', or a new folder: --runs DIR",
        )


def open_run(runs: Path, run: str = "") -> RunFolder:
    """An existing run by id (or an unambiguous beginning of one); without ``run`` the newest.

    Raises InputError naming the runs that exist, SchemaVersionError for a run of another schema.
    """
    known = list_runs(runs)
    matching = [name for name in known if name == run] or [name for name in known if name.startswith(run)]
    if not matching or (run and len(matching) > 1):
        found = f"no run {run!r} in {runs}" if not matching else f"{run!r} may mean {', '.join(matching)}"
        raise InputError(found, f"one of: {', '.join(known) or '(none yet)'}", "avpref runs list --runs DIR")
    return open_root(Path(runs).resolve() / matching[0])


def open_root(root: Path) -> RunFolder:
    """The run in ``root``. Raises SchemaVersionError for one written by another schema, ConfigError for broken settings."""
    _check_schema(LocalFiles(root))
    return RunFolder(root, config.load(root / CONFIG_FILE, environment={}).settings)


def list_runs(runs: Path) -> list[str]:
    """Ids of the runs in a folder, newest first."""
    if not Path(runs).is_dir():
        return []
    found = [path.parent for path in Path(runs).glob(f"*/{RUN_FILE}")]
    return [path.name for path in sorted(found, key=lambda path: (-_last_change(path), path.name))]


def _last_change(root: Path) -> float:
    marks = [root / RESULT_FILE, root / EVENTS_FILE, root / RUN_FILE]
    return max(mark.stat().st_mtime for mark in marks if mark.exists())


def _check_schema(files: Files) -> None:
    try:
        version = json.loads(files.read(RUN_FILE))["schema_version"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{files.uri(RUN_FILE)}: {error}", "a run made by this product", "use a new folder: --runs DIR"
        ) from error
    if version != SCHEMA_VERSION:
        found = f"run folder {files.uri('')} has schema version {version}"
        raise SchemaVersionError(
            found, f"schema version {SCHEMA_VERSION}", "use a new folder (--runs DIR), or the version that made it"
        )


def adopt_version(folder: RunFolder, wait: bool = False) -> None:
    """Make the run one of this product's version, whose stages are then missing: fingerprints hold the version.

    What the version before left stays beside it. Raises StorageError where another command owns the run.
    """
    with owned(folder.root, wait):
        document = json.loads(folder.files.read(RUN_FILE))
        found = document.get("version")
        if found == __version__:
            return
        document |= {"version": __version__, "earlier_versions": [*document.get("earlier_versions", []), found]}
        folder.documents.replace_everywhere(RUN_FILE, json.dumps(document, indent=1).encode())


def _refuse_other_version(folder: RunFolder) -> None:
    found = json.loads(folder.files.read(RUN_FILE)).get("version")
    if found != __version__:
        again = f"avpref runs resume {folder.run_id} --runs {folder.runs} --adopt-version"
        raise ProductVersionError(
            f"run {folder.run_id} was begun by avpref {found}, and this is avpref {__version__}",
            f"avpref {found}: under another version every stage counts as missing and is done again",
            f"pip install avpref=={found}; or, to have it all done again: {again}",
        )
