"""Imports an optional library where a scorer loads, and says what to install where that fails.

A library that is installed may still not import: a build of torchvision for another build of torch fails with an error of a
shared library or of an operator that is absent. Each kind of failure becomes one error with the command that installs all parts together.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from avpref.errors import InputError
from avpref.rewards.learned.packaged_weights import Package

SHOWN_CHARACTERS = 300
OWN_ENVIRONMENT = "in an environment of the scorer's own (docs/write-a-scorer.md, An environment of its own)"


def import_library(scorer: str, package: Package, module: str, expected: str) -> ModuleType:
    """The module ``module`` of ``package``. Raises InputError where the package is absent or does not import.

    ``expected`` describes the builds that import.
    """
    package.folder(scorer)
    try:
        return import_module(module)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:SHOWN_CHARACTERS]
        found = f"scorer {scorer}: {package.distribution} {package.version()} does not import: {cause}"
        raise InputError(found, expected, package.install) from error
