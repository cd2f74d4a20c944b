"""The run folder: identity, ownership, and folders that are not ours to use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.config.loading import identity_hash, load_config
from avpref.config.schema import Settings
from avpref.domain import SCHEMA_VERSION
from avpref.errors import ConfigError, InputError, SchemaVersionError, StorageError
from avpref.storage.local_files import TEMPORARY_PREFIX
from avpref.storage.run_folder import RUN_FILE, create, list_runs, open_root, open_run, run_id

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def settings(*overrides: str) -> Settings:
    return load_config(TINY, overrides, {}).settings


def set_schema(root: Path, version: object) -> None:
    document = json.loads((root / RUN_FILE).read_text())
    (root / RUN_FILE).write_text(json.dumps({**document, "schema_version": version}))


def test_a_run_is_named_by_name_seed_and_the_hash_of_its_settings(tmp_path: Path) -> None:
    given = settings("run.seed=4")
    folder = create(tmp_path, given)
    assert folder.run_id == run_id(given) == f"tiny-s4-{identity_hash(given)}"
    assert folder.root == tmp_path / folder.run_id
    assert create(tmp_path, given) == folder
    assert create(tmp_path, settings("run.seed=5")).root != folder.root


def test_a_folder_says_who_it_is_and_opens_as_it_was_made(tmp_path: Path) -> None:
    folder = create(tmp_path, settings("sampling.num_candidates=2"))
    assert open_root(folder.root) == folder
    assert json.loads((folder.root / RUN_FILE).read_text())["run_id"] == folder.run_id


def test_opening_reads_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = create(tmp_path, settings())
    monkeypatch.setenv("AVPREF_RUN__SEED", "9")
    assert open_root(folder.root).settings.run.seed == 0


def test_another_executor_is_the_same_run_and_the_one_asked_for_last_is_used(tmp_path: Path) -> None:
    first = create(tmp_path, settings())
    with first.locked():
        assert open_root(first.root).settings.executor == InProcessExecutor()
    again = create(tmp_path, settings("executor.kind=ray", "executor.num_actors=3"))
    assert again.root == first.root
    with again.locked():
        assert open_root(first.root).settings.executor == RayExecutor(num_actors=3)


def test_a_second_command_does_not_change_the_executor_of_the_first(tmp_path: Path) -> None:
    first, second = create(tmp_path, settings()), create(tmp_path, settings("executor.kind=ray"))
    with first.locked():
        with pytest.raises(StorageError), second.locked():
            raise AssertionError("owned twice")
        assert open_root(first.root).settings.executor == InProcessExecutor()


def test_a_run_in_use_names_its_owner(tmp_path: Path) -> None:
    """The other command is a real process; when it is killed the run is free at once."""
    folder = create(tmp_path, settings())
    code = (
        "import sys; from pathlib import Path; from avpref.storage.run_folder import open_root\n"
        "with open_root(Path(sys.argv[1])).locked():\n"
        "    print('owned', flush=True); sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", code, str(folder.root)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "owned\n"
        with pytest.raises(StorageError) as caught, folder.locked():
            raise AssertionError("owned twice")
        assert f"process {other.pid}" in caught.value.found and folder.run_id in caught.value.found
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with folder.locked():
        assert str(os.getpid()) in (folder.root / "lock").read_text()


def test_owning_a_run_sweeps_what_killed_writers_left(tmp_path: Path) -> None:
    folder = create(tmp_path, settings())
    left = folder.root / "units" / "score" / f"{TEMPORARY_PREFIX}1-unit"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with folder.locked():
        assert not left.exists()


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1, str(SCHEMA_VERSION), None])
def test_a_run_of_another_schema_version_is_refused_and_not_touched(tmp_path: Path, version: object) -> None:
    folder = create(tmp_path, settings())
    set_schema(folder.root, version)
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    for attempt in (
        lambda: create(tmp_path, settings()),
        lambda: open_root(folder.root),
        lambda: open_run(tmp_path, folder.run_id),
    ):
        with pytest.raises(SchemaVersionError) as caught:
            attempt()
        assert caught.value.exit_code == 4
        assert str(version) in caught.value.found and "--runs" in caught.value.fix
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "7"])
def test_a_folder_that_is_no_run_is_an_input_error(tmp_path: Path, content: str) -> None:
    folder = create(tmp_path, settings())
    (folder.root / RUN_FILE).write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        open_root(folder.root)


def test_broken_settings_of_a_run_are_a_configuration_error(tmp_path: Path) -> None:
    folder = create(tmp_path, settings())
    for damage in ("run: [", "run: {sed: 1}", None):
        path = folder.root / "config.yaml"
        path.unlink() if damage is None else path.write_text(damage)
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            open_root(folder.root)


@pytest.mark.parametrize("where", ["file/runs", "file", "/proc/runs"])
def test_a_place_that_cannot_hold_runs_is_a_storage_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        create(tmp_path / where, settings())
    assert caught.value.exit_code == 1 and "--runs" in caught.value.fix


def test_runs_are_found_by_id_by_beginning_and_by_age(tmp_path: Path) -> None:
    made = [create(tmp_path, settings(f"run.name={name}")) for name in ("alpha", "beta", "alps")]
    for age, folder in enumerate(made):
        os.utime(folder.root / RUN_FILE, (1000 + age, 1000 + age))
    assert list_runs(tmp_path) == [folder.run_id for folder in reversed(made)]
    assert open_run(tmp_path) == made[2]
    assert open_run(tmp_path, "b") == made[1]
    assert open_run(tmp_path, made[0].run_id) == made[0]
    made[0].events.write("touched")
    assert open_run(tmp_path) == made[0]


def test_a_beginning_of_two_runs_names_both(tmp_path: Path) -> None:
    made = [create(tmp_path, settings(f"run.name={name}")) for name in ("alpha", "alps")]
    with pytest.raises(InputError) as caught:
        open_run(tmp_path, "al")
    assert all(folder.run_id in caught.value.found for folder in made)


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_without_runs_the_message_says_so(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    assert list_runs(tmp_path / folder) == []
    with pytest.raises(InputError) as caught:
        open_run(tmp_path / folder, "x")
    assert "none yet" in caught.value.expected and "runs list" in caught.value.fix
