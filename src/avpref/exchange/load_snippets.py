"""Python code of model cards that loads an exported adapter; a test runs it."""

from __future__ import annotations

from collections.abc import Mapping

PEFT = """import json
from pathlib import Path

from avpref.models.checkpoints.network_loading import load_generator
from avpref.models.dit import ModelType, NetworkConfig

config = NetworkConfig.from_original(json.loads(Path("FOLDER/network.json").read_text()))
network = load_generator(Path("BASE"), config, ModelType.T2AV, lora=Path("FOLDER"))
"""
"""The adapter folded into the weights of the network that it was trained on."""

DIFFUSERS = """import torch
from diffusers import WanTransformer3DModel

transformer = WanTransformer3DModel.from_pretrained("BASE", torch_dtype=torch.float32)
transformer.load_lora_adapter("FOLDER", weight_name="pytorch_lora_weights.safetensors", prefix="transformer")
"""
"""The adapter of the video part on diffusers' class."""

COMFYUI = """import json
from pathlib import Path

from avpref.models.checkpoints.network_loading import load_generator
from avpref.models.dit import ModelType, NetworkConfig

config = NetworkConfig.from_original(json.loads(Path("FOLDER/network.json").read_text()))
network = load_generator(Path("BASE"), config, ModelType.T2AV, lora=Path("FOLDER/avpref_lora.safetensors"))
"""
"""The same file that ComfyUI reads, folded into the network without ComfyUI."""

SNIPPETS: Mapping[str, str] = {"peft": PEFT, "diffusers": DIFFUSERS, "comfyui": COMFYUI}
"""Code by layout. ``BASE`` stands for the base network and ``FOLDER`` for the folder of the adapter."""
