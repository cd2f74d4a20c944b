"""Weights inside installed Python packages: where they lie, which version they are, and how they are opened.

Packages are located without importing them, because some change global state when they are imported (threads, random seeds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from avpref.errors import InputError
from avpref.identity import digest, file_sha256

INSTALL = "pip install 'avpref[learned]'"
QUIET = 3
"""Log severity of onnxruntime from which messages are printed: errors."""


@dataclass(frozen=True)
class Package:
    """A distribution, the module that it installs, and the command that installs it."""

    distribution: str
    module: str
    install: str = INSTALL

    def folder(self, scorer: str) -> Path:
        """The installed package's folder. Raises InputError, with the command, where it is absent."""
        spec = find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"scorer {scorer}: package {self.distribution} is not installed",
                f"{self.distribution} in the environment of avpref",
                self.install,
            )
        return Path(next(iter(spec.submodule_search_locations)))

    def version(self) -> str:
        """The installed version; empty where the package has no metadata."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return ""


@dataclass(frozen=True)
class PackagedWeights:
    """A weight file of a package, ``file`` relative to the package's folder."""

    package: Package
    file: str

    def path(self, scorer: str) -> Path:
        """The file. Raises InputError where the package is absent or holds no such file."""
        path = self.package.folder(scorer) / self.file
        if not path.is_file():
            raise InputError(
                f"scorer {scorer}: {self.package.distribution} {self.package.version()} holds no {self.file}",
                f"a version of {self.package.distribution} with that file",
                f"{self.package.install} --force-reinstall",
            )
        return path

    def identity(self, scorer: str) -> tuple[str, str, str]:
        """Package, version and SHA-256 of the file. Raises InputError as :meth:`path`."""
        return self.package.distribution, self.package.version(), _sha256(self.path(scorer))


ONNXRUNTIME = Package("onnxruntime", "onnxruntime")


def fingerprint(scorer: str, implementation: int, weights: Sequence[PackagedWeights], *settings: object) -> str:
    """Hash of all that the numbers of ``scorer`` depend on: implementation, versions, bytes of weights, settings.

    Raises InputError where a package or a file is absent.
    """
    runtime = ONNXRUNTIME.version() if any(part.file.endswith(".onnx") for part in weights) else ""
    identities = [part.identity(scorer) for part in weights]
    return digest("learned scorer", scorer, implementation, identities, runtime, [repr(part) for part in settings])


def open_session(scorer: str, weights: PackagedWeights, num_threads: int = 1) -> Any:
    """An onnxruntime session of ``weights`` on the CPU. Raises InputError where a package or the file is absent."""
    path = weights.path(scorer)
    ONNXRUNTIME.folder(scorer)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = QUIET
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@lru_cache
def _sha256(path: Path) -> str:
    return file_sha256(path)
