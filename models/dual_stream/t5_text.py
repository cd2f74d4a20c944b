"""Text of JavisDiT v0.1: states of the T5 v1.1 encoder, and the prompt as the released sampler writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.dual_stream.dual_config import TEXT_LENGTH
from avpref.models.text import TextBatch
from avpref.storage.weight_files import SHOWN

AESTHETIC = "aesthetic score:"
SUFFIX = f" {AESTHETIC} 6.5."
"""Ending of every sampled prompt, which training captions with scores have taught."""


def sampled_prompt(text: str) -> str:
    """The prompt in lower case with :data:`SUFFIX`, unless it names a score itself. Training captions stay as they are.

    The released sampler also strips links, markup and shop phrases; this function does not.
    """
    plain = re.sub(r"\s+", " ", text.strip().lower())
    return plain if AESTHETIC in plain else plain + SUFFIX


class T5TextEncoder(nn.Module):
    """transformers' T5 encoder and tokeniser from a folder; texts are padded or cut to ``length`` tokens.

    Raises InputError for a folder that transformers cannot read, and for missing or misshapen tensors, which would be random.
    """

    def __init__(self, folder: Path, length: int = TEXT_LENGTH, dtype: torch.dtype = torch.bfloat16) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        super().__init__()
        fix = "fetch DeepFloyd/t5-v1_1-xxl or google/t5-v1_1-xxl into a folder, and give its path"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
            loaded: Any = T5EncoderModel.from_pretrained(
                str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{folder}: {str(error).splitlines()[0]}", "a T5 v1.1 encoder with its tokeniser", fix
            ) from error
        encoder, report = loaded
        absent = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        if absent:
            found = f"{folder}: {len(absent)} tensors are missing or of another shape ({', '.join(absent[:SHOWN])})"
            raise InputError(found, "a T5 v1.1 encoder", fix)
        self.encoder = encoder.eval().requires_grad_(False)
        self.length = length

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [B, length, d] after the final norm, and the mask of real tokens."""
        tokens = self.tokenizer(
            list(texts), max_length=self.length, padding="max_length", truncation=True, return_tensors="pt"
        )
        mask: Tensor = tokens["attention_mask"].to(self.encoder.device)
        states = self.encoder(tokens["input_ids"].to(self.encoder.device), attention_mask=mask).last_hidden_state
        return TextBatch(states, mask.float())
