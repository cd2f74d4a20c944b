"""A source of a pool: a file, a member of a tar file, or an object of a bucket; and its opening as a stream."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from avpref.config.pool.pool_settings import BucketAccess
from avpref.config.storage_settings import ObjectStorage
from avpref.errors import MediaError
from avpref.identity import digest
from avpref.media.containers import MediaSource

BUCKET_SCHEME = "s3://"
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class PoolSource:
    """Where a video lies. ``stamp`` changes when its bytes may have changed: the file's time, or empty.

    A member of a tar file has its name in ``member`` and its place in ``offset`` and ``num_bytes``.
    """

    uri: str
    num_bytes: int
    stamp: str = ""
    member: str = ""
    offset: int = 0

    @cached_property
    def item_id(self) -> str:
        """The source's id: its place, size and stamp."""
        return "s" + digest("source", self.uri, self.member, self.offset, self.num_bytes, self.stamp)

    @property
    def name(self) -> str:
        """The name for messages and for guessing the format."""
        return PurePosixPath(self.member or self.uri).name


class PartOfFile(io.RawIOBase):
    """The bytes of a member of a tar file, as a seekable stream."""

    def __init__(self, stream: BinaryIO, offset: int, num_bytes: int, name: str) -> None:
        self._stream, self._offset, self._num_bytes, self._position = stream, offset, num_bytes, 0
        self.name = name

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """See :class:`io.RawIOBase`."""
        remaining = max(0, self._num_bytes - self._position)
        size = remaining if size is None or size < 0 else min(size, remaining)
        self._stream.seek(self._offset + self._position)
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """See :class:`io.RawIOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """See :class:`io.RawIOBase`."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._stream.close()
        super().close()


@contextmanager
def opened_source(source: PoolSource, bucket: BucketAccess) -> Iterator[MediaSource]:
    """``source`` as a path or a seekable stream. Raises MediaError where it is gone or has another size."""
    if not source.uri.startswith(BUCKET_SCHEME) and not source.member:
        path = Path(source.uri)
        if not path.is_file() or path.stat().st_size != source.num_bytes or _stamp(path) != source.stamp:
            raise _changed(source)
        yield path
        return
    try:
        stream = open_uri(source.uri, bucket)
    except FileNotFoundError as error:
        raise _changed(source) from error
    if source.stamp and _stamp(Path(source.uri)) != source.stamp:
        stream.close()
        raise _changed(source)
    end = source.num_bytes if source.member else stream.seek(0, io.SEEK_END)
    if end != source.num_bytes:
        stream.close()
        raise _changed(source)
    with PartOfFile(stream, source.offset, source.num_bytes, source.name) as part:
        yield part


def _stamp(path: Path) -> str:
    return str(path.stat().st_mtime_ns)


def open_uri(uri: str, bucket: BucketAccess) -> BinaryIO:
    """The file or object ``uri`` as a seekable stream. Raises FileNotFoundError."""
    if not uri.startswith(BUCKET_SCHEME):
        return open(uri, "rb")
    from avpref.storage.object_files import ObjectFiles

    folder, _, name = uri.rpartition("/")
    storage = object_storage(folder, bucket)
    return ObjectFiles(storage, storage.prefix).open(name)


def object_storage(url: str, bucket: BucketAccess) -> ObjectStorage:
    """The settings of the store that holds ``url``."""
    return ObjectStorage(url=url, endpoint=bucket.endpoint, region=bucket.region, allow_http=bucket.allow_http)


def content_sha256(source: MediaSource) -> str:
    """SHA-256 of an open source, 64 hex characters; a stream is at its start afterwards."""
    if isinstance(source, str | Path):
        with open(source, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    source.seek(0)
    hashed = hashlib.sha256()
    while piece := source.read(PIECE_BYTES):
        hashed.update(piece)
    source.seek(0)
    return hashed.hexdigest()


def _changed(source: PoolSource) -> MediaError:
    return MediaError(
        f"{source.name} is gone, or is another file than when the sources were listed",
        f"{source.num_bytes} bytes at {source.uri}",
        "list the sources again: avpref pool scan",
    )
