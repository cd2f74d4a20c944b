"""Given weights with an SFT adapter beside them: what stage ``sft`` keeps for layout ``two_adapters``, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from given_adapters import RANK, TINY, overrides_of, save_base, save_random_adapter
from safetensors.torch import load_file, save_file

from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.errors import AvprefError, ConfigError, InputError
from avpref.flows.before_first_stage import check_before_first_stage
from avpref.flows.dry_run import estimate
from avpref.flows.run import Run
from avpref.flows.stages.sft import sft
from avpref.models.checkpoints.exporting import save_comfyui_adapter
from avpref.models.checkpoints.lora_files import read_lora
from avpref.storage.run_folder import create
from avpref.trainer.adapter_files import WEIGHTS_FILE, read_adapter_config, read_adapter_weights

MERGED = "--set dpo.adapter.layout=merged"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network's file and the folder of an adapter of it."""
    folder = tmp_path_factory.mktemp("given")
    return save_base(folder / "base.safetensors"), save_random_adapter(folder / "lora")


def settings_of(*overrides: str) -> Settings:
    return load_config(TINY, overrides, {}).settings


def converted(runs: Path, *overrides: str) -> Run:
    """A run in ``runs`` after stage ``sft``."""
    run = Run.of(create(runs, settings_of(*overrides)))
    sft.fn(run)
    return run


def refusal(settings: Settings) -> AvprefError:
    with pytest.raises((ConfigError, InputError)) as caught:
        check_before_first_stage(settings)
    return caught.value


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_network_weights_under_the_adapter_and_adapter_are_kept(
    files: tuple[Path, Path], tmp_path: Path, dtype: str
) -> None:
    run = converted(tmp_path, *overrides_of(*files, dtype=dtype))
    assert run.sft_adapter is not None and run.weights_under is not None
    torch_dtype = getattr(torch, dtype)
    base, under, network = (load_file(path) for path in (files[0], run.weights_under, run.sft.checkpoint))
    given, kept = (read_adapter_weights(folder) for folder in (files[1], run.sft_adapter))
    assert all(torch.equal(under[name], value.to(torch_dtype)) for name, value in base.items())
    assert given.keys() == kept.keys()
    scale = read_adapter_config(run.sft_adapter).scale
    for name, (down, up) in given.items():
        assert torch.equal(kept[name][0], down) and torch.equal(kept[name][1], up)
        folded = (base[f"{name}.weight"] + scale * up @ down).to(torch_dtype)
        torch.testing.assert_close(network[f"{name}.weight"], folded)
        assert not torch.equal(network[f"{name}.weight"], under[f"{name}.weight"])


def test_the_network_of_layout_merged_is_the_same_and_gets_its_parts_later(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    merged = converted(tmp_path, *overrides_of(*files), "dpo.adapter.layout=merged")
    assert merged.sft_adapter is None and merged.weights_under is None
    before = merged.sft.checkpoint.stat()
    run = converted(tmp_path, *overrides_of(*files))
    assert run.sft == merged.sft and run.sft.checkpoint.stat().st_mtime_ns == before.st_mtime_ns
    assert run.weights_under is not None and run.weights_under.exists()


def test_layouts_of_other_programs_give_the_same_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A release folder with ``model/`` and ``lora/``, and one file with ComfyUI's names and a scale per layer."""
    release = tmp_path / "release"
    (release / "model").mkdir(parents=True)
    shutil.copy(files[0], release / "model" / "model.safetensors")
    shutil.copytree(files[1], release / "lora")
    save_comfyui_adapter(read_lora(files[1]), tmp_path / "comfyui.safetensors")
    pairs: list[tuple[Path, Path | str]] = [files, (release, ""), (files[0], tmp_path / "comfyui.safetensors")]
    runs = [converted(tmp_path, *overrides_of(*pair)) for pair in pairs]
    folders = [run.sft_output for run in runs]
    assert len(set(folders)) == 3, "folders are named by the given files"
    for name in ("network.safetensors", "under_adapter.safetensors", f"adapter/{WEIGHTS_FILE}"):
        first, *others = (load_file(folder / name) for folder in folders)
        for other in others:
            assert first.keys() == other.keys() and all(torch.equal(first[key], other[key]) for key in first)


def test_another_adapter_file_is_another_network(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = save_random_adapter(tmp_path / "other", seed=6)
    first, second = (Run.of(create(tmp_path, settings_of(*overrides_of(files[0], lora)))) for lora in (files[1], other))
    assert first.sft_output != second.sft_output and first.run_id != second.run_id
    shutil.copy(files[1] / WEIGHTS_FILE, other / WEIGHTS_FILE)
    assert Run.of(second).sft_output == first.sft_output, "the bytes count, not the name"


def test_an_adapter_of_another_rank_or_alpha_is_refused_with_the_setting_to_change(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    lora = save_random_adapter(tmp_path / "lora", rank=RANK + 1)
    error = refusal(settings_of(*overrides_of(files[0], lora)))
    assert "rank 5, alpha 2" in error.found and "rank 4, alpha 2" in error.expected
    overrides = (*overrides_of(files[0], lora), *error.fix.replace("--set ", "").split())
    check_before_first_stage(settings_of(*overrides))


def test_an_adapter_of_another_base_is_refused_with_the_layers_that_differ(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    wider = save_random_adapter(tmp_path / "wider", "network.ffn_dim=96")
    error = refusal(settings_of(*overrides_of(files[0], wider)))
    assert str(wider) in error.found and "ffn" in error.found and "sft.lora" in error.fix
    with pytest.raises(InputError):
        converted(tmp_path, *overrides_of(files[0], wider))
    assert not list((tmp_path / "networks").rglob("*.safetensors"))


def test_an_adapter_of_fewer_layers_than_the_policys_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(files[1], fewer)
    tensors = load_file(fewer / WEIGHTS_FILE)
    save_file({name: value for name, value in tensors.items() if "ffn" not in name}, fewer / WEIGHTS_FILE)
    error = refusal(settings_of(*overrides_of(files[0], fewer)))
    assert "missing" in error.found and "ffn" in error.found and MERGED in error.fix


def test_weights_without_an_adapter_beside_them_are_refused(files: tuple[Path, Path]) -> None:
    for network in (files[0], "shipped:toyworld"):
        error = refusal(settings_of(*overrides_of(Path(network), "")))
        assert "no LoRA adapter beside it" in error.found and "sft.lora" in error.fix and MERGED in error.fix


def test_an_adapter_that_the_network_holds_already_is_not_folded_in_again(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    """SFT of the product writes both into one folder. Neither layout may add the adapter a second time."""
    shutil.copy(files[0], tmp_path / "network.safetensors")
    shutil.copytree(files[1], tmp_path / "adapter")
    for network in (tmp_path, tmp_path / "network.safetensors"):
        for layout in ("merged", "two_adapters"):
            overrides = (*overrides_of(network, tmp_path / "adapter"), f"dpo.adapter.layout={layout}")
            error = refusal(settings_of(*overrides))
            assert "is folded into" in error.found and MERGED in error.fix


def test_an_absent_adapter_stops_the_stage_and_not_the_dry_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = overrides_of(files[0], tmp_path / "absent")
    check_before_first_stage(settings_of(*overrides))
    with pytest.raises(InputError, match="absent"):
        converted(tmp_path, *overrides)


def test_the_dry_run_counts_the_files_and_the_second_adapter(files: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = overrides_of(*files)
    run = converted(tmp_path, *overrides)
    two, merged = (
        estimate(settings_of(*overrides, f"dpo.adapter.layout={layout}")) for layout in ("two_adapters", "merged")
    )
    counted = {row.name: row.num_bytes or 0 for row in two.stages}["sft"]
    written = sum(path.stat().st_size for path in run.sft_output.rglob("*.safetensors"))
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in run.sft_output.rglob("*.safetensors"))
    assert counted == written - headers
    assert two.trainings[-1].memory.weights > merged.trainings[-1].memory.weights
