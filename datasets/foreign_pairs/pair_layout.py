"""The layout of exported pairs: Arrow schema, feature types for Hugging Face's ``datasets``, names of files and keys.

A folder holds either Parquet shards under ``data/`` with the clips in them, or ``train/metadata.jsonl`` with the clips as files beside
it. In both, a row is a pair: the prompt, both clips with picture and sound, the scores of both sides, the margin of each
dimension, facts about both clips, and the origin of the pair. ``datasets.load_dataset(FOLDER)`` reads either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from avpref.datasets.metric_tables import SIDES
from avpref.domain import Metric, dimensions_of

MANIFEST_FILE = "avpref.json"
CARD_FILE = "README.md"
SHARD_FOLDER = "data"
SPLIT = "train"
METADATA_FILE = f"{SPLIT}/metadata.jsonl"
FILE_NAME = "_file_name"
"""Suffix of the columns of file names: ``datasets`` replaces ``chosen_file_name`` by a column ``chosen`` with the clip."""
FORMAT, FORMAT_VERSION = "avpref pairs", 1
PREFERRED = 1
"""Value of ``label``: the clip in ``chosen`` is preferred."""

MEDIA = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""A clip in a table, as ``datasets`` stores its type Video."""
CLIP = pa.struct(
    [
        *((name, pa.string()) for name in ("candidate_id", "origin", "sha256")),
        *((name, pa.int64()) for name in ("num_frames", "height_px", "width_px")),
        ("fps_hz", pa.float64()),
        ("sample_rate_hz", pa.int64()),
        ("duration_s", pa.float64()),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("checkpoint_hash", "adapter_hash", "sampler_hash")),
    ]
)
"""Facts about a clip; each is a column of table ``candidates``."""
SOURCE_COLUMNS = ("strategy", "norm_id", "run_id", "product_version")
REQUIRED_COLUMNS = ("prompt", *SIDES)
"""The columns that pairs of other programs must have; all others are optional."""


def pair_schema(metrics: Sequence[Metric], has_bytes: bool) -> pa.Schema:
    """The columns of pairs with the scores of ``metrics``; the clips themselves, or else the names of their files."""
    scores = pa.struct([pa.field(metric.name, pa.float64()) for metric in metrics])
    margins = pa.struct([pa.field(name, pa.float64()) for name in (*dimensions_of(metrics), "total")])
    clips = [(side, MEDIA) if has_bytes else (f"{side}{FILE_NAME}", pa.string()) for side in SIDES]
    columns: list[tuple[str, pa.DataType]] = [
        *((name, pa.string()) for name in ("pair_id", "prompt_id", "prompt", "taxonomy")),
        *clips,
        ("label", pa.int64()),
        ("dimension", pa.string()),
        ("rank", pa.int64()),
        ("margins", margins),
        *((f"{side}_scores", scores) for side in SIDES),
        *((f"{side}_clip", CLIP) for side in SIDES),
        *((name, pa.string()) for name in SOURCE_COLUMNS),
    ]
    return pa.schema(columns)


def with_features(schema: pa.Schema) -> pa.Schema:
    """``schema`` with the metadata from which ``datasets`` takes the types of columns.

    Clips have the type Video without decoding, so that reading a row needs no video decoder: it gives the bytes of the mp4.
    """
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Mapping[str, Any]:
    if kind == MEDIA:
        return {"decode": False, "_type": "Video"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}
