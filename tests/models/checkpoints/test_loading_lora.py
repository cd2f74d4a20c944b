"""Adapters of every make: folded in float32, refused where they do not fit, and written for other programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from network_states import state_hash
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import checkpoint_hash
from avpref.models.checkpoints.exporting import save_comfyui_adapter, save_diffusers, save_peft_adapter, save_sharded
from avpref.models.checkpoints.lora_files import Lora, read_lora
from avpref.models.checkpoints.network_loading import load_generator, save_network
from avpref.models.checkpoints.weight_layouts import diffusers_name
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig

TARGETS = [f"{attention}.{q}" for attention in ("self_attn", "cross_attn") for q in "qkvo"]
TARGETS += [f"{ffn}.{layer}" for ffn in ("ffn", "audio_ffn") for layer in (0, 2)]
RANK, ALPHA = 3, 7
QUIET = "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"


@dataclass(frozen=True)
class Adapted:
    """A network, an adapter of it that PEFT saved, and what the two together are in exact arithmetic."""

    folder: Path
    expected: dict[str, Tensor]


@pytest.fixture
def adapted(make_network, tmp_path: Path) -> Adapted:
    return adapt(make_network(), tmp_path / "lora")


def adapt(network: JavisDiT, folder: Path, targets: list[str] | str = TARGETS) -> Adapted:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = get_peft_model(network, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(str(folder), safe_serialization=True)
    factors = load_file(folder / "adapter_model.safetensors")
    for name in [name for name in factors if "lora_A" in name]:
        down, up = factors[name].double(), factors[name.replace("lora_A", "lora_B")].double()
        base = name.removeprefix("base_model.model.").replace(".lora_A", "")
        before[base] = (before[base].double() + ALPHA / RANK * up @ down).float()
    return Adapted(folder, before)


def merged(network: JavisDiT, adapter: Path) -> JavisDiT:
    """``network``, saved and loaded again with ``adapter`` folded in."""
    save_network(adapter.parent / "base.safetensors", network)
    return load_generator(adapter.parent / "base.safetensors", network.config, network.model_type, lora=adapter)


def require_close(network: JavisDiT, expected: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert network.state_dict().keys() == expected.keys()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor.float(), expected[name], rtol=0, atol=atol, msg=name)


def test_a_folder_of_peft_is_merged(make_network, adapted: Adapted) -> None:
    network = merged(make_network(), adapted.folder)
    require_close(network, adapted.expected)
    changed, base = (net.get_parameter("blocks.0.ffn.0.weight") for net in (network, make_network()))
    assert (changed - base).abs().max() > 0.1


def test_merging_predicts_as_peft_does(make_network, make_inputs, adapted: Adapted) -> None:
    inputs, network = make_inputs(), make_network()
    arguments = (inputs.latents, inputs.t, inputs.text, inputs.mask)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(make_network(), str(adapted.folder)).eval()(*arguments)
        ours = merged(network, adapted.folder).eval()(*arguments)
    for own, second in zip(ours, theirs, strict=True):
        assert (own - second).abs().max() <= 1e-4 * second.abs().max()


def test_a_release_is_merged_before_it_is_rounded(make_network, tiny_config, adapted: Adapted, tmp_path: Path) -> None:
    save_sharded(make_network(), tmp_path / "release" / "model", 10_000)
    adapted.folder.rename(tmp_path / "release" / "lora")
    whole = load_generator(tmp_path / "release", tiny_config, ModelType.T2AV)
    require_close(whole, adapted.expected)
    half = load_generator(tmp_path / "release", tiny_config, ModelType.T2AV, dtype=torch.bfloat16)
    assert state_hash(half) == state_hash(whole.bfloat16())
    base = load_generator(tmp_path / "release" / "model", tiny_config, ModelType.T2AV)
    assert state_hash(base) == state_hash(make_network())
    same = load_generator(
        tmp_path / "release" / "model", tiny_config, ModelType.T2AV, lora=tmp_path / "release" / "lora"
    )
    require_close(same, adapted.expected)
    assert checkpoint_hash(tmp_path / "release") != checkpoint_hash(tmp_path / "release" / "model")


def test_half_precision_weights_are_added_to_in_float32(make_network, adapted: Adapted) -> None:
    network = merged(make_network().bfloat16(), adapted.folder)
    exact = merged(make_network().bfloat16().float(), adapted.folder)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert state_hash(network) == state_hash(exact.bfloat16())


def as_bin(folder: Path) -> None:
    source = folder / "adapter_model.safetensors"
    torch.save(load_file(source), folder / "adapter_model.bin")
    source.unlink()


def test_peft_in_torchs_format_and_with_an_adapters_name(make_network, adapted: Adapted) -> None:
    source = adapted.folder / "adapter_model.safetensors"
    save_file(
        {name.replace(".weight", ".default.weight"): tensor for name, tensor in load_file(source).items()}, source
    )
    as_bin(adapted.folder)
    network = merged(make_network(), adapted.folder)
    require_close(network, adapted.expected)


@pytest.mark.parametrize("with_alpha", [True, False])
@pytest.mark.parametrize("sides", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
def test_single_files(make_network, adapted: Adapted, tmp_path: Path, prefix: str, sides, with_alpha: bool) -> None:
    """Under diffusers' module names where the prefix is theirs."""
    tensors: dict[str, Tensor] = {}
    for name, pair in read_lora(adapted.folder).factors.items():
        module = prefix + (diffusers_name(name) if prefix == "transformer." else name)
        scale = 1.0 if with_alpha else ALPHA / RANK
        tensors |= {f"{module}.{sides[0]}.weight": scale * pair.down, f"{module}.{sides[1]}.weight": pair.up.clone()}
        tensors |= {f"{module}.alpha": torch.tensor(float(ALPHA))} if with_alpha else {}
    save_file(tensors, tmp_path / "single.safetensors")
    network = merged(make_network(), tmp_path / "single.safetensors")
    require_close(network, adapted.expected)


def test_targets_follow_pefts_rules(make_network, tmp_path: Path) -> None:
    """``ffn.0`` is not ``audio_ffn.0``, unless an expression says so; text layers are linears too."""
    cases: list[list[str] | str] = [["ffn.0"], r".*ffn\.0", ["self_attn.q", "text_embedding.2"], "all-linear"]
    for number, targets in enumerate(cases):
        adapted = adapt(make_network(), tmp_path / str(number), targets)
        network = merged(make_network(), adapted.folder)
        require_close(network, adapted.expected)


def change(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_of_another_rank_is_refused(make_network, adapted: Adapted) -> None:
    change(adapted.folder, r=RANK + 1)
    with pytest.raises(InputError, match=r"has rank 3\nexpected: rank 4"):
        merged(make_network(), adapted.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, r"24 missing \(blocks\.2\.self_attn\.q\.lora_A\.weight"),
        ({"num_layers": 1}, r"24 unexpected \(blocks\.1\.audio_ffn\.0\.lora_A\.weight"),
        ({"ffn_dim": 48}, r"8 of another shape \(blocks\.0\.ffn\.0\.lora_B\.weight \(40, 3\) instead of \(48, 3\)"),
        ({"dual_ffn": False}, r"8 unexpected \(blocks\.0\.audio_ffn\.0"),
    ],
)
def test_an_adapter_of_another_base_is_refused(make_network, adapted: Adapted, changes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merged(make_network(**changes), adapted.folder)


def test_an_adapter_of_a_video_network_is_refused_by_a_joint_one(make_network, tmp_path: Path) -> None:
    """Its configuration names the audio layers; PEFT passed over what the video network lacks."""
    adapted = adapt(make_network(ModelType.T2V), tmp_path / "lora")
    with pytest.raises(InputError, match=r"8 missing \(blocks\.0\.audio_ffn\.0"):
        merged(make_network(), adapted.folder)


def test_configuration_must_name_what_the_file_has(make_network, adapted: Adapted) -> None:
    change(adapted.folder, target_modules=TARGETS[1:])
    with pytest.raises(InputError, match=r"4 unexpected \(blocks\.0\.self_attn\.q\.lora_A"):
        merged(make_network(), adapted.folder)
    change(adapted.folder, target_modules=[*TARGETS, "time_embedding.0"])
    with pytest.raises(InputError, match=r"2 missing \(time_embedding\.0\.lora_A"):
        merged(make_network(), adapted.folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_rslora": True}, "uses use_rslora"),
        ({"use_dora": True}, "uses use_dora"),
        ({"alpha_pattern": {"q": 2}}, "uses alpha_pattern"),
        ({"bias": "all"}, "uses bias"),
        ({"lora_alpha": None}, "cannot be read"),
        ({"target_modules": None}, "cannot be read"),
        ({"target_modules": "ffn.(0"}, "cannot be read"),
    ],
)
def test_other_kinds_of_adapters_are_refused(make_network, adapted: Adapted, values, message: str) -> None:
    change(adapted.folder, **values)
    with pytest.raises(InputError, match=message):
        merged(make_network(), adapted.folder)


def test_a_lost_half_a_foreign_tensor_and_a_broken_file_are_named(make_network, adapted: Adapted) -> None:
    path = adapted.folder / "adapter_model.safetensors"
    tensors, half = load_file(path), "base_model.model.blocks.1.cross_attn.v.lora_B.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != half}, path)
    with pytest.raises(InputError, match=r"blocks\.1\.cross_attn\.v has A\n"):
        read_lora(adapted.folder)
    save_file(tensors | {"base_model.model.blocks.0.self_attn.q.diff_b": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"1 tensors that are no LoRA factors \(base_model\.model\.blocks\.0.*diff_b"):
        read_lora(adapted.folder)
    save_file(tensors | {half: torch.zeros(24, RANK + 1)}, path)
    with pytest.raises(InputError, match=r"cross_attn\.v has A \(3, 24\) and B \(24, 4\)"):
        read_lora(adapted.folder)
    save_file(tensors | {"base_model.model.blocks.0.self_attn.q.alpha": torch.tensor(1.0)}, path)
    with pytest.raises(InputError, match="has A, B, alpha"):
        read_lora(adapted.folder)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read_lora(adapted.folder)


def test_what_is_no_adapter_is_refused(make_network, tiny_config, adapted: Adapted, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is part of a folder in PEFT"):
        read_lora(adapted.folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="is absent"):
        read_lora(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no whole adapter"):
        read_lora(tmp_path)
    save_sharded(make_network(), tmp_path / "model")
    with pytest.raises(InputError, match="no LoRA factors"):
        read_lora(tmp_path / "model" / "model.safetensors")
    with pytest.raises(InputError, match="holds an adapter"):
        load_generator(adapted.folder / "adapter_model.safetensors", tiny_config, ModelType.T2AV)
    (adapted.folder / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="no whole adapter"):
        read_lora(adapted.folder)


def test_single_files_adapt_every_block(make_network, adapted: Adapted, tmp_path: Path) -> None:
    save_comfyui_adapter(read_lora(adapted.folder), tmp_path / "whole.safetensors")
    kept = {n: t for n, t in load_file(tmp_path / "whole.safetensors").items() if ".1.self_attn.k." not in n}
    save_file(kept, tmp_path / "holes.safetensors")
    with pytest.raises(InputError, match=r"2 missing \(blocks\.1\.self_attn\.k\.lora_A"):
        merged(make_network(), tmp_path / "holes.safetensors")


def same(first: Lora, second: Lora) -> bool:
    return first.factors.keys() == second.factors.keys() and all(
        torch.equal(pair.down, second.factors[name].down)
        and torch.equal(pair.up, second.factors[name].up)
        and pair.alpha == second.factors[name].alpha
        for name, pair in first.factors.items()
    )


def test_exports_come_back_bit_for_bit(make_network, adapted: Adapted, tmp_path: Path) -> None:
    lora = read_lora(adapted.folder)
    save_comfyui_adapter(lora, tmp_path / "comfy" / "lora.safetensors")
    single = read_lora(tmp_path / "comfy" / "lora.safetensors")
    save_peft_adapter(single, tmp_path / "peft")
    assert same(lora, single) and same(lora, read_lora(tmp_path / "peft"))
    PeftModel.from_pretrained(make_network(), str(tmp_path / "peft"))
    assert (tmp_path / "peft" / "adapter_model.safetensors").read_bytes() == (
        adapted.folder / "adapter_model.safetensors"
    ).read_bytes()


def test_peft_adds_what_we_exported(make_network, adapted: Adapted, tmp_path: Path) -> None:
    save_peft_adapter(read_lora(adapted.folder), tmp_path / "peft")
    merged = PeftModel.from_pretrained(make_network(), str(tmp_path / "peft")).merge_and_unload()
    require_close(merged, adapted.expected)


def test_unequal_linears_fit_no_configuration_of_peft(adapted: Adapted, tmp_path: Path) -> None:
    save_comfyui_adapter(read_lora(adapted.folder), tmp_path / "lora.safetensors")
    tensors = load_file(tmp_path / "lora.safetensors")
    tensors["diffusion_model.blocks.0.self_attn.q.alpha"] += 1
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match="2 pairs of rank and alpha"):
        save_peft_adapter(read_lora(tmp_path / "lora.safetensors"), tmp_path / "peft")


@pytest.mark.filterwarnings(*QUIET)
def test_a_plain_wan_pipeline_takes_the_video_part(make_network, make_inputs, tmp_path: Path) -> None:
    """The ComfyUI file of the video part, through diffusers' own converter and layers, gives our merged network's answers."""
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
    from diffusers.models import WanTransformer3DModel

    config = NetworkConfig(
        dim=48, ffn_dim=56, freq_dim=16, text_dim=10, text_len=6, num_heads=2, num_layers=2, in_dim=3, audio_in_dim=2
    )
    joint = make_network(**vars(config))
    save_diffusers(joint, tmp_path / "wan")
    ours = load_generator(tmp_path / "wan", config, ModelType.T2V)
    lora = read_lora(adapt(joint, tmp_path / "lora").folder).video_only()
    save_comfyui_adapter(lora, tmp_path / "video.safetensors")
    ours = merged(ours, tmp_path / "video.safetensors")
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "wan")
    theirs.load_lora_adapter(WanLoraLoaderMixin.lora_state_dict(load_file(tmp_path / "video.safetensors")))
    inputs = make_inputs(ModelType.T2V)
    with torch.no_grad():
        own = ours.eval()(inputs.latents, inputs.t, inputs.text, torch.ones_like(inputs.mask)).video
        second = theirs.eval()(inputs.latents.video, inputs.t * 1000, inputs.text, return_dict=False)[0]
    assert len(lora.factors) == 2 * 10 and (own - second).abs().max() <= 1e-4 * second.abs().max()


def test_the_released_adapter_at_full_size(full_size, tmp_path: Path) -> None:
    """720 tensors, 127,795,200 parameters, 360 linears; every tensor is one stored number, stretched."""
    network = full_size()
    tensors: dict[str, Tensor] = {}
    for block in range(30):
        for target in TARGETS:
            outputs, inputs = network.blocks[block].get_submodule(target).weight.shape
            name = f"base_model.model.blocks.{block}.{target}"
            tensors[f"{name}.lora_A.weight"] = torch.zeros(1).expand(64, inputs)
            tensors[f"{name}.lora_B.weight"] = torch.zeros(1).expand(outputs, 64)
    torch.save(tensors, tmp_path / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 64, "lora_alpha": 16, "bias": "none", "target_modules": TARGETS}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    lora = read_lora(tmp_path)
    lora.require_fit(network)
    sizes = [pair.down.numel() + pair.up.numel() for pair in lora.factors.values()]
    assert (len(tensors), len(sizes), sum(sizes)) == (720, 360, 127_795_200)
    assert {pair.alpha / pair.rank for pair in lora.factors.values()} == {0.25}
    del tensors["base_model.model.blocks.29.audio_ffn.2.lora_A.weight"]
    del tensors["base_model.model.blocks.29.audio_ffn.2.lora_B.weight"]
    torch.save(tensors, tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match=r"2 missing \(blocks\.29\.audio_ffn\.2") as caught:
        read_lora(tmp_path).require_fit(network)
    assert caught.value.expected == "exactly 720 tensors"
