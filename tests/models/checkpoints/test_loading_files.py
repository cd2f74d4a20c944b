"""Every layout of files into the same network, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from network_states import state_hash
from safetensors.torch import load_file, save_file
from torch import Tensor

from avpref.errors import InputError, SchemaVersionError
from avpref.models.checkpoints.checkpoint_files import checkpoint_hash
from avpref.models.checkpoints.exporting import save_sharded, write_shards
from avpref.models.checkpoints.network_loading import load_generator, save_network, with_audio_from_video
from avpref.models.checkpoints.weight_layouts import is_audio
from avpref.models.dit import JavisDiT, ModelType
from avpref.models.initialisation import with_audio_started

Save = Callable[[Mapping[str, Tensor], Path], Path]


def as_safetensors(state: Mapping[str, Tensor], folder: Path) -> Path:
    save_file(dict(state), folder / "wan.safetensors")
    return folder / "wan.safetensors"


def as_torch(state: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save(dict(state), folder / "wan.pth")
    return folder / "wan.pth"


def as_bin_shards(state: Mapping[str, Tensor], folder: Path) -> Path:
    """As the original's trainer writes ``model/``: torch's files and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for number in range(3):
        file = f"pytorch_model-{number + 1:05d}.bin"
        torch.save({name: state[name] for name in names[number::3]}, folder / file)
        weight_map |= dict.fromkeys(names[number::3], file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def as_safetensors_shards(state: Mapping[str, Tensor], folder: Path) -> Path:
    write_shards(state, folder / "shards", "model", 8_000)
    assert len(list((folder / "shards").glob("*.safetensors"))) > 3
    return folder / "shards"


def as_release(state: Mapping[str, Tensor], folder: Path) -> Path:
    as_bin_shards(state, folder / "model")
    return folder


def as_wrapped(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Names with the additions of distributed and PEFT wrappers."""
    linear = re.compile(r"(\.[qkvo]|ffn\.[02])\.(weight|bias)$")
    named = {"module.base_model.model." + linear.sub(r"\1.base_layer.\2", name): t for name, t in state.items()}
    assert any(".base_layer." in name for name in named)
    return as_safetensors(named, folder)


LAYOUTS = [as_safetensors, as_torch, as_bin_shards, as_safetensors_shards, as_release, as_wrapped]


@pytest.mark.parametrize("model_type", list(ModelType))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(make_network, tiny_config, tmp_path, layout: Save, model_type) -> None:
    network = make_network(model_type)
    loaded = load_generator(layout(network.state_dict(), tmp_path), tiny_config, model_type)
    assert state_hash(loaded) == state_hash(network)
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in loaded.parameters())


def test_our_own_file_and_its_metadata(make_network, tiny_config, tmp_path: Path) -> None:
    save_network(tmp_path / "own.safetensors", make_network(), {"step": "3"})
    loaded = load_generator(tmp_path / "own.safetensors", tiny_config, ModelType.T2AV)
    assert state_hash(loaded) == state_hash(make_network())
    with pytest.raises(InputError, match="saved with audio_pe_type=interleave_offset"):
        load_generator(tmp_path, replace(tiny_config, audio_pe_type="vanilla"), ModelType.T2AV)
    save_file(
        load_file(tmp_path / "own.safetensors"), tmp_path / "own.safetensors", {"avpref": '{"avpref_schema": "9"}'}
    )
    with pytest.raises(SchemaVersionError, match="schema 9"):
        load_generator(tmp_path, tiny_config, ModelType.T2AV)


def test_dtype_is_chosen_or_the_files(make_network, tiny_config, tmp_path: Path) -> None:
    path = as_torch(make_network().bfloat16().state_dict(), tmp_path)
    kept = load_generator(path, tiny_config, ModelType.T2AV)
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.bfloat16}
    wide = load_generator(path, tiny_config, ModelType.T2AV, dtype=torch.float32)
    assert state_hash(wide) == state_hash(kept.float())


def test_mixed_dtypes_are_a_choice_to_be_made(make_network, tiny_config, tmp_path: Path) -> None:
    state = make_network().bfloat16().state_dict()
    state["time_embedding.0.weight"] = state["time_embedding.0.weight"].float()
    path = as_safetensors(state, tmp_path)
    with pytest.raises(InputError, match=r"mixes torch\.bfloat16, torch\.float32"):
        load_generator(path, tiny_config, ModelType.T2AV)
    loaded = load_generator(path, tiny_config, ModelType.T2AV, dtype=torch.float32)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_loaded_network_does_not_write_into_its_files(make_network, tiny_config, tmp_path: Path) -> None:
    for layout in (as_safetensors, as_torch):
        path = layout(make_network().state_dict(), tmp_path)
        before = path.read_bytes()
        with torch.no_grad():
            for parameter in load_generator(path, tiny_config, ModelType.T2AV).parameters():
                parameter.add_(1)
        assert path.read_bytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_extra_and_misshapen_tensors_are_named(make_network, tiny_config, tmp_path, layout: Save) -> None:
    state = make_network().state_dict()
    del state["blocks.1.audio_ffn.2.bias"]
    state |= {"blocks.1.surplus": torch.zeros(2), "head.head.bias": torch.zeros(7)}
    with pytest.raises(InputError) as caught:
        load_generator(layout(state, tmp_path), tiny_config, ModelType.T2AV)
    message = str(caught.value)
    assert "a t2av network under original Wan names" in message
    assert "1 missing (blocks.1.audio_ffn.2.bias)" in message
    assert "1 unexpected (blocks.1.surplus)" in message
    assert "1 of another shape (head.head.bias (7,) instead of (12,))" in message


def test_a_video_file_never_becomes_a_joint_network_silently(make_network, tiny_config, tmp_path: Path) -> None:
    path = as_safetensors(make_network(ModelType.T2V).state_dict(), tmp_path)
    for wanted in (ModelType.T2AV, ModelType.T2A):
        with pytest.raises(InputError, match="missing \\(audio_patch_embedding") as caught:
            load_generator(path, tiny_config, wanted)
        assert "a t2v network" in caught.value.found
        assert "with_audio_from_video" in caught.value.fix and "audio_from" in caught.value.fix


@pytest.mark.parametrize(
    ("held", "wanted", "fix"),
    [(ModelType.T2A, ModelType.T2AV, "audio_from"), (ModelType.T2AV, ModelType.T2V, "video_only")],
)
def test_another_model_type_is_named(make_network, tiny_config, tmp_path: Path, held, wanted, fix: str) -> None:
    path = as_safetensors(make_network(held).state_dict(), tmp_path)
    with pytest.raises(InputError, match=f"a {held} network") as caught:
        load_generator(path, tiny_config, wanted)
    assert fix in caught.value.fix


def test_tensors_that_the_original_never_uses_are_ignored(make_network, tiny_config, tmp_path: Path) -> None:
    state = make_network().state_dict() | {"start_of_audio": torch.zeros(2), "end_of_audio": torch.zeros(2)}
    loaded = load_generator(as_safetensors(state, tmp_path), tiny_config, ModelType.T2AV)
    assert state_hash(loaded) == state_hash(make_network())


def truncated(path: Path) -> None:
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size * 2 // 3)


@pytest.mark.parametrize("layout", [as_safetensors, as_torch, as_bin_shards, as_safetensors_shards])
def test_half_written_files_are_refused(make_network, tiny_config, tmp_path: Path, layout: Save) -> None:
    path = layout(make_network().state_dict(), tmp_path)
    victim = path if path.is_file() else sorted(path.glob("*model-00002*"))[0]
    truncated(victim)
    with pytest.raises(InputError, match=f"{victim.name}"):
        load_generator(path, tiny_config, ModelType.T2AV)


@pytest.mark.parametrize("layout", [as_bin_shards, as_safetensors_shards])
def test_shards_must_be_those_of_the_index(make_network, tiny_config, tmp_path: Path, layout: Save) -> None:
    folder = layout(make_network().state_dict(), tmp_path)
    (index,) = folder.glob("*.index.json")
    content = json.loads(index.read_text())
    name, file = next(iter(content["weight_map"].items()))
    for changed, message in (
        ({name: "../elsewhere.bin"}, "names ../elsewhere.bin"),
        ({name: "gone.safetensors"}, "names gone.safetensors"),
        ({"surplus": file}, r"1 tensors differ from the index \(surplus\)"),
    ):
        index.write_text(json.dumps({"weight_map": content["weight_map"] | changed}))
        with pytest.raises(InputError, match=message):
            load_generator(folder, tiny_config, ModelType.T2AV)
    for broken in ("{", "[]", '{"weight_map": {}}', '{"weight_map": 3}'):
        index.write_text(broken)
        with pytest.raises(InputError, match=re.escape(index.name)):
            load_generator(folder, tiny_config, ModelType.T2AV)


def test_what_a_folder_means_is_never_guessed(make_network, tiny_config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is absent"):
        load_generator(tmp_path / "gone", tiny_config, ModelType.T2AV)
    with pytest.raises(InputError, match="holds no file of weights"):
        load_generator(tmp_path, tiny_config, ModelType.T2AV)
    first = as_safetensors(make_network().state_dict(), tmp_path)
    as_torch({"vae": torch.zeros(1)}, tmp_path)
    assert state_hash(load_generator(tmp_path, tiny_config, ModelType.T2AV)) == state_hash(make_network())
    first.with_name("second.safetensors").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"second\.safetensors, wan\.safetensors"):
        load_generator(tmp_path, tiny_config, ModelType.T2AV)


@pytest.mark.parametrize("content", [{"state": {"a": torch.zeros(1)}}, {"epoch": 3}, [torch.zeros(1)], {}])
def test_a_file_that_holds_no_network_is_refused(tiny_config, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd\.pt"):
        load_generator(tmp_path / "odd.pt", tiny_config, ModelType.T2AV)


def test_a_name_that_comes_twice_is_refused(make_network, tiny_config, tmp_path: Path) -> None:
    state = make_network().state_dict()
    path = as_safetensors(state | {"module.head.head.bias": state["head.head.bias"].clone()}, tmp_path)
    with pytest.raises(InputError, match=r"head\.head\.bias comes twice"):
        load_generator(path, tiny_config, ModelType.T2AV)


def start_audio(audio: JavisDiT, video: Mapping[str, Tensor]) -> None:
    """The audio-only network at the start of the paper's stage 1."""
    audio.load_state_dict(with_audio_started(audio, video, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_stage_1_audio_weights_complete_a_video_file(make_network, tiny_config, tmp_path: Path, dtype) -> None:
    video, audio = make_network(ModelType.T2V), make_network(ModelType.T2A)
    start_audio(audio, video.state_dict())
    with torch.no_grad():
        for name, parameter in audio.named_parameters():
            if is_audio(name):
                parameter.add_(1)
    path = as_safetensors(video.state_dict(), tmp_path)
    rounded = audio.to(torch.bfloat16).float() if dtype else audio
    stored = {name: tensor.to(dtype or tensor.dtype) for name, tensor in audio.state_dict().items()}
    stage_1 = as_release(stored, tmp_path / "stage1")
    joint = load_generator(path, tiny_config, ModelType.T2AV, audio_from=stage_1, dtype=torch.float32).state_dict()
    assert all(torch.equal(joint[name], tensor) for name, tensor in video.state_dict().items())
    assert all(torch.equal(joint[name], rounded.state_dict()[name]) for name in joint if is_audio(name))


def test_audio_weights_of_another_base_are_refused(make_network, tiny_config, tmp_path: Path) -> None:
    video, audio = make_network(ModelType.T2V).state_dict(), make_network(ModelType.T2A)
    start_audio(audio, video)
    with torch.no_grad():
        audio.blocks[1].self_attn.k.weight[3, 4] += 0.01
    as_torch(audio.state_dict(), tmp_path)
    path = as_safetensors(video, tmp_path)
    with pytest.raises(InputError, match=r"1 of \d+ frozen tensors differ \(blocks\.1\.self_attn\.k\.weight\)"):
        load_generator(path, tiny_config, ModelType.T2AV, audio_from=tmp_path / "wan.pth")


@pytest.mark.parametrize("model_type", [ModelType.T2A, ModelType.T2AV])
def test_the_audio_branch_starts_as_in_stage_1(make_network, tiny_config, tmp_path: Path, model_type) -> None:
    video = make_network(ModelType.T2V)
    path = as_safetensors(video.state_dict(), tmp_path)

    def start(seed: int) -> JavisDiT:
        return with_audio_from_video(path, tiny_config, model_type, torch.Generator().manual_seed(seed))

    state = start(3).state_dict()
    assert state.keys() == make_network(model_type).state_dict().keys()
    assert torch.equal(state["blocks.1.audio_ffn.2.weight"], video.state_dict()["blocks.1.ffn.2.weight"])
    for name, tensor in video.state_dict().items():
        assert model_type is ModelType.T2A or torch.equal(state[name], tensor), name
    assert not state["audio_head.head.weight"].any() and not state["audio_head.head.bias"].any()
    fan_in, fan_out = state["audio_patch_embedding.weight"][0].numel(), tiny_config.dim
    bound = (6 / (fan_in + fan_out)) ** 0.5
    assert 0.8 * bound < state["audio_patch_embedding.weight"].abs().max().item() <= bound
    assert 0.7 * fan_in**-0.5 < state["audio_patch_embedding.bias"].abs().max().item() <= fan_in**-0.5
    assert state["audio_head.modulation"].std().item() == pytest.approx(fan_out**-0.5, rel=0.4)
    assert state_hash(start(3)) == state_hash(start(3)) != state_hash(start(4))


def test_copies_of_the_video_branch_are_copies(make_network, tiny_config, tmp_path: Path) -> None:
    path = as_safetensors(make_network(ModelType.T2V).state_dict(), tmp_path)
    started = with_audio_from_video(path, tiny_config, ModelType.T2AV, torch.Generator().manual_seed(1))
    kept = started.get_parameter("blocks.0.ffn.0.weight").clone()
    with torch.no_grad():
        started.get_parameter("blocks.0.audio_ffn.0.weight").add_(1)
    assert torch.equal(started.get_parameter("blocks.0.ffn.0.weight"), kept)
    save_network(tmp_path / "whole.safetensors", started)


def test_the_released_folder_at_full_size(full_size, tmp_path: Path) -> None:
    """982 names in shards of torch's files beside 720 factors; every tensor is one stored number, stretched."""
    config = full_size().config
    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in full_size().state_dict().items()}
    state |= {f"{name}.default.weight": torch.zeros(1).expand(shape) for name, shape in full_size_factors().items()}
    assert len(state) == 982 + 720
    as_bin_shards(state, tmp_path / "model")
    loaded = load_generator(tmp_path / "model", config, ModelType.T2AV)
    assert len(loaded.state_dict()) == 982
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 2_252_388_960
    with pytest.raises(InputError, match=r"720 tensors in model/\) but has no lora/"):
        load_generator(tmp_path, config, ModelType.T2AV)


def full_size_factors() -> dict[str, tuple[int, int]]:
    widths = {"self_attn": (1536, 1536), "cross_attn": (1536, 1536)}
    targets = {f"{attention}.{q}": shape for attention, shape in widths.items() for q in "qkvo"}
    targets |= {f"{ffn}.0": (8960, 1536) for ffn in ("ffn", "audio_ffn")}
    targets |= {f"{ffn}.2": (1536, 8960) for ffn in ("ffn", "audio_ffn")}
    factors = {}
    for block in range(30):
        for target, (outputs, inputs) in targets.items():
            factors[f"blocks.{block}.{target}.lora_A"] = (64, inputs)
            factors[f"blocks.{block}.{target}.lora_B"] = (outputs, 64)
    return factors


def test_full_size_safetensors_stay_on_the_disk(full_size, tmp_path: Path) -> None:
    """A file of 4.5 GB (a header and a hole) is loaded without being read."""
    header, end = {}, 0
    for name, tensor in full_size().state_dict().items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + 2 * tensor.numel()]}
        end += 2 * tensor.numel()
    data = json.dumps(header).encode()
    with open(tmp_path / "javis.safetensors", "wb") as stream:
        stream.write(len(data).to_bytes(8, "little") + data)
        stream.truncate(stream.tell() + end)
    before = anonymous_bytes()
    loaded = load_generator(tmp_path / "javis.safetensors", full_size().config, ModelType.T2AV)
    assert len(list(loaded.parameters())) == 982 and end == 2 * 2_252_388_960
    assert anonymous_bytes() - before < end / 20


def anonymous_bytes() -> int:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is measured on Linux")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def test_hash_of_a_checkpoint(make_network, tmp_path: Path) -> None:
    for name in ("a", "b"):
        as_release(make_network().state_dict(), tmp_path / name)
    first = checkpoint_hash(tmp_path / "a")
    assert re.fullmatch("[0-9a-f]{64}", first) and first == checkpoint_hash(tmp_path / "b")
    (tmp_path / "b" / "lora").mkdir()
    (tmp_path / "b" / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="no whole adapter"):
        checkpoint_hash(tmp_path / "b")
    (tmp_path / "b" / "lora" / "adapter_model.bin").write_bytes(b"x")
    with_adapter = checkpoint_hash(tmp_path / "b")
    (tmp_path / "b" / "lora" / "adapter_config.json").write_text('{"r": 2}')
    model = sorted((tmp_path / "a" / "model").glob("*.bin"))[0]
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    changed = [
        checkpoint_hash(tmp_path / "b"),
        checkpoint_hash(tmp_path / "a"),
        checkpoint_hash(tmp_path / "b" / "lora"),
    ]
    assert len({first, with_adapter, *changed}) == 5
    with pytest.raises(InputError, match="is absent"):
        checkpoint_hash(tmp_path / "gone")


def test_hash_of_one_file_is_not_that_of_its_name(make_network, tmp_path: Path) -> None:
    path = as_safetensors(make_network().state_dict(), tmp_path)
    before = checkpoint_hash(path)
    assert checkpoint_hash(path.rename(tmp_path / "moved.safetensors")) == before


def test_a_folder_of_our_shards_round_trips(make_network, tiny_config, tmp_path: Path) -> None:
    network = make_network().bfloat16()
    for number, size in enumerate((1, 5_000, 10**9)):
        save_sharded(network, tmp_path / str(number), size)
        assert state_hash(load_generator(tmp_path / str(number), tiny_config, ModelType.T2AV)) == state_hash(network)
    with pytest.raises(InputError, match="saved with"):
        load_generator(tmp_path / "0", replace(tiny_config, audio_pe_type="vanilla"), ModelType.T2AV)
    with pytest.raises(InputError, match="holds weights already"):
        save_sharded(network, tmp_path / "0")
