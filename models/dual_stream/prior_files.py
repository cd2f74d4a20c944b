"""Files of a trained prior estimator; :func:`avpref.models.dual_stream.dual_loading.read_prior` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import write_tensors
from avpref.models.dual_stream.synchrony_prior import SynchronyPrior

METADATA_KEY = "avpref_prior"


def save_prior(path: Path, network: SynchronyPrior, fingerprint: str) -> None:
    """Write the estimator as one safetensors file with the released names; the metadata has its ``fingerprint``.

    Equal networks and fingerprints give equal bytes. Raises StorageError.
    """
    document = {"schema": SCHEMA_VERSION, "fingerprint": fingerprint}
    write_tensors(path, network.state_dict(), {METADATA_KEY: json.dumps(document, sort_keys=True)})


def prior_fingerprint(path: Path) -> str:
    """The fingerprint that training wrote into the file; empty for a file of another origin. Raises InputError."""
    try:
        with safe_open(path, framework="pt") as file:
            document: Mapping[str, object] = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "a safetensors file", "check the path") from error
    return str(document.get("fingerprint", ""))
