"""The text encoder of the released generator: the encoder of UMT5-XXL over 512 tokens, with a disk cache of its states.

Texts are cleaned as in Wan 2.1 (mojibake repaired, HTML entities resolved twice, white space collapsed, case kept) and truncated to
``length`` tokens including the end token. Every text is encoded separately, without padding: the encoder's mask gives padding no
weight, so the states equal those of a padded batch and do not depend on other texts. States of padding are zero here; the network
zeroes them as well.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avpref.errors import InputError
from avpref.identity import digest
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors
from avpref.models.checkpoints.weight_folders import CONFIG, Published, read_json, weights_hash
from avpref.models.text import TextBatch, TextEncoder
from avpref.storage.file_hashes import sha256_of
from avpref.storage.local_files import commit_once
from avpref.storage.weight_files import fit, on_meta

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.umt5.modeling_umt5 import UMT5Stack

VERSION = 1
LENGTH = 512
TOKENIZER = "tokenizer.json"
PUBLISHED = Published("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "text_encoder", "text.encoder")
PUBLISHED_TOKENIZER = Published("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "tokenizer", "text.tokenizer", TOKENIZER)

WAN_EMBEDDING = "token_embedding.weight"
WAN_NAMES = {
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
"""Names of a block's modules: Wan's file -> transformers."""
UNUSED = ("decoder.", "lm_head.", "shared.")
"""Name prefixes in files of the whole translation model that the encoder does not use."""


@dataclass(frozen=True)
class Umt5Files:
    """Paths, dtype and device of an encoder; :meth:`load` reads its 11 GB.

    ``weights``: a folder as transformers saves it, or a file with Wan's names (``models_t5_umt5-xxl-enc-bf16.pth``).
    ``tokenizer``: a folder with ``tokenizer.json``, or that file.
    """

    weights: Path
    tokenizer: Path
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    length: int = LENGTH

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the states depend on: bytes of weights and tokenizer, dtype and length, but not the paths."""
        files = weights_hash(self.weights), sha256_of(_tokenizer_file(self.tokenizer))
        return digest("umt5", VERSION, files, str(self.dtype), self.length)

    def load(self) -> Umt5Text:
        """Load the encoder. Raises InputError for unreadable files and for a tokenizer that does not match the weights."""
        network = load_encoder(self.weights, self.device, self.dtype)
        return Umt5Text(network, load_tokenizer(self.tokenizer, self.length), self.length, self.fingerprint)


class Umt5Text:
    """A :class:`avpref.models.text.TextEncoder` whose states are on the CPU in the dtype of the weights."""

    def __init__(self, network: UMT5Stack, tokenizer: Tokenizer, length: int, fingerprint: str) -> None:
        self._network, self._tokenizer, self._length, self._fingerprint = network, tokenizer, length, fingerprint
        _require_vocabulary(network.config.vocab_size, tokenizer)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the files; see :class:`Umt5Files`."""
        return self._fingerprint

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [len(texts), length, D] and masks [len(texts), length]."""
        return padded([self._states(text) for text in texts], self._length)

    @torch.no_grad()
    def _states(self, text: str) -> Tensor:
        """[n, D], n ≤ length: one row per token."""
        ids = torch.tensor([self._tokenizer.encode(clean(text)).ids], device=self._network.embed_tokens.weight.device)
        return self._network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].cpu()


class EncoderFiles(Protocol):
    """An encoder that is not loaded yet."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the loaded encoder."""
        ...

    @property
    def length(self) -> int:
        """Number of states per text."""
        ...

    def load(self) -> TextEncoder:
        """Load the encoder."""
        ...


class CachedText:
    """A text encoder with a disk cache: one safetensors file per text, named by the hash of (encoder, text).

    The encoder is loaded for the first uncached text and kept until :meth:`release`. Files hold states without padding in the
    encoder's dtype and are written atomically, so that several processes can share the folder.
    """

    def __init__(self, files: EncoderFiles, folder: Path) -> None:
        self._files, self._folder = files, folder
        self._encoder: TextEncoder | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder; the cache does not change states."""
        return self._files.fingerprint

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States and masks as of the encoder. Raises StorageError if the folder is not writable, InputError for a damaged file."""
        return padded([self._states(text) for text in texts], self._files.length)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct ``texts`` that are not in the cache."""
        return [text for text in dict.fromkeys(texts) if not self.path_of(text).exists()]

    def release(self) -> None:
        """Unload the encoder."""
        self._encoder = None

    def path_of(self, text: str) -> Path:
        """Cache file of ``text``."""
        name = digest("text states", self.fingerprint, text.encode("utf-8", "surrogatepass").hex(), size=32)
        return self._folder / name[:2] / f"{name}.safetensors"

    def _states(self, text: str) -> Tensor:
        path = self.path_of(text)
        if not path.exists():
            if self._encoder is None:
                self._encoder = self._files.load()
            states, mask = self._encoder.encode([text])
            commit_once(path, save({"states": states[0][mask[0] > 0].contiguous()}))
        return _read_states(path)


def padded(rows: Sequence[Tensor], length: int) -> TextBatch:
    """Batch of states padded with zeros (mask 0) to ``length``, from one tensor [n, D] per text; ``rows`` must not be empty."""
    states = torch.zeros(len(rows), length, rows[0].shape[-1], dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), length)
    for index, row in enumerate(rows):
        states[index, : len(row)], mask[index, : len(row)] = row, 1.0
    return TextBatch(states, mask)


def clean(text: str) -> str:
    """Clean ``text`` as Wan 2.1 does before tokenisation."""
    import ftfy
    import regex

    resolved = html.unescape(html.unescape(ftfy.fix_text(text)))
    return regex.sub(r"\s+", " ", resolved.strip()).strip()


def load_tokenizer(path: Path, length: int = LENGTH) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, truncating to ``length`` tokens including the end token. Raises InputError for another file."""
    from tokenizers import Tokenizer

    file = _tokenizer_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for unreadable and for broken files
        raise InputError(
            f"{file} cannot be read: {error}", "google/umt5-xxl's tokenizer.json", "check the path"
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    if len(tokenizer.encode("").ids) != 1:
        found = f"{file} adds {len(tokenizer.encode('').ids)} tokens to a text"
        raise InputError(found, "one, the end of the text", "use google/umt5-xxl's tokenizer.json")
    return tokenizer


def load_encoder(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> UMT5Stack:
    """The encoder at ``path``, a folder saved by transformers or a file with Wan's names, in ``dtype`` (None: that of the files).

    Raises InputError for unreadable files, other models, and any tensor that is missing, unexpected or misshapen.
    """
    from transformers import UMT5Config, UMT5EncoderModel

    tensors = read_tensors(find_checkpoint(path))
    if WAN_EMBEDDING in tensors:
        tensors = {transformers_name(name): tensor for name, tensor in tensors.items()}
        values = _sizes(path, tensors)
    else:
        values = _umt5_config(path)
    config: Any = UMT5Config.from_dict(dict(values))
    embedding = {"encoder.embed_tokens.weight": tensors["shared.weight"]} if "shared.weight" in tensors else {}
    named = {name.removeprefix("encoder."): tensor for name, tensor in {**embedding, **tensors}.items()}
    network: UMT5Stack = on_meta(lambda: UMT5EncoderModel(config)).encoder
    fit(network, named, path, ignored=UNUSED, device=device, dtype=dtype)
    return network


def transformers_name(name: str) -> str:
    """Name in transformers' UMT5EncoderModel of a tensor of Wan's file; other names are returned unchanged."""
    outside_blocks = {WAN_EMBEDDING: "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in WAN_NAMES:
        return outside_blocks.get(name, name)
    return f"encoder.block.{match[1]}.{WAN_NAMES[match[2]]}.weight"


def _sizes(path: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, object]:
    """Values of UMT5Config inferred from tensor shapes, because Wan's file has no configuration. Raises InputError for missing tensors."""
    block = "encoder.block.0.layer."
    try:
        vocabulary, width = tensors["shared.weight"].shape
        buckets, heads = tensors[f"{block}0.SelfAttention.relative_attention_bias.weight"].shape
        inner, hidden = (
            tensors[block + name].shape[0] for name in ("0.SelfAttention.q.weight", "1.DenseReluDense.wi_0.weight")
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no UMT5 encoder: {error}", "Wan's text encoder", "check the path") from error
    blocks = {name.split(".")[2] for name in tensors if name.startswith("encoder.block.")}
    sizes = {"vocab_size": vocabulary, "d_model": width, "d_kv": inner // heads, "d_ff": hidden}
    return {**sizes, "num_layers": len(blocks), "num_heads": heads, "relative_attention_num_buckets": buckets}


def _umt5_config(path: Path) -> Mapping[str, object]:
    config = read_json(path / CONFIG)
    if config.get("model_type") != "umt5":
        raise InputError(f"{path} holds a {config.get('model_type')}", "a umt5 encoder", "use Wan 2.1's text_encoder")
    return config


def _tokenizer_file(path: Path) -> Path:
    file = path / TOKENIZER if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} is absent", "google/umt5-xxl's tokenizer.json", "check the path")
    return file


def _require_vocabulary(size: int, tokenizer: Tokenizer) -> None:
    if tokenizer.get_vocab_size() > size:
        found = f"a tokenizer of {tokenizer.get_vocab_size()} tokens for an encoder of {size}"
        raise InputError(found, "the encoder's own tokenizer", "use google/umt5-xxl's tokenizer.json")


def _read_states(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("states")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}", "states of a text", f"delete {path.name}") from error
