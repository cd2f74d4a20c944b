"""Where Arrow takes its memory from while a selection runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def reused_memory() -> Iterator[None]:
    """Arrow takes memory from the C library inside, and from the pool of before afterwards.

    A selection allocates and frees the buffers of thousands of row groups. Arrow's usual pool (mimalloc) gives them back to the
    system at once and asks for them again; clearing the pages took longer than decoding the files. Buffers know their pool, so
    those that outlive the block, and other threads, are unharmed.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
