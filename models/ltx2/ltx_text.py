"""Text states of LTX-2: all hidden states of Gemma, passed through the connectors of both streams.

The transformer reads the connectors' outputs, so these are kept on disk (:class:`avpref.models.umt5.CachedText`), and neither Gemma nor
the connectors are needed afterwards. A state is that of the video stream followed by that of the audio stream: for 2.3 and 2.5
4096 + 2048 values, 12.6 MB per text in bfloat16. Learned registers take the place of padding, so all 1,024 states are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from avpref.errors import InputError
from avpref.identity import digest
from avpref.models.ltx2.ltx_components import load_connectors, load_text_encoder, load_tokenizer
from avpref.models.ltx2.ltx_folder import LtxSource
from avpref.models.text import TextBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
LENGTH = 1024
"""Tokens of a text at most, and states of every text."""
SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class LtxTextFiles:
    """Text encoder, connectors and tokenizer that are not loaded yet."""

    source: LtxSource
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    length: int = LENGTH

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the states depend on: weights, tokenizer, dtype and length."""
        return digest("ltx text", VERSION, self.source.folder.text_hash, str(self.dtype), self.length)

    def load(self) -> LtxText:
        """Load all of it. Raises InputError for unreadable or unsuitable files."""
        folder = self.source.folder
        encoder = load_text_encoder(folder, self.dtype, self.device)
        connectors = load_connectors(folder, self.dtype, self.device)
        return LtxText(encoder, connectors, load_tokenizer(folder), self)


class LtxText:
    """A :class:`avpref.models.text.TextEncoder`; states are on the CPU in the dtype of the weights."""

    def __init__(
        self,
        encoder: Any,
        connectors: Any,
        tokenizer: PreTrainedTokenizerBase,
        files: LtxTextFiles,
    ) -> None:
        self._encoder, self._connectors, self._tokenizer, self._files = encoder, connectors, tokenizer, files

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the files."""
        return self._files.fingerprint

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [len(texts), length, D] and masks [len(texts), length]; every text is encoded by itself.

        Raises InputError for a text of more than ``length`` tokens.
        """
        rows = [self._states(text) for text in texts]
        return TextBatch(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    @torch.no_grad()
    def _states(self, text: str) -> TextBatch:
        length = self._files.length
        require_length(self._tokenizer, text, length)
        tokens = self._tokenizer(
            [text.strip()], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self._encoder.device)
        output = self._encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
        )
        hidden = torch.stack(output.hidden_states, dim=-1).flatten(2, 3)
        video, audio, mask = self._connectors(hidden, tokens.attention_mask, padding_side="left")
        return TextBatch(torch.cat([video, audio], dim=-1).cpu(), mask.float().cpu())


def require_length(tokenizer: PreTrainedTokenizerBase, text: str, length: int = LENGTH) -> None:
    """Raises InputError for a text of more than ``length`` tokens: it would be cut silently."""
    count = len(tokenizer(text.strip()).input_ids)
    if count > length:
        shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
        raise InputError(
            f"a text of {count} tokens: {shown!r}",
            f"at most {length} tokens",
            "shorten the prompt in the list of prompts",
        )
