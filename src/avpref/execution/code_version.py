"""Version of the running code: the product's version and a hash of its sources, so that machines can be compared."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from avpref import __version__

SOURCES = (".py", ".sql")
HASH_IN_VERSION = 12


@functools.cache
def code_version() -> str:
    """Version and hash of all source files of the package, as ``0.1.0+1f0c…``: equal for equal code in any folder."""
    root = Path(__file__).parents[1]
    sources = hashlib.sha256()
    for path in sorted(_sources(root), key=lambda path: path.relative_to(root).as_posix()):
        name, content = path.relative_to(root).as_posix().encode(), path.read_bytes()
        sources.update(f"{len(name)} {len(content)}\n".encode() + name + content)
    return f"{__version__}+{sources.hexdigest()[:HASH_IN_VERSION]}"


def _sources(root: Path) -> list[Path]:
    """All source files. In a checkout some packages are symbolic links, in a wheel they are folders; both are followed."""
    walk = os.walk(root, followlinks=True)
    return [Path(folder) / name for folder, _, names in walk for name in names if name.endswith(SOURCES)]
