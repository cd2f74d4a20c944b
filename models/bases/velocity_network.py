"""The network of a base model, as training and sampling see it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from avpref.config.training_settings import CheckpointingMode
from avpref.models.conditioning import LatentTimes
from avpref.models.flow import Latents, LatentShapes
from avpref.models.recomputation import keep_all


@dataclass(frozen=True)
class AdapterTargets:
    """Linear layers that a LoRA adapter changes: ends of their dotted names, and how many layers of the network have one of them."""

    names: tuple[str, ...]
    num_layers: int


@dataclass(frozen=True)
class Work:
    """Work of one row through the network: tokens of a clip, and floating point operations of one forward pass."""

    num_tokens: int
    forward_flop: float


class VelocityNetwork(nn.Module):
    """A network that predicts the velocity x1 - x0 (noise minus data) of noisy latents x_t = (1 - t) x0 + t x1.

    A base model whose weights follow another convention converts inside its network. ``checkpointing`` says for a number of tokens
    which activations of a repeated block are kept for the backward pass (:func:`avpref.models.recomputation.run_block` does it);
    ``activation_checkpointing`` recomputes all of them, whatever the number. A network that cannot ignores both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activation_checkpointing = False
        self.checkpointing: Callable[[int], CheckpointingMode] = keep_all

    @abstractmethod
    def forward(self, latents: Latents, t: Tensor | LatentTimes, text: Tensor, text_mask: Tensor) -> Latents:
        """Velocity, float32, in the shapes of ``latents``; row i depends on row i of the inputs alone.

        Args:
            latents: x_t, video [B, C, T, h, w] and audio [B, C, L, M].
            t: [B], one timestep in [0, 1] per row; or LatentTimes, one per latent frame of each modality (0 for known frames).
            text: [B, L, D], states of the base model's text encoder.
            text_mask: [B, L], zero for padding.
        """

    @abstractmethod
    def adapter_targets(self) -> AdapterTargets:
        """The linear layers that training adapts."""

    def repeated_blocks(self) -> Iterable[nn.Module]:
        """The blocks of equal structure that are compiled, sharded and held in 8 bits one by one; none where there are none."""
        return ()

    def work(self, shapes: LatentShapes) -> Work:
        """Work of one row with latents of ``shapes``. The default counts latent cells as tokens, and two operations per value and token."""
        cells = sum(prod(shape[1:]) for shape in shapes if shape is not None)
        return Work(cells, 2.0 * cells * sum(parameter.numel() for parameter in self.parameters()))


def compile_blocks(network: VelocityNetwork) -> None:
    """Compile every repeated block in place, with shared code; the names in the state dict do not change."""
    for block in network.repeated_blocks():
        block.compile(fullgraph=True)
