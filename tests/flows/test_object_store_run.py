"""The whole loop with its files in a bucket: equal results, resumed on another machine, and with two drivers at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from avpref.cli.views.run_state import quarantine, rows_of, stages, state
from avpref.config.loading import identity_hash, load_config
from avpref.config.schema import Settings
from avpref.config.storage_settings import ObjectStorage
from avpref.datasets import tables
from avpref.errors import ConfigError, InputError, SchemaVersionError, StorageError
from avpref.execution import pool
from avpref.execution import run_units as stage_module
from avpref.flows.retrain import run_loop
from avpref.flows.run_result import OF_ONE_EXECUTION
from avpref.identity import bytes_sha256
from avpref.storage.local_files import LocalFiles
from avpref.storage.object_files import ObjectFiles
from avpref.storage.run_folder import RESULT_FILE, RUN_FILE, RunFolder, create, open_root

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def settings(bucket: ObjectStorage, *overrides: str) -> Settings:
    return load_config(TINY, (f"storage={bucket.model_dump_json()}", *overrides), {}).settings


def without_times(document: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in document.items() if name not in OF_ONE_EXECUTION | {"spent"}}


def contents(folder: RunFolder) -> dict[str, str]:
    """Hash of everything in the bucket that never changes once it is there."""
    changing = {RESULT_FILE, "config.yaml", "evaluation.json"}
    names = [name for name in folder.files.names() if name not in changing and not name.startswith("quarantine")]
    return {name: bytes_sha256(folder.files.read(name)) for name in names if not name.endswith("CURRENT")}


def refuse(*arguments: object, **keywords: object) -> None:
    raise AssertionError("work was done again")


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on opening a pool, attempting a unit or launching a training is an error."""
    monkeypatch.setattr(stage_module, "open_pool", refuse)
    monkeypatch.setattr(pool, "run_and_catch", refuse)
    monkeypatch.setattr("avpref.flows.stages.sft.launch_training", refuse)
    monkeypatch.setattr("avpref.flows.stages.train.launch_training", refuse)


def test_a_run_in_a_bucket_ends_like_one_in_a_folder_and_goes_on_anywhere(
    bucket: ObjectStorage, tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One loop with all checks of it, because a loop takes seconds."""
    folder = create(tmp_path / "here", settings(bucket))
    document = run_loop(folder).document()

    # the same run, with the same clips, scores, pairs, adapter and verdict
    assert folder.run_id == tiny_run.run_id
    assert without_times(document) == without_times(json.loads((tiny_run.root / RESULT_FILE).read_text()))
    for table in (tables.PROMPTS, tables.PAIRS, tables.REWARDS, tables.NORMS, tables.EVALUATIONS):
        assert folder.tables.read(table).equals(tiny_run.tables.read(table)), table.name
    clips = sorted(str(path.relative_to(tiny_run.root)) for path in (tiny_run.root / "clips").rglob("*.mp4"))
    assert folder.files.names("clips") == clips

    # nothing that counts is in the folder, and nothing half is in the bucket
    here = {path.relative_to(folder.root).parts[0] for path in folder.root.rglob("*") if path.is_file()}
    assert here <= {
        "run.json",
        "config.yaml",
        "lock",
        "events.jsonl",
        "models",
        "report.html",
        "plots",
        "progress",
        "adapters",
        "latents",
    }
    copies = {str(path.relative_to(folder.root)) for path in (folder.root / "latents").rglob("*") if path.is_file()}
    assert copies and copies <= set(folder.files.names("latents"))
    assert not [name for name in folder.files.names() if ".partial" in name]
    for table in tables.TABLES:
        manifest = folder.tables.current(table.name)
        if manifest is not None:
            folder.tables.store.verify(manifest)

    # SQL over the sealed tables, and the commands that look
    con = folder.tables.connect()
    assert con.execute("SELECT count(*) FROM pairs").fetchall() == [(folder.tables.num_rows(tables.PAIRS),)]
    joined = "SELECT count(*) FROM scores JOIN candidates USING (candidate_id)"
    assert con.execute(joined).fetchall() == [(folder.tables.num_rows(tables.SCORES),)]
    assert rows_of(tmp_path / "here")[0]["state"] == state(folder) == "finished"
    assert all(stage.is_done for stage in stages(folder)) and quarantine(folder) == []

    # another machine: nothing but the configuration and the bucket
    before = contents(folder)
    no_work(monkeypatch)
    elsewhere = create(tmp_path / "there", settings(bucket))
    assert without_times(run_loop(elsewhere).document()) == without_times(document)
    assert contents(folder) == before
    trained = {path.name for path in (elsewhere.root / "models").rglob("*") if path.is_file()}
    assert {"network.safetensors", "adapter_model.safetensors", "summary.json"} <= trained
    assert not any(path.match("checkpoints/*") for path in (elsewhere.root / "models").rglob("*"))
    assert (elsewhere.root / "report.html").stat().st_size > 10_000


def stopped_before(monkeypatch: pytest.MonkeyPatch, folder: RunFolder, name: str) -> None:
    """Run the loop until something would be written at ``name``; nothing after that happens."""
    from avpref.storage.files import Files

    def stop(files: Files, path: str, data: bytes, real: Callable[..., object]) -> object:
        if name in files.uri(path):
            raise KeyboardInterrupt
        return real(files, path, data)

    with monkeypatch.context() as patch:
        for verb in ("commit_once", "replace"):
            real = getattr(ObjectFiles, verb)
            patch.setattr(ObjectFiles, verb, lambda files, path, data, real=real: stop(files, path, data, real))
        with pytest.raises(KeyboardInterrupt):
            run_loop(folder)


@pytest.mark.slow
def test_a_run_that_stopped_between_two_puts_goes_on(
    bucket: ObjectStorage, tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time on a machine that has never seen the run."""
    points = ("models/sft-", "units/generate", "tables/candidates/CURRENT", "tables/pairs/", "models/dpo-", RESULT_FILE)
    for number, point in enumerate(points):
        stopped_before(monkeypatch, create(tmp_path / str(number), settings(bucket)), point)
    folder = create(tmp_path / "last", settings(bucket))
    document = run_loop(folder).document()
    assert without_times(document) == without_times(json.loads((tiny_run.root / RESULT_FILE).read_text()))
    assert folder.tables.read(tables.PAIRS).equals(tiny_run.tables.read(tables.PAIRS))


DRIVER = """
import sys
from pathlib import Path
from avpref.config.loading import load_config
from avpref.flows.run_result import OF_ONE_EXECUTION
from avpref.flows.retrain import run_loop
from avpref.storage.run_folder import create

settings = load_config(sys.argv[1], [f"storage={sys.argv[2]}"], {}).settings
run_loop(create(Path(sys.argv[3]), settings))
"""


@pytest.mark.slow
def test_two_drivers_on_one_bucket_end_with_equal_tables(bucket: ObjectStorage, tmp_path: Path) -> None:
    storage = bucket.model_dump_json()
    drivers = [
        subprocess.Popen([sys.executable, "-c", DRIVER, str(TINY), storage, str(tmp_path / name)])
        for name in ("first", "second")
    ]
    assert [driver.wait(600) for driver in drivers] == [0, 0]
    first, second = (create(tmp_path / name, settings(bucket)) for name in ("first", "second"))
    for table in tables.TABLES:
        manifest = first.tables.current(table.name)
        assert manifest == second.tables.current(table.name)
        if manifest is not None:
            first.tables.store.verify(manifest)
    candidates = first.tables.read(tables.CANDIDATES)["candidate_id"].to_pylist()
    assert len(candidates) == len(set(candidates))
    clips = set(first.files.names("clips"))
    assert set(first.tables.read(tables.CANDIDATES)["path"].to_pylist()) <= clips
    adapters = [sorted((tmp_path / name).glob("*/models/dpo-*/adapter/*.safetensors")) for name in ("first", "second")]
    assert len({bytes_sha256(path.read_bytes()) for paths in adapters for path in paths}) == 1
    (published,) = [name for name in first.files.names("models") if "dpo-" in name and name.endswith("published.json")]
    assert published


@pytest.mark.slow
def test_actors_read_and_write_the_bucket(
    bucket: ObjectStorage, tiny_run: RunFolder, tmp_path: Path, ray_cluster: int
) -> None:
    folder = create(tmp_path, settings(bucket, "executor={kind: ray, num_actors: 2}"))
    run_loop(folder)
    assert folder.tables.read(tables.PAIRS).equals(tiny_run.tables.read(tables.PAIRS))


# storages and tables that are refused


def test_another_storage_for_an_existing_run_is_refused(bucket: ObjectStorage, tmp_path: Path) -> None:
    folder = create(tmp_path, load_config(TINY, (), {}).settings)
    with pytest.raises(ConfigError) as caught:
        create(tmp_path, settings(bucket))
    assert bucket.url in caught.value.found and "the folder itself" in caught.value.found
    assert folder.files == LocalFiles(folder.root)
    kept = create(tmp_path / "objects", settings(bucket))
    moved = bucket.model_copy(update={"endpoint": bucket.endpoint.replace("127.0.0.1", "localhost")})
    assert create(tmp_path / "objects", settings(moved)).run_id == kept.run_id


def test_a_missing_bucket_is_an_error_before_anything_is_written(bucket: ObjectStorage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        create(tmp_path, settings(bucket.model_copy(update={"url": "s3://nowhere/runs"})))
    assert not list(tmp_path.rglob(RUN_FILE))


def test_a_bucket_of_another_schema_is_refused(bucket: ObjectStorage, tmp_path: Path) -> None:
    folder = create(tmp_path / "a", settings(bucket))
    identity = json.loads(folder.files.read(RUN_FILE))
    folder.files.replace(RUN_FILE, json.dumps({**identity, "schema_version": 99}).encode())
    with pytest.raises(SchemaVersionError, match="s3://"):
        create(tmp_path / "b", settings(bucket))


def test_the_error_about_a_changed_table_names_its_url(bucket: ObjectStorage, tmp_path: Path) -> None:
    folder = create(tmp_path, settings(bucket))
    folder.tables.seal(tables.SKIPPED, "f", tables.to_arrow(tables.SKIPPED, []))
    manifest = folder.tables.current("skipped")
    assert manifest is not None and folder.tables.read(tables.SKIPPED).num_rows == 0
    folder.tables.store.files.replace(folder.tables.store.names(manifest)[0], b"PAR1")
    with pytest.raises(InputError, match=f"s3://.*{folder.run_id}/tables/skipped"):
        folder.tables.read(tables.SKIPPED)


def test_settings_of_a_run_hold_no_credentials(bucket: ObjectStorage, tmp_path: Path) -> None:
    folder = create(tmp_path, settings(bucket))
    kept = (folder.root / "config.yaml").read_text() + folder.files.read("config.yaml").decode()
    assert "AWS" not in kept and "secret" not in kept.lower()
    assert open_root(folder.root).files == folder.files


@pytest.mark.parametrize(
    "storage",
    ["{kind: objects, url: s3://ab}", "{kind: objects, url: gs://bucket}", "{kind: objects}",
     "{kind: objects, url: 's3://bucket', endpoint: 'https://key:secret@host'}", "{kind: bucket}"],
)  # fmt: skip
def test_an_invalid_storage_section_is_a_configuration_error(storage: str) -> None:
    with pytest.raises(ConfigError, match="storage"):
        load_config(TINY, [f"storage={storage}"], {})


def test_the_storage_section_does_not_change_the_settings_hash(bucket: ObjectStorage) -> None:
    assert identity_hash(settings(bucket)) == identity_hash(load_config(TINY, (), {}).settings)


def test_a_lost_or_changed_model_file_is_restored_from_the_bucket(bucket: ObjectStorage, tmp_path: Path) -> None:
    """A missing local file is copied from the bucket, and one that differs from the published file is replaced."""
    folder = create(tmp_path, settings(bucket))
    output = folder.model_folder("sft", "f")
    output.mkdir(parents=True)
    (output / "network").write_bytes(b"first")
    (output / "summary").write_bytes(b"of the first")
    folder.models.publish(output, ("network", "summary", "never written"))
    shutil.rmtree(output)
    assert folder.models.bring(output / "network") and (output / "summary").read_bytes() == b"of the first"
    (output / "network").write_bytes(b"trained again, with other bits")
    folder.models.publish(output, ("network", "summary"))
    assert (output / "network").read_bytes() == b"first"
    assert not folder.models.bring(folder.model_folder("dpo", "f") / "summary")
    assert len(folder.models.published()) == 3
