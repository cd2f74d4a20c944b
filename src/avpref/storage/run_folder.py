"""A run's folder: the complete state of a run. Every file in it is named by its inputs.

run.json  config.yaml            identity and configuration
units/<stage>/<fingerprint>/     committed units
clips/                           candidate media, named by id and content hash
tables/<table>/                  sealed versions and CURRENT
models/<stage>-<fingerprint>/    checkpoints and trained weights
result.json report.html plots/   results
events.jsonl                     the structured log

With ``storage.kind: objects`` a bucket holds all of it except the log, checkpoints, report and plots; the folder is then the
trainer's working folder and a cache of finished models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from avpref import __version__
from avpref.config.executor_settings import Executor
from avpref.config.loading import config_to_yaml, identity_hash, load_config
from avpref.config.observe_settings import ObserveSettings
from avpref.config.schema import Settings
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
    """The run's id: name, seed and the hash of its settings, without the sections of :data:`avpref.config.loading.NOT_OF_IDENTITY`.

    From the second round on, the number of the round follows.
    """
    ending = f"-r{settings.rounds.round}" if settings.rounds.round > 1 else ""
    return f"{settings.run.name}-s{settings.run.seed}-{identity_hash(settings)}{ending}"


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
        """The settings of the executor that runs the units of the stages."""
        return self.settings.executor

    @property
    def observe(self) -> ObserveSettings:
        """Settings of the Prometheus endpoint and of prices."""
        return self.settings.observe

    @property
    def max_quarantined_share(self) -> float:
        """The share of a stage's candidates, 0 to 1, that may be quarantined."""
        return self.settings.run.max_quarantined_share

    @property
    def files(self) -> Files:
        """The run's store: its folder or a part of a bucket, as the settings say."""
        return _storage_of(self).files

    @property
    def unit_files(self) -> Files:
        """The store of the run's committed units."""
        return _storage_of(self).units

    @property
    def shared(self) -> Files:
        """Files that all runs of the same folder or bucket share."""
        return _storage_of(self).shared

    @property
    def models(self) -> TrainedFiles:
        """Finished models."""
        return _storage_of(self).models

    def model_folder(self, stage: str, fingerprint: str) -> Path:
        """Folder of a training stage's checkpoints and result."""
        return self.root / "models" / f"{stage}-{fingerprint}"

    def record_settings(self) -> None:
        """See :class:`WorkFolder`. Settings of equal run ids differ in the sections that :func:`run_id` leaves out at most.

        Raises ProductVersionError for a run that was begun by another version of the product.
        """
        _refuse_other_version(self)
        text = config_to_yaml(self.settings).encode()
        self.documents.replace_everywhere(CONFIG_FILE, text)


@dataclass(frozen=True)
class _Storage:
    """The stores of a run: its files, its units, the files that runs share, and finished models."""

    files: Files
    units: Files
    shared: Files
    models: TrainedFiles


def _storage_of(folder: RunFolder) -> _Storage:
    match folder.settings.storage:
        case FolderStorage():
            own = LocalFiles(folder.root)
            return _Storage(own, own.subfolder("units"), LocalFiles(folder.runs), KeptModels())
        case ObjectStorage() as storage:
            shared = ObjectFiles(storage, storage.prefix)
            files = shared.subfolder(folder.run_id)
            units = ListedFiles(storage, files.subfolder("units").prefix)
            return _Storage(files, units, shared, PublishedModels(files.subfolder("models"), folder.root / "models"))


def create(runs: Path, settings: Settings) -> RunFolder:
    """The folder of the run that ``settings`` describe, created unless it exists; likewise its part of a bucket, if it uses one.

    Raises StorageError for a folder or bucket that cannot be written, SchemaVersionError for a run of another schema,
    ConfigError where the run was begun with another storage.
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
    text, identity = config_to_yaml(settings).encode(), json.dumps(document, indent=1).encode()
    folder = RunFolder(root, settings)
    if (root / RUN_FILE).exists():
        _check_schema(LocalFiles(root))
        if (root / CONFIG_FILE).read_bytes() != text:
            _refuse_other_storage(folder)
    if isinstance(folder.files, ObjectFiles):
        check_commit_rule(folder.files, RUN_FILE, identity)
        _check_schema(folder.files)
    folder.documents.commit_everywhere(CONFIG_FILE, text)
    folder.documents.commit_everywhere(RUN_FILE, identity)
    return folder


def _refuse_other_storage(folder: RunFolder) -> None:
    """Raises ConfigError where the run was begun with another storage than ``folder.settings`` name."""
    recorded, requested = open_root(folder.root).settings.storage, folder.settings.storage
    recorded_url, requested_url = (getattr(storage, "url", "the folder itself") for storage in (recorded, requested))
    if recorded_url != requested_url:
        raise ConfigError(
            f"run {folder.run_id} keeps its files in {recorded_url}, and {requested_url} was requested",
            "the storage that the run was begun with",
            f"--set 'storage={json.dumps(recorded.model_dump(mode='json'))}', or a new folder: --runs DIR",
        )


def open_run(runs: Path, run: str = "") -> RunFolder:
    """An existing run by id (or an unambiguous beginning of one); without ``run`` the newest.

    Raises InputError that names the existing runs, SchemaVersionError for a run of another schema.
    """
    return open_root(find_run(runs, run))


def find_run(runs: Path, run: str = "") -> Path:
    """The folder of a run by id or prefix, the newest without ``run``. Raises InputError naming the runs that exist."""
    known = list_runs(runs)
    matching = [name for name in known if name == run] or [name for name in known if name.startswith(run)]
    if not matching or (run and len(matching) > 1):
        found = f"no run {run!r} in {runs}" if not matching else f"{run!r} may mean {', '.join(matching)}"
        raise InputError(found, f"one of: {', '.join(known) or '(none yet)'}", "avpref runs list --runs DIR")
    return Path(runs).resolve() / matching[0]


def open_root(root: Path) -> RunFolder:
    """The run in ``root``. Raises SchemaVersionError for one written by another schema, ConfigError for broken settings."""
    _check_schema(LocalFiles(root))
    return RunFolder(root, load_config(root / CONFIG_FILE, environment={}).settings)


def list_runs(runs: Path) -> list[str]:
    """Ids of the runs in a folder, newest first."""
    if not Path(runs).is_dir():
        return []
    roots = [path.parent for path in Path(runs).glob(f"*/{RUN_FILE}")]
    return [path.name for path in sorted(roots, key=lambda path: (-_last_change(path), path.name))]


def _last_change(root: Path) -> float:
    paths = [root / RESULT_FILE, root / EVENTS_FILE, root / RUN_FILE]
    return max(path.stat().st_mtime for path in paths if path.exists())


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
    """Continue the run under this product's version. All its stages then count as missing: fingerprints contain the version.

    Files of the earlier version stay. Raises StorageError where another command owns the run.
    """
    with owned(folder.root, wait):
        document = json.loads(folder.files.read(RUN_FILE))
        version = document.get("version")
        if version == __version__:
            return
        document |= {"version": __version__, "earlier_versions": [*document.get("earlier_versions", []), version]}
        folder.documents.replace_everywhere(RUN_FILE, json.dumps(document, indent=1).encode())


def _refuse_other_version(folder: RunFolder) -> None:
    version = json.loads(folder.files.read(RUN_FILE)).get("version")
    if version != __version__:
        adopt = f"avpref runs resume {folder.run_id} --runs {folder.runs} --adopt-version"
        raise ProductVersionError(
            f"run {folder.run_id} was begun by avpref {version}, and this is avpref {__version__}",
            f"avpref {version}: under another version every stage counts as missing and is done again",
            f"pip install avpref=={version}; or, to do every stage again: {adopt}",
        )
