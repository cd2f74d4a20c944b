"""Load the networks of LTX-2 with the classes of diffusers and transformers: completely, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from avpref.errors import InputError
from avpref.models.ltx2.ltx_folder import LtxFolder
from avpref.models.ltx2.ltx_network import LtxConvention, LtxNetwork
from avpref.storage.weight_files import SHOWN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_ENCODERS = (
    "Gemma3ForConditionalGeneration",
    "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedForConditionalGeneration",
)


def load_network(
    path: Path, convention: LtxConvention, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> LtxNetwork:
    """The transformer in folder ``path``, in ``dtype``. Raises InputError for missing, unexpected or misshapen weights."""
    from diffusers import LTX2VideoTransformer3DModel

    transformer = _load(LTX2VideoTransformer3DModel, path, dtype, device)
    return LtxNetwork(transformer, video_text_dim(transformer.config), convention)


def new_network(config: Mapping[str, object], convention: LtxConvention) -> LtxNetwork:
    """A transformer of constructor values ``config`` on the current default device, with torch's initial values.

    Keys that begin with an underscore, which diffusers adds to files, are ignored.
    """
    from diffusers import LTX2VideoTransformer3DModel

    values: dict[str, Any] = {name: value for name, value in config.items() if not name.startswith("_")}
    transformer: Any = LTX2VideoTransformer3DModel(**values)
    return LtxNetwork(transformer, video_text_dim(transformer.config), convention)


def video_text_dim(config: Any) -> int:
    """Width of the video stream's text states: 2.0 projects them in the transformer, later versions in the connectors."""
    return int(config.caption_channels if config.use_prompt_embeddings else config.cross_attention_dim)


def load_video_vae(folder: LtxFolder, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The video VAE, an ``AutoencoderKLLTX2Video``. Raises as :func:`load_network`."""
    from diffusers import AutoencoderKLLTX2Video

    return _load(AutoencoderKLLTX2Video, folder.component("vae"), dtype, device)


def load_audio_vae(folder: LtxFolder, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The audio VAE, an ``AutoencoderKLLTX2Audio``. Raises as :func:`load_network`."""
    from diffusers import AutoencoderKLLTX2Audio

    return _load(AutoencoderKLLTX2Audio, folder.component("audio_vae"), dtype, device)


def load_vocoder(folder: LtxFolder, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The vocoder. Raises as :func:`load_network`, and InputError for that of another version."""
    from diffusers.pipelines import ltx2

    traits = folder.version.traits
    if folder.class_name("vocoder") != traits.vocoder:
        raise InputError(
            f"{folder.path} has a {folder.class_name('vocoder')}",
            f"{traits.vocoder} of LTX-{folder.version}",
            folder.download,
        )
    vocoder = _load(getattr(ltx2, traits.vocoder), folder.component("vocoder"), dtype, device)
    if vocoder.config.output_sampling_rate != traits.sample_rate_hz:
        raise InputError(
            f"{folder.component('vocoder')} makes {vocoder.config.output_sampling_rate} Hz",
            f"{traits.sample_rate_hz} Hz of LTX-{folder.version}",
            folder.download,
        )
    return vocoder


def load_connectors(folder: LtxFolder, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The connectors from text encoder to transformer. Raises as :func:`load_network`."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    return _load(LTX2TextConnectors, folder.component("connectors"), dtype, device)


def load_text_encoder(folder: LtxFolder, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The Gemma model. Raises as :func:`load_network`, and InputError for a model of another kind."""
    import transformers

    name = folder.class_name("text_encoder")
    if name not in TEXT_ENCODERS:
        raise InputError(f"{folder.path} has a {name}", " or ".join(TEXT_ENCODERS), folder.download)
    path = folder.component("text_encoder")
    try:
        model, report = getattr(transformers, name).from_pretrained(
            path, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read: {_first_line(error)}", f"a {name}", folder.download) from error
    _require_complete(path, report)
    return model.eval().requires_grad_(False).to(device)


def load_tokenizer(folder: LtxFolder) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left. Raises InputError for unreadable files."""
    from transformers import AutoTokenizer

    path = folder.path / "tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read: {_first_line(error)}", "Gemma's tokenizer", folder.download
        ) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(kind: Any, path: Path, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A network of diffusers in evaluation mode, frozen. Missing weights would be random, so they are refused."""
    try:
        network, report = kind.from_pretrained(
            path, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        fix = "fetch the folder again, or name another with base.settings.folder"
        raise InputError(f"{path} cannot be read: {_first_line(error)}", f"weights of {kind.__name__}", fix) from error
    _require_complete(path, report)
    return network.eval().requires_grad_(False).to(device)


def _require_complete(path: Path, report: dict[str, Any]) -> None:
    differences = {
        name: sorted(map(str, report.get(f"{name}_keys") or ())) for name in ("missing", "unexpected", "mismatched")
    }
    if any(differences.values()):
        shown = "; ".join(
            f"{len(keys)} {name} ({', '.join(keys[:SHOWN])})" for name, keys in differences.items() if keys
        )
        raise InputError(f"{path} does not fit: {shown}", "exactly the network's tensors", "fetch the folder again")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
