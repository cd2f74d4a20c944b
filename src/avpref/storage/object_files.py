"""Files of a bucket in an S3-compatible object store, under the same commit rule as a folder's.

The rule needs only a create-only put (``If-None-Match: *``): the store takes the first and refuses every later one, and an object
is visible whole or not at all. The first call in each process opens a connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from avpref.config.storage_settings import ObjectStorage
from avpref.errors import InputError, StorageError
from avpref.storage.local_files import storage_errors, temporary_of

if TYPE_CHECKING:
    from obstore.store import S3Store

CONNECT_TIMEOUT, REQUEST_TIMEOUT = "5s", "120s"
MAX_RETRIES, RETRY_FOR = 6, timedelta(seconds=30)
"""Number of retries of one request, with growing pauses, and the time after the first attempt in which they may begin."""
WHOLE_BYTES = 1 << 20
"""Objects up to this size are read at once by a stream; larger ones in pieces of this size."""
PIECE_BYTES = 32 << 20
AHEAD = 16
"""Concurrent requests of one reader of many files."""
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment (or the machine's own role)"


@lru_cache(maxsize=8)
def _connection(bucket: str, endpoint: str, region: str, allow_http: bool, process: int) -> S3Store:
    """A client of one bucket; ``process`` keeps a forked child from taking its parent's."""
    from obstore.store import S3Store

    return S3Store(
        bucket,
        endpoint=endpoint or None,
        region=region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": allow_http, "connect_timeout": CONNECT_TIMEOUT, "timeout": REQUEST_TIMEOUT},
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_FOR},
    )


@dataclass(frozen=True)
class ObjectFiles:
    """The files of a bucket whose names begin with ``prefix``. See :class:`avpref.storage.files.Files`."""

    storage: ObjectStorage
    prefix: str

    def uri(self, name: str) -> str:
        """See :class:`avpref.storage.files.Files`."""
        return f"s3://{self.storage.bucket}/{self._key(name)}"

    def subfolder(self, folder: str) -> ObjectFiles:
        """See :class:`avpref.storage.files.Files`."""
        return replace(self, prefix=self._key(folder))

    def exists(self, name: str) -> bool:
        """See :class:`avpref.storage.files.Files`."""
        try:
            self.num_bytes(name)
        except FileNotFoundError:
            return False
        return True

    def num_bytes(self, name: str) -> int:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._reading(name):
            return obstore.head(self._store, self._key(name))["size"]

    def read(self, name: str) -> bytes:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._reading(name):
            return bytes(obstore.get(self._store, self._key(name)).bytes())

    def open(self, name: str) -> BinaryIO:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._reading(name):
            result = obstore.get(self._store, self._key(name))
            size = result.meta["size"]
            if size <= WHOLE_BYTES:
                return io.BytesIO(bytes(result.bytes()))
        return cast("BinaryIO", io.BufferedReader(_ObjectStream(self, name, size), WHOLE_BYTES))

    def open_all(self, names: Sequence[str]) -> Iterator[BinaryIO]:
        """See :class:`avpref.storage.files.Files`. Several requests run ahead, so that small files do not wait for each other."""
        with ThreadPoolExecutor(AHEAD) as threads:
            requests: deque[Future[BinaryIO]] = deque()
            rest = iter(names)
            try:
                while True:
                    requests.extend(threads.submit(self.open, name) for name in islice(rest, AHEAD - len(requests)))
                    if not requests:
                        return
                    with requests.popleft().result() as stream:
                        yield stream
            finally:
                for request in requests:
                    request.cancel()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes of a file from ``start`` on. Raises FileNotFoundError."""
        import obstore

        if length <= 0:
            return b""
        with self._reading(name):
            return bytes(obstore.get_range(self._store, self._key(name), start=start, length=length))

    def commit_once(self, name: str, data: bytes) -> bool:
        """See :class:`avpref.storage.files.Files`. A put that is repeated because its answer was lost finds its own object."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._writing(name):
            try:
                obstore.put(self._store, self._key(name), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._writing(name):
            obstore.put(self._store, self._key(name), data)

    def names(self, folder: str = "") -> list[str]:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._reading(folder):
            listed = obstore.list(self._store, self._key(folder) or None)
            return sorted(self._name(item["path"]) for batch in listed for item in batch)

    def children(self, folder: str = "") -> list[str]:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._reading(folder):
            listed = obstore.list_with_delimiter(self._store, self._key(folder) or None)
            return sorted(self._name(item["path"]) for item in listed["objects"])

    def folders(self) -> list[str]:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._reading(""):
            listed = obstore.list_with_delimiter(self._store, self.prefix or None)
            return sorted(self._name(prefix) for prefix in listed["common_prefixes"])

    def delete(self, name: str) -> None:
        """See :class:`avpref.storage.files.Files`."""
        import obstore

        with self._writing(name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, self._key(name))

    def upload(self, name: str, path: Path) -> None:
        """Copy a local file of any size to ``name``, in parts. It overwrites, so ``name`` must contain the hash of the content."""
        import obstore

        with self._writing(name):
            obstore.put(self._store, self._key(name), path)

    def download(self, name: str, path: Path, sha256: str) -> None:
        """Copy ``name`` to a local file, which appears whole or not at all.

        Raises FileNotFoundError, InputError where the object has another hash than ``sha256``.
        """
        size, hashed = self.num_bytes(name), hashlib.sha256()
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_of(path)
            try:
                with open(temporary, "wb") as stream:
                    for start in range(0, size, PIECE_BYTES):
                        piece = self.read_range(name, start, min(PIECE_BYTES, size - start))
                        hashed.update(piece)
                        stream.write(piece)
                if hashed.hexdigest() != sha256:
                    found = f"{self.uri(name)} has sha-256 {hashed.hexdigest()}"
                    raise InputError(found, f"sha-256 {sha256}, as published", f"restore {self.uri(name)} from a copy")
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    @property
    def _store(self) -> S3Store:
        storage = self.storage
        return _connection(storage.bucket, storage.endpoint, storage.region, storage.allow_http, os.getpid())

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.prefix, name) if part)

    def _name(self, key: str) -> str:
        return key.removeprefix(f"{self.prefix}/") if self.prefix else key

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            with _storage_errors(self, "read", name):
                yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no object {self.uri(name)}") from error

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            with _storage_errors(self, "write", name):
                yield
        except FileNotFoundError as error:  # a store answers so where it has no such bucket
            raise _no_bucket(self, "write", name) from error


@dataclass(frozen=True)
class ListedFiles(ObjectFiles):
    """Objects that are committed once and stay: :meth:`exists` lists each folder once and remembers the names.

    For an object that the listing lacks the store is asked each time, since another process may have committed it.
    """

    _seen: dict[str, set[str]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def exists(self, name: str) -> bool:
        """See :class:`avpref.storage.files.Files`."""
        folder = name.rpartition("/")[0]
        if folder not in self._seen:
            self._seen[folder] = set(self.children(folder))
        if name not in self._seen[folder] and super().exists(name):
            self._seen[folder].add(name)
        return name in self._seen[folder]


class _ObjectStream(io.RawIOBase):
    """An object as a stream that reads only the requested bytes."""

    def __init__(self, files: ObjectFiles, name: str, size: int) -> None:
        self._files, self._object, self._size, self._position = files, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readall(self) -> bytes:
        data = self._files.read_range(self._object, self._position, max(0, self._size - self._position))
        self._position = self._size
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._files.read_range(self._object, self._position, length)
        self._position += length
        return length


@contextlib.contextmanager
def _storage_errors(files: ObjectFiles, verb: str, name: str) -> Iterator[None]:
    """Turn errors of the client into StorageError with a fix; a missing object stays a FileNotFoundError."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(files, verb, name) from error
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _refused(files, verb, name, error) from error
    except BaseError as error:
        raise _failed(files, verb, name, error) from error


def _no_bucket(files: ObjectFiles, verb: str, name: str) -> StorageError:
    found = f"cannot {verb} {files.uri(name)}: {_endpoint(files.storage)} has no bucket {files.storage.bucket}"
    fix = f"create it, or correct it: --set storage.url=s3://BUCKET/PREFIX (now {files.storage.url})"
    return StorageError(found, "a bucket that exists", fix)


def _refused(files: ObjectFiles, verb: str, name: str, error: Exception) -> StorageError:
    found = f"the store refuses to {verb} {files.uri(name)} ({_code_of(error) or 'permission denied'})"
    expected = f"{CREDENTIALS} that may list the bucket, and get, put and delete objects in it"
    return StorageError(found, expected, "set the right credentials, or give them s3:ListBucket and s3:*Object")


def _failed(files: ObjectFiles, verb: str, name: str, error: Exception) -> StorageError:
    text, endpoint = str(error), _endpoint(files.storage)
    summary = text.partition("\n")[0]
    if "NoSuchBucket" in text:
        return _no_bucket(files, verb, name)
    if "403 Forbidden" in summary and "169.254" not in summary:  # the error of a refused listing
        return _refused(files, verb, name, error)
    if "169.254.169.254" in text or "redential" in summary:
        found = (
            f"no credentials for {files.uri(name)}: none in the environment, and this machine has no role of its own"
        )
        return StorageError(found, CREDENTIALS, "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…")
    if "builder error" in summary or "URL scheme is not allowed" in text:
        fix = "--set storage.allow_http=true, or an https:// endpoint"
        return StorageError(f"{endpoint} is not https", "an endpoint with TLS, unless it is allowed without", fix)
    if "error sending request" in summary or "timed out" in text or "operation timed out" in text:
        fix = "start it, or correct it: --set storage.endpoint=https://HOST:PORT"
        return StorageError(f"cannot {verb} {files.uri(name)}: no answer from {endpoint}", "a store that answers", fix)
    return StorageError(f"cannot {verb} {files.uri(name)}: {summary}", f"a working store at {endpoint}", "run it again")


def _code_of(error: Exception) -> str:
    """The ``<Code>`` of a store's answer."""
    return str(error).partition("<Code>")[2].partition("</Code>")[0]


def _endpoint(storage: ObjectStorage) -> str:
    return storage.endpoint or os.environ.get("AWS_ENDPOINT_URL") or "AWS S3"


def check_commit_rule(files: ObjectFiles, name: str, data: bytes) -> bool:
    """Commit ``name`` and check that a second commit is refused; returns whether the first created it.

    Raises StorageError for a store that ignores create-only puts, where a late attempt would overwrite a committed file.
    """
    created = files.commit_once(name, data)
    if files.commit_once(name, data):
        raise StorageError(
            f"{_endpoint(files.storage)} overwrites objects that exist",
            "a store with conditional puts (If-None-Match: *), such as AWS S3, MinIO or Ceph of 2024 and later",
            "use another store, or a shared folder: --set 'storage={kind: folder}'",
        )
    return created
