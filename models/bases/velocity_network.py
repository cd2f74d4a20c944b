"""The network of a base model, as training and sampling see it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from avpref.config.training_settings import CheckpointingMode
from avpref.models.conditioning import LatentTimes
from avpref.models.flow import Latents
from avpref.models.recomputation import keep_all


@dataclass(frozen=True)
class AdapterTargets:
    """Linear layers that a LoRA adapter changes: ends of their dotted names, and how many layers of the network have one of them."""

    names: tuple[str, ...]
    num_layers: int


class VelocityNetwork(nn.Module):
    """A network that predicts the velocity x1 - x0 (noise minus data) of noisy latents x_t = (1 - t) x0 + t x1.

    A base model whose weights follow another convention converts inside its network. ``checkpointing`` says for a number of tokens
    which activations of each of :meth:`repeated_blocks` are kept for the backward pass (:mod:`avpref.models.recomputation`), and
    ``activation_checkpointing`` recomputes all of them; a network that cannot ignores both.
    """

    activation_checkpointing: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.checkpointing: Callable[[int], CheckpointingMode] = keep_all

    def checkpointing_mode(self, num_tokens: int) -> CheckpointingMode:
        """How a block is checkpointed for clips of ``num_tokens``."""
        return "full" if self.activation_checkpointing else self.checkpointing(num_tokens)

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
        """The blocks of equal structure that are compiled and checkpointed one by one; none where there are none."""
        return ()


def compile_blocks(network: VelocityNetwork) -> None:
    """Compile every repeated block in place, with shared code; the names in the state dict do not change."""
    for block in network.repeated_blocks():
        block.compile(fullgraph=True)
