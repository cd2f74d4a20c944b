"""Networks of FunASR from a folder, without its hub, its downloads and its code from elsewhere.

FunASR's ``AutoModel`` looks folders up in a table of hub names, obeys ``trust_remote_code`` of the folder, sets the seeds and the number of
threads of the process, and keeps random values for tensors that a file lacks. So the same parts (front end, tokenizer, network) are
made here from its registry, with the entries of ``config.yaml``, and the tensors are loaded strictly. Dither, random noise in the
front end, is off.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avpref.errors import InputError
from avpref.rewards.libraries.funasr_files import CONFIG, FUNASR, NAME, NORMALIZATION, WEIGHTS, FunasrFiles
from avpref.rewards.libraries.library_import import import_library
from avpref.rewards.libraries.network_file import fill_network

BUILDS = "funasr with kaldi-native-fbank (any build of torch), or with the torchaudio of this build of torch"
RATE_HZ = 16000
CLIP = "clip"


@dataclass(frozen=True)
class FunasrNetwork:
    """A network with its front end and, where it writes text, its tokenizer; sound is mono at 16 kHz."""

    network: Any
    frontend: Any
    tokenizer: Any
    device: str

    def segments_ms(self, sound: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Start and end of the stretches of speech of sound [S], in milliseconds."""
        return [(int(start), int(end)) for start, end in self._answer(sound, {"cache": {}})["value"]]

    def text(self, sound: NDArray[np.float32]) -> str:
        """The text that the network writes for sound [S]: tokens of language, emotion and event, then words."""
        return str(self._answer(sound, {})["text"])

    def _answer(self, sound: NDArray[np.float32], more: Mapping[str, Any]) -> Mapping[str, Any]:
        parts = {"frontend": self.frontend, "tokenizer": self.tokenizer, "device": self.device}
        with torch.no_grad():
            results, _ = self.network.inference(data_in=[torch.from_numpy(sound.copy())], key=[CLIP], **parts, **more)
        answer: Mapping[str, Any] = results[0]
        return answer


def open_funasr_network(files: FunasrFiles, device: str) -> FunasrNetwork:
    """The network of a folder on ``device``.

    Raises InputError where FunASR is absent or does not import, and for a folder of another model.
    """
    with _kept_logging():
        import_library(NAME, FUNASR, "funasr", BUILDS)
        tables = import_library(NAME, FUNASR, "funasr.register", BUILDS).tables
        _check_filter_banks()
    config = _config(files)
    entries = dict(config.get("frontend_conf") or {}) | {"dither": 0.0}
    if (files.folder / NORMALIZATION).is_file():
        entries["cmvn_file"] = str(files.folder / NORMALIZATION)
    frontend = _registered(tables.frontend_classes, config.get("frontend"), files)(**entries)
    tokenizer = _tokenizer(tables, config, files)
    sizes = {"input_size": frontend.output_size(), "vocab_size": tokenizer.get_vocab_size() if tokenizer else -1}
    with torch.random.fork_rng(devices=[]):
        owner = _registered(tables.model_classes, files.model_class, files)
        network = owner(**{**(config.get("model_conf") or {}), **config, **sizes})
    fill_network(NAME, network, files.folder / WEIGHTS)
    return FunasrNetwork(network.to(device).eval(), frontend, tokenizer, device)


def _check_filter_banks() -> None:
    """Raises InputError where FunASR has no package for filter banks, which it would say only for the first clip."""
    fbank = import_library(NAME, FUNASR, "funasr.utils.fbank", BUILDS).fbank
    try:
        fbank(torch.zeros(1, RATE_HZ))
    except ImportError as error:
        found = f"scorer {NAME}: funasr {FUNASR.version()} has no package for filter banks: {error}"
        raise InputError(found, BUILDS, FUNASR.install) from error


def _config(files: FunasrFiles) -> dict[str, Any]:
    """The entries of ``config.yaml``, read as FunASR reads them, without references to other values."""
    from omegaconf import OmegaConf

    try:
        config = OmegaConf.to_container(OmegaConf.load(files.folder / CONFIG), resolve=False)
    except Exception as error:
        raise _wrong(files, f"cannot be read: {error}") from error
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(config, dict) or model != files.model_class:
        raise _wrong(files, f"is of model {model}")
    return {str(key): value for key, value in config.items()}


def _tokenizer(tables: Any, config: Mapping[str, Any], files: FunasrFiles) -> Any:
    """The tokenizer that the configuration names; None without one. Raises InputError where its file is absent."""
    name = config.get("tokenizer")
    if name is None:
        return None
    paths = files.tokenizers()
    if len(paths) != 1:
        raise _wrong(files, f"names the tokenizer {name}, and the folder has {len(paths)} files *.bpe.model")
    entries = dict(config.get("tokenizer_conf") or {}) | {"bpemodel": str(paths[0])}
    return _registered(tables.tokenizer_classes, name, files)(**entries)


def _registered(classes: Mapping[str, Any], name: object, files: FunasrFiles) -> Any:
    owner = classes.get(str(name))
    if owner is None:
        raise _wrong(files, f"names {name}, which funasr {FUNASR.version()} does not have")
    return owner


@contextmanager
def _kept_logging() -> Iterator[None]:
    """Handlers and level of the root logger, which modules of FunASR change when they are imported, stay as they are."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _wrong(files: FunasrFiles, problem: str) -> InputError:
    return InputError(
        f"scorer {NAME}: {files.folder / CONFIG} {problem}",
        f"the configuration of a model of class {files.model_class} with all its files",
        f"name the folder of such a model in the setting {files.setting}, or download it again",
    )
