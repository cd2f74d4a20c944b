"""Memory of a training on one device, in bytes by part, without the device: networks of one and of two layers on the meta device.

The parts are

    weights       frozen tensors, in the dtype of the base
    trained       trained tensors, float32
    gradients     one value per trained one, float32
    optimiser     AdamW's two moments, float32
    average       the moving average of the trained tensors, where there is one
    activations   tensors that autograd keeps for the backward pass of one forward pass
    block         with activation checkpointing: what one block keeps while it is recomputed

Activations are counted, not estimated: the policy's forward pass runs on tensors without memory, and every distinct storage that
autograd saves is added up, for one and for two layers; all layers are equal, so the rest follows. Attention is counted as a fused
kernel, which keeps q, k, v, its output and one number per query and head. Selective checkpointing keeps the outputs of attention and of
the products that it does not compute again; while their block is recomputed they are counted twice, so this mode may need less.

A weight of 8 bits is converted to bfloat16 for its product, and autograd keeps the converted weight: without checkpointing such weights
take more memory than those of 16 bits. Reference scores from a table need no memory of the device, and a live reference keeps none: its
pass has no gradients. Not in the parts: workspaces of kernels, fragmentation of the allocator, the CUDA context (about 0.5 GiB), and
copies of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from avpref.config.base_settings import BaseSections
from avpref.config.network_settings import NetworkSettings
from avpref.config.training_settings import AdapterSettings, CheckpointingMode
from avpref.models.bases.base_model import Base
from avpref.models.bases.base_opening import open_base
from avpref.models.flow import Latents, LatentShapes
from avpref.models.recomputation import counted_products
from avpref.trainer.adapters import add_adapter
from avpref.trainer.scaling.base_dtype import QUANTISED, linear_layers

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
ADAM_MOMENTS = 2
SCALE_BYTES = {"int8": 5, "float8": 4}
"""Bytes per output channel beside weights of 8 bits, as torchao keeps them: a float32 scale, and the zero point of int8."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes of a training by part; see the module."""

    weights: int
    trained: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    block: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class MemoryRequest:
    """Everything that the memory of a training depends on.

    Attributes:
        network: the sections that describe the base model, or section ``network`` of JavisDiT++ alone.
        adapter: the trained adapter; None: all weights are trained.
        dtype: of frozen weights; the blocks' linear layers of ``int8`` and ``float8`` have one byte per weight, all else is bfloat16.
        shapes: of a clip's latents.
        rows: rows of one forward pass: two per pair, one where the sides of a pair are computed alone (``dpo.two_pass``).
        checkpointing: of activations: ``none``, ``selective`` or ``full``.
        has_average: whether there is a moving average.
        state_bits: of the optimiser's moments.
        has_reference_adapter: whether a second adapter of the same size is the reference: a copy of SFT's, or a moving average.
        is_by_side: whether the sides of a pair have a forward pass each, so that one side of a block is recomputed at a time.
    """

    network: BaseSections | NetworkSettings
    adapter: AdapterSettings | None
    dtype: str
    shapes: LatentShapes
    rows: int
    checkpointing: CheckpointingMode
    has_average: bool = False
    state_bits: int = 32
    has_reference_adapter: bool = False
    is_by_side: bool = False

    @property
    def base(self) -> Base:
        """The base model."""
        own = self.network
        return open_base(BaseSections(network=own) if isinstance(own, NetworkSettings) else own)


def plan_memory(request: MemoryRequest) -> MemoryParts:
    """Bytes of one device by part. No memory is allocated for weights or activations."""
    blocks, own_block = request.base.num_blocks, 0
    if blocks:
        one, two = (_count(request, number) for number in (1, 2))
        parts = {name: one[name] + (two[name] - one[name]) * (blocks - 1) for name in one}
    else:
        parts = _count(request, 0)
    if blocks and request.checkpointing != "none":
        rows = max(request.rows // 2, 1) if request.is_by_side else request.rows
        whole = replace(request, checkpointing="none", rows=rows)
        kept = [_count(whole, number)["activations"] for number in (1, 2)]
        own_block = kept[1] - kept[0]
    trained = parts["trained"]
    return MemoryParts(
        weights=parts["weights"] + (trained * FLOAT32_BYTES if request.has_reference_adapter else 0),
        trained=trained * FLOAT32_BYTES,
        gradients=trained * FLOAT32_BYTES,
        optimiser=trained * request.state_bits // 8 * ADAM_MOMENTS,
        average=trained * FLOAT32_BYTES if request.has_average else 0,
        activations=parts["activations"],
        block=own_block,
    )


@lru_cache(maxsize=64)
def _count(request: MemoryRequest, num_blocks: int) -> dict[str, int]:
    """Bytes of frozen weights and of activations, and the number of trained values, of a network of ``num_blocks`` (0: of all)."""
    is_quantised = request.dtype in QUANTISED
    dtype = torch.bfloat16 if is_quantised else getattr(torch, request.dtype)
    with torch.device("meta"):
        base = request.base
        network = (base.shallow(num_blocks) if num_blocks else base.build_network()).to(dtype)
        network.checkpointing = lambda num_tokens: request.checkpointing
        quantised = linear_layers(network) if is_quantised else []
        module: nn.Module = network
        if request.adapter is not None:
            module = add_adapter(network, request.adapter, 0)
        activations = _saved_bytes(module, lambda: _loss(module, request), request.checkpointing == "selective")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    num_quantised = sum(layer.weight.numel() for layer in quantised)
    scales = sum(layer.out_features for layer in quantised) * SCALE_BYTES.get(request.dtype, 0)
    converted = BFLOAT16_BYTES * num_quantised if request.checkpointing == "none" else 0
    return {
        "weights": sum(p.numel() * p.element_size() for p in frozen) - (BFLOAT16_BYTES - 1) * num_quantised + scales,
        "trained": sum(parameter.numel() for parameter in trained),
        "activations": activations + converted,
    }


def _loss(module: nn.Module, request: MemoryRequest) -> Tensor:
    """The flow-matching loss of ``rows`` clips on the meta device."""
    rows, text_shape = request.rows, request.base.text_shape()
    latents = Latents(*(None if shape is None else torch.empty(rows, *shape) for shape in request.shapes))
    text, mask = torch.empty(rows, *text_shape), torch.empty(rows, text_shape[0])
    velocity = module(latents, torch.empty(rows), text, mask)
    parts = [part.square().mean() for part in velocity if part is not None]
    return torch.stack(parts).sum()


def _saved_bytes(module: nn.Module, forward: Callable[[], Tensor], is_selective: bool) -> int:
    """Bytes of the distinct storages, other than parameters, that autograd and selective checkpointing keep for the backward pass of
    ``forward``."""
    own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    saved: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # so that no other storage takes its place
        return tensor

    fused = _FusedAttention()
    with counted_products() as products, fused, saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    kept_outputs = sum(products) + fused.output_bytes if is_selective else 0
    return sum(saved.values()) + kept_outputs


class _FusedAttention(TorchFunctionMode):
    """Replaces attention by an operation that keeps for its backward pass what fused kernels keep.

    ``output_bytes``: of the outputs of all passes: attention, and one number per query and head.
    """

    def __init__(self) -> None:
        super().__init__()
        self.output_bytes = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``; of attention the output's shape alone."""
        if func is torch.nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
            query = named["query"]
            self.output_bytes += query.numel() * query.element_size() + query.shape[:-1].numel() * FLOAT32_BYTES
            return _AttentionMemory.apply(named["query"], named["key"], named["value"])
        return func(*args, **(kwargs or {}))


class _AttentionMemory(torch.autograd.Function):
    """Attention on the meta device: q [B, h, N, c], k and v [B, h, M, c] -> [B, h, N, c]."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep inputs, output and the logarithms of the sums [B, h, N]."""
        out = torch.empty_like(q)
        context.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients without values, in the shapes of the inputs."""
        q, k, v, _, _ = context.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
