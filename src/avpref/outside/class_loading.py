"""Classes of users by reference: ``package.module:Class``, or the name of an entry point of the group of their kind.

A module is looked for among the installed packages first, then in the working directory.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """A kind of classes that users write.

    Attributes:
        noun: its name in messages.
        group: the group of entry points under which packages offer such classes.
        guide: the page that explains how to write one.
        settings: the key of the settings of the class called ``{name}``, for ``--set``.
    """

    noun: str
    group: str
    guide: str
    settings: str

    def fix(self, name: str) -> str:
        """The flag that corrects a setting of the class called ``name``."""
        return f"--set {self.settings.format(name=name)}.KEY=VALUE"


SCORER = Kind("scorer", "avpref.scorers", "docs/write-a-scorer.md", "scoring.scorers.{name}.settings")
BASE_MODEL = Kind("base model", "avpref.base_models", "docs/write-a-base-model.md", "base.settings")


@dataclass(frozen=True)
class Offer:
    """An entry point: its name, the class that it refers to, and the distribution that declares it."""

    name: str
    reference: str
    distribution: str


def offers(kind: Kind) -> list[Offer]:
    """The entry points of ``kind`` of all installed distributions, by name. Imports none of them."""
    points = importlib.metadata.entry_points(group=kind.group)
    return sorted(
        (
            Offer(point.name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "")
            for point in points
        ),
        key=lambda offer: (offer.name, offer.distribution),
    )


REFERENCE = "REFERENCE"
"""Stands for a class's reference in the fix of :func:`offer_of`."""


def offer_of(kind: Kind, name: str, fix: str) -> Offer | None:
    """The entry point of ``kind`` called ``name``; None without one.

    Raises ConfigError where packages offer different classes under it, with ``fix``, in which a reference replaces :data:`REFERENCE`.
    """
    matching = [offer for offer in offers(kind) if offer.name == name]
    if len({offer.reference for offer in matching}) > 1:
        classes = " and ".join(f"{offer.reference} of {offer.distribution}" for offer in matching)
        found = f"two packages offer a {kind.noun} {name}: {classes}"
        raise ConfigError(found, "package.module:Class, which names one", fix.replace(REFERENCE, matching[0].reference))
    return matching[0] if matching else None


def load_class(kind: Kind, name: str, reference: str, folder: Path | None = None) -> type:
    """Import the class that ``reference`` (``package.module:Class``) names, for the ``kind`` called ``name``.

    ``folder`` is searched after the installed packages; None: the working directory. Raises ConfigError where the module does
    not exist or fails to import (with the module's own traceback), or has no such class.
    """
    module_name, _, path = reference.partition(":")
    make_importable(module_name, Path.cwd() if folder is None else folder)
    try:
        value: object = importlib.import_module(module_name)
    except Exception as error:
        raise _import_error(f"{kind.noun} {name}", module_name, error) from error
    for part in path.split("."):
        value = getattr(value, part, None)
    if not isinstance(value, type):
        found = f"{kind.noun} {name}: {reference} is {'absent' if value is None else 'no class'}"
        raise ConfigError(found, f"a class of {module_name}", f"correct the name after the colon, see {kind.guide}")
    return value


def make_importable(module_name: str, folder: Path) -> None:
    """Add ``folder`` to the end of the import path where it has the top-level module and no installed package does."""
    top = module_name.partition(".")[0]
    if str(folder) in sys.path or not ((folder / top).is_dir() or (folder / f"{top}.py").is_file()):
        return
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def quoted_traceback(error: BaseException, skipped: Sequence[str] = ("class_loading.py",)) -> str:
    """The traceback of ``error`` as a quotation, without the frames of importlib and of product files called ``skipped``."""
    summary = traceback.TracebackException.from_exception(error)
    is_own = [
        "importlib" not in frame.filename and frame.filename.replace("\\", "/").rpartition("/")[2] not in skipped
        for frame in summary.stack
    ]
    summary.stack = traceback.StackSummary.from_list(
        [frame for frame, own in zip(summary.stack, is_own, strict=True) if own]
    )
    text = "".join(summary.format(chain=False)).rstrip()
    return "\n".join(f"  | {line}" for line in text.splitlines())


def _import_error(subject: str, module_name: str, error: Exception) -> ConfigError:
    parents = {module_name[:end] for end in range(len(module_name) + 1)}
    if isinstance(error, ModuleNotFoundError) and error.name in parents:
        return ConfigError(
            f"{subject}: there is no module {error.name}",
            f"an installed package, or a module in the working directory {Path.cwd()}",
            f"python -m pip install PACKAGE, or run the command in the folder of {module_name.partition('.')[0]}",
        )
    return ConfigError(
        f"{subject}: the module {module_name} does not import:\n{quoted_traceback(error)}",
        "a module that imports",
        f"correct {module_name}, or install what it needs",
    )
