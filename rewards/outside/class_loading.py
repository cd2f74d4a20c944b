"""Scorer classes by reference: ``package.module:Class``, or the name of an entry point of the group ``avpref.scorers``.

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

GROUP = "avpref.scorers"
"""The group of entry points under which packages offer their scorers."""
GUIDE = "docs/write-a-scorer.md"


@dataclass(frozen=True)
class Offer:
    """An entry point: its name, the class that it refers to, and the distribution that declares it."""

    name: str
    reference: str
    distribution: str


def offers() -> list[Offer]:
    """The entry points of :data:`GROUP` of all installed distributions, by name. Imports none of them."""
    points = importlib.metadata.entry_points(group=GROUP)
    return sorted(
        (
            Offer(point.name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "")
            for point in points
        ),
        key=lambda offer: (offer.name, offer.distribution),
    )


def load_class(scorer: str, reference: str, folder: Path | None = None) -> type:
    """Import the class that ``reference`` (``package.module:Class``) names, for the scorer called ``scorer``.

    ``folder`` is searched after the installed packages; None: the working directory. Raises ConfigError where the module does
    not exist or fails to import (with the module's own traceback), or has no such class.
    """
    module_name, _, path = reference.partition(":")
    make_importable(module_name, Path.cwd() if folder is None else folder)
    try:
        value: object = importlib.import_module(module_name)
    except Exception as error:
        raise _import_error(scorer, module_name, error) from error
    for name in path.split("."):
        value = getattr(value, name, None)
    if not isinstance(value, type):
        found = f"scorer {scorer}: {reference} is {'absent' if value is None else 'no class'}"
        raise ConfigError(found, f"a class of {module_name}", f"correct the name after the colon, see {GUIDE}")
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


def _import_error(scorer: str, module_name: str, error: Exception) -> ConfigError:
    parents = {module_name[:end] for end in range(len(module_name) + 1)}
    if isinstance(error, ModuleNotFoundError) and error.name in parents:
        return ConfigError(
            f"scorer {scorer}: there is no module {error.name}",
            f"an installed package, or a module in the working directory {Path.cwd()}",
            f"python -m pip install PACKAGE, or run the command in the folder of {module_name.partition('.')[0]}",
        )
    return ConfigError(
        f"scorer {scorer}: the module {module_name} does not import:\n{quoted_traceback(error)}",
        "a module that imports",
        f"correct {module_name}, or install what it needs",
    )
