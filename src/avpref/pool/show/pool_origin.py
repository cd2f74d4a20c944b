"""Where the clips of prompts come from that a pool wrote: the source, the range of frames, and the hash of its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avpref.errors import AvprefError

FOLDER = "clips"
"""Folder of the written clips in a pool's folder; their names begin with the clip's id and a dash."""
ORIGIN = (
    *("uri", "member", "sha256", "recording_id", "group_id", "start_s", "end_s"),
    *("first_frame", "end_frame", "text_origin"),
)


def pool_origin(path: str, sha256: str) -> dict[str, Any] | None:
    """The pool, clip and source of a written clip by its path; None for a file of no pool.

    ``is_same_file`` says whether the pool still lists a file of these bytes. A pool that cannot be read gives its name and the reason.
    """
    file = Path(path)
    root = file.parent.parent
    if file.parent.name != FOLDER:
        return None
    from avpref.pool.pool_folder import POOL_FILE, arrow_rows, open_pool_folder  # imports pyarrow and DuckDB

    if not (root / POOL_FILE).is_file():
        return None
    clip_id = file.name.partition("-")[0]
    try:
        with open_pool_folder(root.parent, root.name).connect() as con:
            rows = arrow_rows(con, "clip_history", {"clip": clip_id}).to_pylist()
    except AvprefError as error:
        return {"pool": root.name, "missing": error.found}
    row = next((row for row in rows if row["clip_id"] == clip_id), None)
    if row is None:
        return {"pool": root.name, "missing": f"the pool has no clip {clip_id} any more"}
    origin = {"pool": root.name, "clip_id": clip_id, **{name: row[name] for name in ORIGIN}}
    return origin | {"is_same_file": row["file_sha256"] == sha256}


def with_pool_origins(document: Any) -> Any:
    """A document of lineage in which every prompt with a clip of a pool has its origin under ``pool``."""
    if isinstance(document, list):
        return [with_pool_origins(entry) for entry in document]
    if not isinstance(document, Mapping):
        return document
    return dict(_with_origin(document))


def _with_origin(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        yield name, with_pool_origins(value)
    if document.get("ground_truth_path"):
        origin = pool_origin(str(document["ground_truth_path"]), str(document.get("ground_truth_sha256", "")))
        if origin is not None:
            yield "pool", origin
