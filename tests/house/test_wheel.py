"""The wheel, built by way of the source archive and installed beside nothing of this checkout: whole, and it runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROOMS = ("models", "datasets", "rewards", "trainer", "flows")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", *ROOMS)
IMPORT_ALL = """
import importlib, pathlib, sys
import avpref
home = pathlib.Path(avpref.__file__).parent
assert home.is_relative_to(sys.prefix), home
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__).is_relative_to(home), module.__file__
"""


def run(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shipped() -> set[str]:
    """Every file of the rooms and the floor as a wheel should name it."""
    folders = {"avpref": ROOT / "src" / "avpref"} | {f"avpref/{room}": ROOT / room for room in ROOMS}
    return {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@dataclass(frozen=True)
class Built:
    """A source archive, the wheel that was built from it, and an environment that has the wheel installed."""

    sdist: Path
    wheel: Path
    environment: Path

    def wheel_files(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(source, copy / name)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, "."], copy)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return Built(sdist, wheel, installed(wheel, tmp_path_factory.mktemp("clean") / "venv"))


def installed(wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel; it sees the packages of this one, but not what this one installed as editable."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "-q", wheel], folder)
    return folder


def test_the_wheel_holds_every_file_of_every_room(built: Built) -> None:
    inside = built.wheel_files()
    assert shipped() - inside == set()
    assert {name for name in inside if not name.startswith("avpref-")} - shipped() == set()
    for needed in (
        "avpref/reports/report.css",
        "avpref/reports/report.html.j2",
        "avpref/datasets/queries/pairs.sql",
        "avpref/py.typed",
    ):
        assert needed in inside


def test_the_source_archive_holds_files_where_the_checkout_has_links(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        rooms = [member for member in archive.getmembers() if "/src/avpref/" in member.name]
    assert rooms and all(member.isfile() or member.isdir() for member in rooms)


def test_every_module_imports_from_the_wheel(built: Built) -> None:
    files = [name for name in built.wheel_files() if name.startswith("avpref/") and name.endswith(".py")]
    names = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files)
    assert len(names) > len(ROOMS)
    run([built.environment / "bin" / "python", "-P", "-c", IMPORT_ALL, *names], built.environment)


def test_the_installed_command_helps(built: Built) -> None:
    for arguments in ([], ["pairs"], ["retrain"]):
        text = run([built.environment / "bin" / "avpref", *arguments, "--help"], built.environment)
        assert "Usage: avpref" in text
