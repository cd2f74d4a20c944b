"""Declares a scorer class in another process, whose Python environment has what the class needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.outside.class_loading import SCORER, load_class
from avpref.rewards.outside.declaration import Declaration, declare


@dataclass(frozen=True)
class DeclarationRequest:
    """A scorer's name, the reference of its class, its settings, and the folder in which its module is found."""

    name: str
    reference: str
    values: Mapping[str, Any]
    folder: str


def declare_here(request: DeclarationRequest) -> Declaration:
    """See :func:`avpref.rewards.outside.declaration.declare`; imports the class in this process."""
    owner = load_class(SCORER, request.name, request.reference, Path(request.folder))
    return declare(request.name, request.reference, owner, request.values)
