"""A folder of LTX-2 as diffusers saves it: found, and checked against the configured version before any weight is read.

This module downloads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from avpref.errors import InputError
from avpref.identity import digest
from avpref.models.checkpoints.weight_folders import CONFIG, Json, read_json, weights_hash
from avpref.models.ltx2.ltx_versions import LtxVersion, require_version
from avpref.storage.file_hashes import sha256_of

INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler_config.json"
DISTILLED_25 = "transformer"
CODEC_COMPONENTS = ("vae", "audio_vae", "vocoder")
TEXT_COMPONENTS = ("text_encoder", "connectors")
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class LtxSource:
    """A version and the folder that a configuration names (empty: the Hugging Face cache), which is opened at first use."""

    version: LtxVersion
    configured: str = ""

    @cached_property
    def folder(self) -> LtxFolder:
        """The folder. Raises as :func:`open_folder`."""
        return open_folder(self.version, self.configured)


@dataclass(frozen=True)
class LtxFolder:
    """The folder of one version; see :func:`open_folder`."""

    path: Path
    version: LtxVersion

    @cached_property
    def index(self) -> Mapping[str, Json]:
        """Content of ``model_index.json``: library and class of each component."""
        return read_json(self.path / INDEX)

    @property
    def transformer(self) -> Path:
        """Folder of the full transformer."""
        return self.component(self.version.traits.transformer)

    def component(self, name: str, landmark: str = CONFIG) -> Path:
        """Folder of a component. Raises InputError if it is absent."""
        folder = self.path / name
        if not (folder / landmark).is_file():
            raise InputError(
                f"{folder} is absent or lacks {landmark}",
                f"the {name} of LTX-{self.version}",
                f"hf download {self.version.traits.repo} --include '{name}/*'",
            )
        return folder

    def config(self, name: str) -> Mapping[str, Json]:
        """Configuration of a component. Raises InputError if it is absent or unreadable."""
        return read_json(self.component(name) / CONFIG)

    def class_name(self, name: str) -> str:
        """Class of a component, as the index names it. Raises InputError where the index does not have it."""
        entry = self.index.get(name)
        if not isinstance(entry, list) or len(entry) != 2:
            raise InputError(f"{self.path / INDEX} has no {name}", "a component of LTX2Pipeline", self.download)
        return str(entry[1])

    @property
    def download(self) -> str:
        """The command that fetches the published folder."""
        return f"hf download {self.version.traits.repo}"

    @cached_property
    def transformer_hash(self) -> str:
        """Hash of the transformer's configuration and weights."""
        return weights_hash(self.transformer)

    @cached_property
    def codec_hash(self) -> str:
        """Hash of configuration and weights of both VAEs and the vocoder."""
        return digest("ltx codec", [weights_hash(self.component(name)) for name in CODEC_COMPONENTS], size=64)

    @cached_property
    def text_hash(self) -> str:
        """Hash of text encoder, connectors and tokenizer."""
        tokenizer = self.path / TOKENIZER
        files = sorted(file for file in tokenizer.iterdir() if file.is_file()) if tokenizer.is_dir() else []
        if not files:
            raise InputError(
                f"{tokenizer} is absent",
                "the tokenizer of the text encoder",
                f"{self.download} --include 'tokenizer/*'",
            )
        hashes = [(file.name, sha256_of(file)) for file in files if not file.name.startswith(".")]
        return digest("ltx text", [weights_hash(self.component(name)) for name in TEXT_COMPONENTS], hashes, size=64)


def locate_folder(version: LtxVersion, configured: str) -> Path:
    """The folder ``configured``, or, if that is empty, that of the published repository in the Hugging Face cache.

    Raises InputError if there is none.
    """
    if configured:
        path = Path(configured).expanduser()
        if not (path / INDEX).is_file():
            raise InputError(
                f"{path} has no {INDEX}",
                f"a folder of LTX-{version} as diffusers saves it",
                "--set base.settings.folder=PATH",
            )
        return path
    from huggingface_hub import try_to_load_from_cache

    repo = version.traits.repo
    cached = try_to_load_from_cache(repo, INDEX)
    if not isinstance(cached, str):
        raise InputError(
            f"{repo} is not in the Hugging Face cache",
            "that repository, or base.settings.folder with a path",
            f"hf download {repo}",
        )
    return Path(cached).parent


def open_folder(version: LtxVersion, configured: str = "") -> LtxFolder:
    """The folder of ``version``, checked without reading weights.

    Raises InputError for an absent folder or component, a folder of another version, and a folder whose transformer is distilled.
    """
    path = locate_folder(version, configured)
    folder = LtxFolder(path, version)
    _require_full(folder)
    require_version(str(folder.transformer), folder.config(version.traits.transformer), version)
    for name in (*CODEC_COMPONENTS, *TEXT_COMPONENTS):
        folder.component(name)
        folder.class_name(name)
    return folder


def transformer_folder(version: LtxVersion, path: Path) -> Path:
    """The folder of a transformer at ``path``: itself, or the full transformer in a folder as diffusers saves it.

    Raises InputError for no transformer, one of another version, and the distilled one of a folder as diffusers saves it.
    """
    if (path / INDEX).is_file():
        return open_folder(version, str(path)).transformer
    if not (path / CONFIG).is_file():
        raise InputError(f"{path} has no {CONFIG}", f"a transformer of LTX-{version}", "--set sft.network=published")
    require_version(str(path), read_json(path / CONFIG), version)
    if (path.parent / INDEX).is_file() and path.name == DISTILLED_25:
        _require_full(LtxFolder(path.parent, version), is_named=True)
    return path


def _require_full(folder: LtxFolder, is_named: bool = False) -> None:
    """Raises InputError where the folder has only a distilled transformer, or a configuration names that (``is_named``).

    It takes no guidance and is not trained further.
    """
    traits, repo = folder.version.traits, folder.version.traits.repo
    distilled, has_full = folder.path / DISTILLED_25, (folder.path / traits.transformer).is_dir()
    if folder.version is LtxVersion.V2_5 and distilled.is_dir() and (is_named or not has_full):
        require_version(str(distilled), folder.config(DISTILLED_25), folder.version)
        download = f"hf download {repo} --include '{traits.transformer}/*'"
        raise InputError(
            f"{distilled} is the distilled transformer{'' if has_full else f', and there is no {traits.transformer}/'}",
            f"{traits.transformer}/, which guidance and training need",
            f"--set sft.network={folder.path / traits.transformer}" if has_full else download,
        )
    if folder.version is LtxVersion.V2_5:
        return
    scheduler = read_json(folder.component("scheduler", SCHEDULER_CONFIG) / SCHEDULER_CONFIG)
    if not scheduler.get("use_dynamic_shifting", False):
        raise InputError(
            f"{folder.path} has the scheduler of a distilled transformer (use_dynamic_shifting is false)",
            "the full transformer, which guidance and training need",
            f"hf download {repo}",
        )
