"""Lists the videos that a pool's sources name: folders, patterns, CSV and Parquet lists, tar files, buckets.

Everything that a source names is listed, or refused with a reason; only text files beside videos are neither.
"""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from avpref.config.pool.pool_settings import BucketAccess, ScanSettings
from avpref.datasets.lists.csv_records import printable
from avpref.datasets.lists.csv_rows import data_rows
from avpref.datasets.lists.listed_files import locate
from avpref.errors import ConfigError, InputError
from avpref.pool.scan.pool_source import BUCKET_SCHEME, PoolSource, object_storage, open_uri
from avpref.pool.scan.tar_members import MAX_TEXT_BYTES, TarEndsEarly, TarMember, members, text_in

PICTURES = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts mxf wmv asf flv ogv ogg 3gp gif vob"
SOUNDS = "wav mp3 m4a aac flac opus wma"
MEDIA_SUFFIXES = frozenset(f".{ending}" for names in (PICTURES, SOUNDS) for ending in names.split(" "))
"""Names of files that are opened. Files with sound alone are opened too, and refused with the reason."""
TEXT_SUFFIXES = (".txt", ".json")
LIST_SUFFIXES = (".csv", ".tsv", ".parquet")
TAR_SUFFIX, COMPRESSED_TARS = ".tar", (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
NOT_UTF8 = "a name that is not UTF-8; rename it"
COLUMNS, OPTIONAL = ("file",), ("text", "taxonomy", "group")


@dataclass(frozen=True)
class ListedSource:
    """A listed video with the text, taxonomy and group that its list or a file beside it gives."""

    source: PoolSource
    text: str = ""
    taxonomy: str = ""
    group: str = ""


@dataclass(frozen=True)
class RefusedName:
    """Something that a source names and that is no video, with the reason."""

    uri: str
    member: str
    reason: str


Listing = Iterator[ListedSource | RefusedName]


def list_sources(settings: ScanSettings) -> tuple[list[ListedSource], list[RefusedName]]:
    """Every video of ``settings.sources``, each place once, in their order; and what is refused.

    Raises ConfigError where no source is named, InputError for a list that cannot be read.
    """
    if not settings.sources:
        raise ConfigError("scan.sources is empty", "a folder, list, tar file or bucket", "--source DIR")
    listed: dict[str, ListedSource] = {}
    refused: dict[tuple[str, str], RefusedName] = {}
    for name in settings.sources:
        for entry in _entries(name, settings.bucket):
            if isinstance(entry, RefusedName):
                refused.setdefault((entry.uri, entry.member), entry)
            else:
                known = listed.get(entry.source.item_id)
                if known is None or (entry.text and not known.text):
                    listed[entry.source.item_id] = entry
    return list(listed.values()), list(refused.values())


def _entries(name: str, bucket: BucketAccess) -> Listing:
    if name.startswith(BUCKET_SCHEME):
        yield from _bucket(name, bucket)
        return
    path = Path(name).expanduser()
    if path.is_dir():
        yield from _files(sorted(file for file in path.rglob("*") if file.is_file()), bucket)
    elif path.is_file():
        yield from _file(path.resolve(), bucket)
    elif glob.has_magic(name):
        matching = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if not matching:
            yield RefusedName(name, "", "no file fits this pattern")
        yield from _files([match for match in matching if match.is_file()], bucket)
    else:
        yield RefusedName(name, "", "no such file or folder")


def _files(paths: list[Path], bucket: BucketAccess) -> Listing:
    """Files of a folder. A list in a folder is not read; texts beside a video are its own."""
    texts = {path.with_suffix("") for path in paths if path.suffix.lower() in MEDIA_SUFFIXES}
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in TEXT_SUFFIXES and path.with_suffix("") in texts:
            continue
        if suffix in LIST_SUFFIXES:
            yield RefusedName(str(path), "", "a list in a folder; name it as a source to read it")
            continue
        yield from _file(path.resolve(), bucket)


def _file(path: Path, bucket: BucketAccess) -> Listing:
    name, suffix = path.name.lower(), path.suffix.lower()
    if not _is_text(str(path)):
        yield RefusedName(_readable(str(path)), "", NOT_UTF8)
    elif suffix in (".csv", ".tsv"):
        yield from _csv(path)
    elif suffix == ".parquet":
        yield from _parquet(path)
    elif name.endswith(COMPRESSED_TARS):
        yield RefusedName(str(path), "", "a compressed tar file, whose members cannot be read by place; decompress it")
    elif suffix == TAR_SUFFIX:
        yield from _tar(str(path), str(path.stat().st_mtime_ns), bucket)
    elif suffix in MEDIA_SUFFIXES:
        yield _local(path, _text_beside(path))
    else:
        yield RefusedName(str(path), "", f"no video by its name ({suffix or 'no suffix'})")


def _local(path: Path, text: str) -> ListedSource | RefusedName:
    """The source of a file, or the refusal of one that went away while files were listed."""
    try:
        return ListedSource(local_source(path), text)
    except OSError as error:
        return RefusedName(str(path), "", f"unreadable: {error.strerror or error}")


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def local_source(path: Path) -> PoolSource:
    """The source of a file of this machine."""
    status = path.stat()
    return PoolSource(str(path), status.st_size, str(status.st_mtime_ns))


def _text_beside(path: Path) -> str:
    for suffix in TEXT_SUFFIXES:
        file = path.with_suffix(suffix)
        if file.is_file() and file.stat().st_size <= MAX_TEXT_BYTES and os.access(file, os.R_OK):
            return text_in(file.read_bytes(), file.name)
    return ""


def _csv(path: Path) -> Listing:
    for row in data_rows(path, COLUMNS, OPTIONAL):
        if row.fault:
            yield RefusedName(str(path), f"line {row.line}", row.fault)
            continue
        values = {name: row.get(name) for name in (*COLUMNS, *OPTIONAL)}
        yield _row(path, f"line {row.line}", values)


def _parquet(path: Path) -> Listing:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: {error}", "a Parquet file with a column file", f"write {path} again") from error
    if "file" not in table.column_names:
        found = f"{path} has the columns {', '.join(table.column_names)}"
        raise InputError(found, "a column file, and optionally text, taxonomy, group", "rename the column")
    columns = [name for name in (*COLUMNS, *OPTIONAL) if name in table.column_names]
    for number, values in enumerate(table.select(columns).to_pylist(), 1):
        yield _row(path, f"row {number}", {name: str(value or "") for name, value in values.items()})


def _row(listing: Path, place: str, values: Mapping[str, str]) -> ListedSource | RefusedName:
    try:
        path = locate(listing.parent, values["file"])
    except InputError as error:
        return RefusedName(str(listing), f"{place}: {printable(values['file'])}", error.found)
    text = values.get("text", "").strip() or _text_beside(path)
    return ListedSource(local_source(path), text, values.get("taxonomy", ""), values.get("group", "").strip())


def _tar(uri: str, stamp: str, bucket: BucketAccess) -> Listing:
    """Videos of a tar file. The members before a place where it ends early are listed; the rest is one refused row."""
    videos: list[TarMember] = []
    others: list[TarMember] = []
    texts: dict[str, str] = {}
    fault = ""
    with open_uri(uri, bucket) as stream:
        try:
            for member in members(stream):
                (videos if PurePosixPath(member.name).suffix.lower() in MEDIA_SUFFIXES else others).append(member)
        except TarEndsEarly as error:
            fault = f"the tar file ends early: {error}; {len(videos)} videos before that place are used"
        except tarfile.ReadError as error:
            fault = f"no tar file: {error}"
        keys = {member.key for member in videos}
        for member in others:
            is_text = member.name.lower().endswith(TEXT_SUFFIXES) and member.num_bytes <= MAX_TEXT_BYTES
            if is_text and member.key in keys:
                stream.seek(member.offset)
                texts[member.key] = texts.get(member.key) or text_in(stream.read(member.num_bytes), member.name.lower())
            elif member.key not in keys:
                yield RefusedName(uri, _readable(member.name), "no video by its name, and of no video's sample")
    for member in videos:
        if not _is_text(member.name):
            yield RefusedName(uri, _readable(member.name), NOT_UTF8)
            continue
        source = PoolSource(uri, member.num_bytes, stamp, member.name, member.offset)
        yield ListedSource(source, texts.get(member.key, ""))
    if fault:
        yield RefusedName(uri, "", fault)


def _bucket(url: str, bucket: BucketAccess) -> Listing:
    """Objects under a prefix, or the object itself."""
    from avpref.storage.object_files import ObjectFiles

    folder, _, last = url.rpartition("/")
    is_object = PurePosixPath(last).suffix.lower() in (*MEDIA_SUFFIXES, TAR_SUFFIX)
    storage = object_storage(folder if is_object else url, bucket)
    files = ObjectFiles(storage, storage.prefix)
    names = [last] if is_object else files.names()
    if not names:
        yield RefusedName(url, "", "no object under this prefix")
    media = {str(PurePosixPath(name).with_suffix("")) for name in names if _suffix(name) in MEDIA_SUFFIXES}
    for name in names:
        uri, suffix, stem = files.uri(name), _suffix(name), str(PurePosixPath(name).with_suffix(""))
        if suffix == TAR_SUFFIX:
            yield from _tar(uri, "", bucket)
        elif suffix in MEDIA_SUFFIXES:
            beside = next((stem + end for end in TEXT_SUFFIXES if stem + end in names), "")
            text = text_in(files.read(beside), beside) if beside else ""
            yield ListedSource(PoolSource(uri, files.num_bytes(name)), text)
        elif not (suffix in TEXT_SUFFIXES and stem in media):
            yield RefusedName(uri, "", f"no video by its name ({suffix or 'no suffix'})")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
