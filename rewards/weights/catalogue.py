"""Which files the published reward models need, under which terms, and where they lie on this machine.

A file is looked for in three places, in this order: the folder that the configuration names, ``AVPREF_WEIGHTS/<model>/`` (by
default ``~/.cache/avpref/weights/<model>/``, where ``avpref weights fetch`` puts it), and the Hugging Face cache (``HF_HOME``,
``HF_HUB_CACHE``). Nothing here downloads, and nothing imports torch.

Exact sizes and hashes are those that other users of the files have published; nobody here has had the files in hand. Other sizes
are estimates for people, also of files whose hash is known. Revisions are commits where they are known, so that a model cannot
change under its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from avpref.domain import CHANNEL_MEAN, FIRST_CHANNEL, NO_SOUND, Terms
from avpref.errors import ConfigError, InputError
from avpref.identity import digest
from avpref.rewards.weights.benchmark_models import BENCH_MODELS
from avpref.rewards.weights.weight_entries import HubFile, Model, WebFile, WeightFile
from avpref.storage.file_hashes import sha256_of

HOME_VARIABLE = "AVPREF_WEIGHTS"
DEFAULT_HOME = Path("~/.cache/avpref/weights")
UNFINISHED = ".unfinished"
"""Where files grow while they are fetched, in the folder of their model."""


_AUDIOBOX_REPO, _AUDIOBOX_REVISION = "facebook/audiobox-aesthetics", "9b1dd8e5df9af7216e836a98974fe3b82c56ded6"

AUDIOBOX = Model(
    "audiobox",
    (
        WeightFile(
            "model.safetensors",
            HubFile(_AUDIOBOX_REPO, "model.safetensors", _AUDIOBOX_REVISION),
            415_472_992,
            "a5a3c2412649cc2384ec525ffd5180ce6c4778f43bed6108e0a1303de04d014e",
            is_size_exact=True,
        ),
        WeightFile("config.json", HubFile(_AUDIOBOX_REPO, "config.json", _AUDIOBOX_REVISION), 1_000),
    ),
    Terms("CC-BY-4.0", commercial_use=True, sound=CHANNEL_MEAN),
    "AudioBox-Aesthetics: four judgements of the sound; attribution required",
)

IMAGEBIND = Model(
    "imagebind",
    (
        WeightFile(
            "imagebind_huge.pth",
            WebFile("https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"),
            4_803_584_173,
            "d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157",
            is_size_exact=True,
        ),
    ),
    Terms("CC-BY-NC-SA-4.0", commercial_use=False, sound=FIRST_CHANNEL),
    "ImageBind-huge: similarity of text, sound and picture; research only",
)

SYNCHFORMER = Model(
    "synchformer",
    (
        WeightFile(
            "synchformer_state_dict.pth",
            HubFile(
                "hkchengrex/MMAudio",
                "ext_weights/synchformer_state_dict.pth",
                "eb13a1a98fdbec91753775c57b074ccdfc60587c",
            ),
            950_058_171,
            "8aff082f2df5c3bc52759db0c865c7ee772ae6400b860d1b7e90413f2defb67c",
            is_size_exact=True,
        ),
    ),
    Terms(
        "weights without a licence of their own (code: MIT); research only", commercial_use=False, sound=CHANNEL_MEAN
    ),
    "Synchformer: how far sound and picture are apart in time; the weights carry no licence",
)


def _video_reward(name: str, path: str, num_bytes: int, sha256: str | None = None, *, exact: bool) -> WeightFile:
    revision = "4f26600130683e6f1de9f5d463887f28e8ef995c"
    source = HubFile("KlingTeam/VideoReward", path, revision, former_repos=("KwaiVGI/VideoReward",))
    return WeightFile(name, source, num_bytes, sha256, is_size_exact=exact)


VIDEOALIGN = Model(
    "videoalign",
    (
        _video_reward(
            "model.pth",
            "checkpoint-11352/model.pth",
            5_031_072_529,
            "48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9",
            exact=True,
        ),
        _video_reward("model_config.json", "model_config.json", 3_000, exact=False),
        _video_reward(
            "tokenizer.json",
            "checkpoint-11352/tokenizer/tokenizer.json",
            11_420_941,
            "a05e80818b958b49531b8e1f758c4ae65f090fdec80e6d8408963f70ae3f737d",
            exact=True,
        ),
        WeightFile(
            "prompt_template.py",
            WebFile(
                "https://raw.githubusercontent.com/KwaiVGI/VideoAlign/3e5ebc600aebc4d28300e9132b0a23ee8e1bc47c/prompt_template.py"
            ),
            10_756,
        ),
    ),
    Terms("Apache-2.0", commercial_use=True, sound=NO_SOUND),
    "VideoAlign (VideoReward): visual quality, motion quality, agreement with the text",
)

_CLAP_REPO = "laion/clap-htsat-unfused"

CLAP = Model(
    "clap",
    (
        WeightFile("model.safetensors", HubFile(_CLAP_REPO, "model.safetensors"), 615_000_000),
        WeightFile("config.json", HubFile(_CLAP_REPO, "config.json"), 5_000),
        WeightFile("tokenizer.json", HubFile(_CLAP_REPO, "tokenizer.json"), 2_000_000),
    ),
    Terms("Apache-2.0", commercial_use=True),
    "CLAP (HTSAT, unfused): agreement of sound and text; commit, sizes and hashes are not known here, so fetching records what comes",
)

MODELS: tuple[Model, ...] = (AUDIOBOX, IMAGEBIND, SYNCHFORMER, VIDEOALIGN, CLAP, *BENCH_MODELS)


def model_named(name: str) -> Model:
    """The model of that name. Raises ConfigError."""
    for model in MODELS:
        if model.name == name:
            return model
    raise ConfigError(f"no reward model {name!r}", ", ".join(model.name for model in MODELS), "avpref weights list")


def weights_home() -> Path:
    """The folder of fetched weights, one folder per model inside: ``AVPREF_WEIGHTS``, or ``~/.cache/avpref/weights``."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()


def find(model: Model, file: WeightFile, folder: Path | None = None) -> Path | None:
    """Where ``file`` lies, or None: in ``folder``, in the folder of fetched weights, in the Hugging Face cache.

    In ``folder`` a checkpoint that was converted to ``.safetensors`` counts too.
    """
    if folder is not None and (own := _inside(folder, file, file.converted)):
        return own
    if fetched := _inside(weights_home() / model.name, file):
        return fetched
    return _in_hub_cache(file.source) if isinstance(file.source, HubFile) else None


def resolve(model: Model, folder: Path | None = None) -> dict[str, Path]:
    """Path by file name of everything that ``model`` needs.

    ``folder`` (of the configuration) comes first and is taken at its word: files there may be of another size. Raises
    ConfigError where ``folder`` is none, InputError that lists every absent file, or names one whose size shows that it is
    cut short or another file.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"no folder {folder}", f"a folder with the files of {model.name}", "avpref weights list")
    located = {file.name: find(model, file, folder) for file in model.files}
    absent = [file for file in model.files if located[file.name] is None]
    if absent:
        raise _absent(model, absent, folder)
    paths = {name: path for name, path in located.items() if path is not None}
    for file in model.files:
        if folder is None or not paths[file.name].is_relative_to(folder):
            require_size(model, file, paths[file.name])
    return paths


def require_size(model: Model, file: WeightFile, path: Path) -> None:
    """Raises InputError where ``path`` is not as large as ``file`` is known to be."""
    size = path.stat().st_size
    if file.is_size_exact and size != file.num_bytes:
        kind = "cut short" if size < file.num_bytes else "another file"
        raise InputError(
            f"{model.name}: {path} has {size:,} bytes: {kind}", f"{file.num_bytes:,} bytes", again(model, path)
        )


def again(model: Model, path: Path) -> str:
    """The commands that replace the file at ``path``."""
    return f"rm '{path}' && avpref weights fetch {model.name}"


def weights_id(paths: Mapping[str, Path]) -> str:
    """Identity of the content of files by name, 64 hex characters: equal where each file's SHA-256 is.

    Hashes are remembered beside the files (:func:`avpref.storage.file_hashes.sha256_of`). Raises FileNotFoundError.
    """
    return digest("weights", {name: sha256_of(path) for name, path in paths.items()}, size=64)


def size_text(num_bytes: int) -> str:
    """``num_bytes`` for people: decimal, as download pages count."""
    if num_bytes < 1e3:
        return f"{num_bytes} bytes"
    return f"{num_bytes / 1e6:,.0f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:,.0f} kB"


def terms_text(terms: Terms) -> str:
    """The licence, and whether it allows commercial use."""
    return f"{terms.licence}; {'commercial use allowed' if terms.commercial_use else 'no commercial use'}"


def _inside(folder: Path, file: WeightFile, *others: str) -> Path | None:
    return next((folder / place for place in (file.place, file.name, *others) if (folder / place).is_file()), None)


def _absent(model: Model, absent: list[WeightFile], folder: Path | None) -> InputError:
    names = ", ".join(file.name for file in absent)
    total = size_text(sum(file.num_bytes for file in absent))
    places = [*([str(folder)] if folder else []), str(weights_home() / model.name), "the Hugging Face cache"]
    return InputError(
        f"{model.name}: {names} absent ({total}; {terms_text(model.terms)})",
        f"in {', '.join(places[:-1])} or {places[-1]}",
        f"avpref weights fetch {model.name}",
    )


def _in_hub_cache(source: HubFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for repo in (source.repo, *source.former_repos):
        for revision in dict.fromkeys((source.revision, "main")):
            cached = try_to_load_from_cache(repo, source.path, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
    return None
