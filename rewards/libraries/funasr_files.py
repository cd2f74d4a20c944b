"""The files of a FunASR model in a folder of one's own, as ModelScope's and Hugging Face's repositories have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avpref.errors import InputError
from avpref.identity import file_sha256
from avpref.rewards.learned.packaged_weights import Package

NAME = "funasr"
FUNASR = Package("funasr", "funasr", "pip install 'funasr[knf]==1.4.16'")
FILTER_BANKS = (Package("torchaudio", "torchaudio"), Package("kaldi-native-fbank", "kaldi_native_fbank"))
"""Packages that compute FunASR's filter banks: the first one, or the second where that does not import."""
CONFIG, WEIGHTS, NORMALIZATION, TOKENIZER = "config.yaml", "model.pt", "am.mvn", "*.bpe.model"


@dataclass(frozen=True)
class FunasrFiles:
    """``config.yaml``, ``model.pt``, and where the folder has them ``am.mvn`` and the tokenizer's ``*.bpe.model``.

    ``setting`` names the folder in messages; ``model_class`` is the class that ``config.yaml`` must name.
    """

    setting: str
    model_class: str
    folder: Path

    def paths(self) -> list[Path]:
        """The files of the folder that numbers depend on. Raises InputError where one of the first two is absent."""
        for name in (CONFIG, WEIGHTS):
            if not (self.folder / name).is_file():
                raise InputError(
                    f"scorer {NAME}: no file {self.folder / name}",
                    f"the folder of a model of class {self.model_class}, with {CONFIG} and {WEIGHTS}",
                    f"download the model, and name its folder in the setting {self.setting}",
                )
        optional = [self.folder / NORMALIZATION, *self.tokenizers()]
        return [self.folder / CONFIG, self.folder / WEIGHTS, *(path for path in optional if path.is_file())]

    def tokenizers(self) -> list[Path]:
        """The files of tokenizers, by name."""
        return sorted(self.folder.glob(TOKENIZER))

    def identity(self) -> list[tuple[str, str]]:
        """Names and SHA-256 of the files. Raises InputError as :meth:`paths`."""
        return [(path.name, file_sha256(path)) for path in self.paths()]
