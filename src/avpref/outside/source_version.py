"""The version of a user's class: a hash of the Python sources of its package, or of its module where there is no package."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path

from avpref.errors import ConfigError
from avpref.outside.class_loading import Kind

HASH_SIZE = 16


def source_version(kind: Kind, name: str, owner: type) -> str:
    """Hash of all ``.py`` files of the top-level package of ``owner``, or of its module's file.

    Equal sources in any folder give equal versions. Raises ConfigError for a class without a source file.
    """
    sources = source_files(owner)
    if not sources:
        raise ConfigError(
            f"{kind.noun} {name}: {owner.__module__} has no Python source whose version decides what is reused",
            "a module in a .py file, or a class with the attribute fingerprint",
            f'add to {owner.__qualname__}: fingerprint = "VERSION"',
        )
    return _hash(tuple(sorted(sources.items())))


def source_files(owner: type) -> dict[str, Path]:
    """The files of :func:`source_version` by their paths relative to the folder from which the package is imported."""
    top = sys.modules.get(owner.__module__.partition(".")[0])
    package = getattr(top, "__file__", None)
    if package and Path(package).name == "__init__.py":
        root = Path(package).parent
        return {path.relative_to(root.parent).as_posix(): path for path in sorted(root.rglob("*.py"))}
    module = getattr(sys.modules[owner.__module__], "__file__", None)
    if not module or Path(module).suffix != ".py":
        return {}
    return {f"{owner.__module__.replace('.', '/')}.py": Path(module)}


@functools.lru_cache
def _hash(sources: tuple[tuple[str, Path], ...]) -> str:
    total = hashlib.sha256()
    for name, path in sources:
        content = path.read_bytes()
        total.update(f"{len(name)} {len(content)} {name}\n".encode() + content)
    return total.hexdigest()[:HASH_SIZE]
