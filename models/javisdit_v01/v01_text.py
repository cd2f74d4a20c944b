"""Texts of JavisDiT v0.1 as states: T5's states of the tokens, and the priors that HiST-Sypo estimates from ImageBind's states.

States are those of :class:`avpref.models.dual_stream.dual_inputs.TextLayout`. The noise of a text's priors depends on the text and on
``prior_seed``, so all candidates of a prompt have the same priors, and so have both clips of a pair in training. An empty text has no
states: the network takes its null states instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from avpref.errors import InputError
from avpref.identity import derive_seed, digest
from avpref.models.checkpoints.weight_folders import Published, weights_hash
from avpref.models.dual_stream.dual_inputs import PriorStates, TextLayout
from avpref.models.dual_stream.dual_loading import read_prior
from avpref.models.dual_stream.synchrony_prior import MIN_LOG_VARIANCE, SynchronyPrior
from avpref.models.dual_stream.t5_text import T5TextEncoder, sampled_prompt
from avpref.models.imagebind.text_tower import TextTower, read_text_tower
from avpref.models.javisdit_v01.v01_settings import V01Settings
from avpref.models.text import TextBatch
from avpref.models.umt5 import padded
from avpref.storage.file_hashes import sha256_of

VERSION = 1
PUBLISHED_PRIOR = Published("JavisVerse/JavisDiT-v0.1-prior", "", "base.settings.prior")
PUBLISHED_T5 = Published("DeepFloyd/t5-v1_1-xxl", "", "base.settings.text_encoder")
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".index.json")


@dataclass(frozen=True)
class V01TextFiles:
    """Encoders of texts that are not loaded yet; see :class:`avpref.models.umt5.EncoderFiles`."""

    settings: V01Settings
    device: str = "cpu"

    @property
    def layout(self) -> TextLayout:
        """Layout of the states."""
        return TextLayout.of(self.settings.network)

    @property
    def length(self) -> int:
        """Rows of the states of a text."""
        return self.layout.num_rows

    @cached_property
    def paths(self) -> tuple[Path, Path, Path]:
        """Places of T5, ImageBind and the prior estimator. Raises InputError where one is absent."""
        settings = self.settings
        return (
            PUBLISHED_T5.locate(settings.text_encoder),
            locate_imagebind(settings.imagebind),
            PUBLISHED_PRIOR.locate(settings.prior),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the states depend on: weights, tokeniser, sizes, dtype, and how texts become prompts and priors."""
        t5, imagebind, prior = self.paths
        settings = self.settings
        values = settings.text_dtype, settings.prompts, settings.prior_draw, settings.prior_seed
        sizes = repr(settings.prior_network), repr(settings.imagebind_text), repr(self.layout)
        tokenizer = [
            (file.name, sha256_of(file))
            for file in sorted(t5.iterdir())
            if file.is_file() and not file.name.endswith(WEIGHT_ENDINGS) and not file.name.startswith(".")
        ]
        weights = weights_hash(t5), tokenizer, sha256_of(imagebind), weights_hash(prior)
        return digest("javisdit v0.1 text", VERSION, values, sizes, weights)

    def load(self) -> V01Text:
        """Load all encoders. Raises InputError for unreadable or unsuitable files."""
        t5, imagebind, prior = self.paths
        settings = self.settings
        dtype = getattr(torch, settings.text_dtype)
        encoder = T5TextEncoder(t5, settings.network.model_max_length, dtype).to(self.device)
        tower = read_text_tower(imagebind, settings.imagebind_text, self.device)
        return V01Text(self, encoder, tower, read_prior(prior, settings.prior_network, self.device))


class V01Text:
    """A :class:`avpref.models.text.TextEncoder`; states are on the CPU in ``text_dtype``. Every text is encoded by itself."""

    def __init__(self, files: V01TextFiles, t5: T5TextEncoder, tower: TextTower, prior: SynchronyPrior) -> None:
        self._files, self._t5, self._tower, self._prior = files, t5, tower, prior

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the files."""
        return self._files.fingerprint

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [B, rows, C] and masks [B, rows] of ``texts``."""
        return padded([self._states(text) for text in texts], self._files.length)

    def priors(self, prompt: str) -> PriorStates:
        """The priors of a prompt [1, K, c], float32 on the CPU."""
        settings = self._files.settings
        mean, log_variance = self._prior(self._tower([prompt]))[2:]
        mean = mean.float().cpu()
        if log_variance is None:
            return PriorStates(mean, torch.full_like(mean, MIN_LOG_VARIANCE), mean)
        log_variance = log_variance.float().cpu()
        if settings.prior_draw == "mean":
            return PriorStates(mean, log_variance, mean)
        seed = derive_seed("synchrony prior", settings.prior_seed, prompt)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        return PriorStates(mean, log_variance, mean + (0.5 * log_variance).exp() * noise)

    @torch.no_grad()
    def _states(self, text: str) -> torch.Tensor:
        """[rows of priors and of tokens, C]; no rows for an empty text."""
        layout = self._files.layout
        if not text.strip():
            return torch.zeros(0, layout.channels, dtype=getattr(torch, self._files.settings.text_dtype))
        prompt = sampled_prompt(text) if self._files.settings.prompts == "released" else text
        states, mask = self._t5.encode([prompt])
        tokens = states[:, mask[0] > 0].cpu()
        if tokens.shape[2] != layout.channels:
            path = self._files.paths[0]
            raise InputError(
                f"{path} has states of {tokens.shape[2]} values",
                f"{layout.channels}, as base.settings.network.caption_channels has it",
                f"--set base.settings.network.caption_channels={tokens.shape[2]}, or name another text encoder",
            )
        return layout.packed(tokens, self.priors(prompt))[0]


def locate_imagebind(configured: str) -> Path:
    """The file of ImageBind. Raises InputError where it is absent or no path is configured."""
    path = Path(configured).expanduser()
    if not configured or not path.is_file():
        found = f"base.settings.imagebind={configured} is absent" if configured else "base.settings.imagebind is empty"
        fix = "avpref weights fetch imagebind, then --set base.settings.imagebind=PATH with the path of `avpref weights list`"
        raise InputError(found, "imagebind_huge.pth", fix)
    return path
