"""The nouns of the catalogue of weights: where a file is, how large it is, and what may be done with a model's numbers."""

from __future__ import annotations

from dataclasses import dataclass

from avpref.domain import Terms


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository at a commit; ``former_repos`` are older names of it, which caches may still carry."""

    repo: str
    path: str
    revision: str = "main"
    former_repos: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"huggingface.co/{self.repo} {self.path} at {self.revision[:12]}"


@dataclass(frozen=True)
class WebFile:
    """A file behind a plain address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class WeightFile:
    """One file: ``name`` is what loaders call it, ``num_bytes`` its size (an estimate unless ``is_size_exact``).

    ``sha256`` is None where nobody has published it; fetching then records what came.
    """

    name: str
    source: HubFile | WebFile
    num_bytes: int
    sha256: str | None = None
    is_size_exact: bool = False

    @property
    def place(self) -> str:
        """Where it lies in a folder of its model, relative: as in its repository, so a clone of that is such a folder."""
        return self.source.path if isinstance(self.source, HubFile) else self.name

    @property
    def converted(self) -> str:
        """Name of the same tensors as safetensors."""
        return f"{self.name.removesuffix('.pth')}.safetensors" if self.name.endswith(".pth") else self.name


@dataclass(frozen=True)
class Model:
    """A published reward model: its files, what may be done with its numbers, and what it measures."""

    name: str
    files: tuple[WeightFile, ...]
    terms: Terms
    note: str

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.num_bytes for file in self.files)
