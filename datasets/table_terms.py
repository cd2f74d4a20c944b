"""Terms of the base model in the metadata of a table that was made from its clips.

The metadata key ``avpref.base_terms`` (JSON: base_model, licence, commercial_use) of tables ``pairs``, ``rewards`` and ``evaluations``
names them. A table without the key was made from a base model without terms of third parties.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

TERMS_KEY = "avpref.base_terms"


@dataclass(frozen=True)
class BaseTerms:
    """Name of a base model, licence of its weights, and whether commercial use is allowed."""

    base_model: str
    licence: str
    commercial_use: bool


def with_base_terms(table: pa.Table, terms: BaseTerms | None) -> pa.Table:
    """``table`` with ``terms`` in its metadata; unchanged without terms."""
    if terms is None:
        return table
    return table.replace_schema_metadata({**(table.schema.metadata or {}), TERMS_KEY: json.dumps(asdict(terms))})


def base_terms_of(table: pa.Table) -> BaseTerms | None:
    """The terms in the metadata of ``table``; None where there are none."""
    text = (table.schema.metadata or {}).get(TERMS_KEY.encode())
    return None if text is None else BaseTerms(**json.loads(text))
