"""The folder of Ray's sessions is short enough for its sockets, or the error says by how much it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from avpref.errors import ClusterError
from avpref.execution import ray_folder as folders


@pytest.fixture
def long_folder(tmp_path, monkeypatch) -> Path:
    """A temporary folder whose path is too long for Ray's sockets."""
    folder = tmp_path / ("d" * 60)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def short_folder(monkeypatch):
    """A short folder of the test's own, the only one besides the temporary folder."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        monkeypatch.setattr(folders, "SHORT_FOLDERS", (folder,))
        yield Path(folder)


def filled(parent: Path, num_bytes: int) -> Path:
    """A folder in ``parent`` in which the longest socket of a session has a path of ``num_bytes`` bytes."""
    missing = num_bytes - folders.socket_bytes(str(parent / "x" / f"avpref-ray-{os.getuid()}"))
    folder = parent / ("x" * (1 + missing))
    folder.mkdir()
    return folder


def test_the_usual_folder_is_the_temporary_one(short_folder, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    folder = folders.ray_folder()
    assert folder == str(short_folder / f"avpref-ray-{os.getuid()}") and os.path.isdir(folder)
    folders.say_folder(folder)
    assert not capsys.readouterr().err


def test_the_limit_is_met_to_the_byte(short_folder, monkeypatch):
    for num_bytes, is_usual in ((folders.MAX_SOCKET_BYTES, True), (folders.MAX_SOCKET_BYTES + 1, False)):
        usual = filled(short_folder, num_bytes)
        monkeypatch.setattr(tempfile, "tempdir", str(usual))
        assert (Path(folders.ray_folder()).parent == usual) is is_usual


def test_a_long_temporary_folder_is_replaced_by_a_short_one(long_folder, short_folder, capsys):
    folder = folders.ray_folder()
    assert Path(folder).parent == short_folder and folders.socket_bytes(folder) <= folders.MAX_SOCKET_BYTES
    folders.say_folder(folder)
    told = capsys.readouterr().err
    usual = str(long_folder / f"avpref-ray-{os.getuid()}")
    assert usual in told and str(folders.socket_bytes(usual)) in told and str(folders.MAX_SOCKET_BYTES) in told


def test_without_a_short_folder_the_error_says_how_long_the_paths_are(long_folder, monkeypatch):
    monkeypatch.setattr(folders, "SHORT_FOLDERS", (str(long_folder / "e"),))
    with pytest.raises(ClusterError, match=r"at most 10[37] bytes") as error:
        folders.ray_folder()
    assert str(folders.socket_bytes(str(long_folder / f"avpref-ray-{os.getuid()}"))) in error.value.found
    assert "TMPDIR=" in error.value.fix


def test_a_folder_of_somebody_else_is_not_used(long_folder, short_folder, monkeypatch):
    (short_folder / f"avpref-ray-{os.getuid()}").write_text("a file in its place")
    with pytest.raises(ClusterError, match="cannot be written"):
        folders.ray_folder()


def test_the_forms_are_those_of_ray():
    """Ray's own names of a session and of its sockets, and its own limit."""
    from ray._private import node, utils

    source = Path(node.__file__).read_text()
    assert (
        'strftime(\n                        "%Y-%m-%d_%H-%M-%S_%f"' in source
        and 'f"session_{date_str}_{os.getpid()}"' in source
    )
    assert 'default_prefix="plasma_store"' in source and 'os.path.join(self._session_dir, "sockets")' in source
    for extra, fits in ((0, True), (1, False)):
        path = "/" + "x" * (folders.MAX_SOCKET_BYTES - 1 + extra)
        if fits:
            utils.validate_socket_filepath(path)
        else:
            with pytest.raises(OSError, match="cannot exceed"):
                utils.validate_socket_filepath(path)


@pytest.mark.slow
def test_ray_starts_under_a_long_temporary_folder(long_folder):
    code = (
        "from avpref.config.executor_settings import RayExecutor\n"
        "from avpref.execution.ray_session import join_ray, ray_session\n"
        "import ray\n"
        "with ray_session():\n"
        "    join_ray(RayExecutor(num_actors=1))\n"
        "    print(ray.get(ray.put(41)) + 1)\n"
    )
    environment = {**os.environ, "TMPDIR": str(long_folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "42", done.stderr
    assert "Ray's session is in" in done.stderr
