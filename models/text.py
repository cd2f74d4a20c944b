"""Text encoders: the protocol, and an encoder without weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from avpref.identity import derive_seed, digest

POSITION_SCALE = 0.1
MAX_PERIOD = 10000.0
WORD = re.compile(r"\w+(?:['’]\w+)*")


class TextBatch(NamedTuple):
    """Hidden states [B, L, D] float32 and mask [B, L] float32 (1 = token, 0 = padding)."""

    states: Tensor
    mask: Tensor


class TextEncoder(Protocol):
    """Encodes texts as hidden states of a fixed length L. ``fingerprint`` changes whenever the states of any text change."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything except the text that the states depend on."""
        ...

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States and masks of ``texts``, one row per text; a row depends only on its own text."""
        ...


class WordText:
    """An encoder without weights or vocabulary: the vector of a lower-cased word is derived from its hash.

    A state is the word's vector (N(0, 1) entries) plus a small sinusoid of its position. An empty text is all padding.
    Texts are truncated to ``length`` words.
    """

    def __init__(self, dim: int, length: int) -> None:
        self.dim, self.length = dim, length
        self._vectors: dict[str, np.ndarray] = {}
        self._positions = _position_signal(length, dim)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the encoder's kind and sizes."""
        return digest("word-text", 1, self.dim, self.length, POSITION_SCALE)

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [len(texts), length, dim] and masks [len(texts), length]."""
        states = np.zeros((len(texts), self.length, self.dim), dtype=np.float32)
        mask = np.zeros((len(texts), self.length), dtype=np.float32)
        for row, text in enumerate(texts):
            words = WORD.findall(text.lower())[: self.length]
            for column, word in enumerate(words):
                states[row, column] = self._vector(word) + self._positions[column]
            mask[row, : len(words)] = 1
        return TextBatch(torch.from_numpy(states), torch.from_numpy(mask))

    def _vector(self, word: str) -> np.ndarray:
        if word not in self._vectors:
            generator = np.random.Generator(np.random.Philox(derive_seed("word", word)))
            self._vectors[word] = generator.standard_normal(self.dim, dtype=np.float32)
        return self._vectors[word]


def _position_signal(length: int, dim: int) -> np.ndarray:
    """[length, dim] float32: sines and cosines of the position at decreasing frequencies, times POSITION_SCALE."""
    frequencies = MAX_PERIOD ** -(np.arange(dim) // 2 * 2 / dim)
    phases = np.where(np.arange(dim) % 2, np.pi / 2, 0.0)
    return (POSITION_SCALE * np.sin(np.arange(length)[:, None] * frequencies + phases)).astype(np.float32)
