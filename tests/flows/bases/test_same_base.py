"""Workers and trainers with another version of a user's base model than the command's are refused."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from outside_modules import write_module
from safetensors.torch import load_file

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.errors import ClusterError
from avpref.flows.retrain import retrain
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.same_base import SameBaseSpec, on_same_base
from avpref.flows.stages.sft import sft
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.generator import NetworkFiles, base_of
from avpref.models.bases.base_opening import open_base
from avpref.outside.source_version import _hash
from avpref.storage.run_folder import RunFolder, create, open_root
from avpref.trainer.job import JOB

GUIDE = (Path(__file__).parents[3] / "docs" / "write-a-base-model.md").read_text(encoding="utf-8")
CHANGED = ("self.wide(self.norm(x))", "self.wide(x)")


def block(language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[0]


def write_base(folder: Path, name: str, is_changed: bool) -> None:
    source = block("python")
    write_module(folder, name, source.replace(*CHANGED) if is_changed else source)


@pytest.fixture
def own_run(workplace: Path) -> RunFolder:
    """A run on the guide's base model, as module ``same_cells`` of the working directory."""
    open_base.cache_clear()
    write_base(workplace, "same_cells", is_changed=False)
    (workplace / "mine.yaml").write_text(block("yaml").replace("cells:Cells", "same_cells:Cells"), encoding="utf-8")
    return create(workplace / "runs", load_config("mine.yaml", environment={}).settings)


def become_another_process() -> None:
    """Forget the class and what was derived from it, as a process that has not imported it yet."""
    open_base.cache_clear()
    _hash.cache_clear()
    sys.modules.pop("same_cells", None)


def generate_spec(run: RunFolder) -> GenerateSpec:
    network = NetworkFiles(run.root / "absent.safetensors", "0" * 64)
    return GenerateSpec(run.files, run.models, run.runs, run.settings, run.units(tables.CANDIDATES), network)


def test_a_worker_with_another_version_of_the_class_is_refused(own_run: RunFolder, workplace: Path) -> None:
    spec = on_same_base(generate_spec(own_run), own_run.settings)
    ours = base_of(own_run.settings).version
    assert isinstance(spec, SameBaseSpec) and spec.version == ours
    become_another_process()
    write_base(workplace, "same_cells", is_changed=True)
    with pytest.raises(ClusterError, match="same_cells:Cells") as caught:
        spec.build()
    theirs = base_of(own_run.settings).version
    assert ours != theirs and f"version {theirs}" in caught.value.found and ours in caught.value.found
    become_another_process()
    write_base(workplace, "same_cells", is_changed=False)
    with pytest.raises(Exception, match="absent"):
        spec.build()


def test_a_module_is_found_in_the_folder_of_the_command(own_run: RunFolder, tmp_path: Path, monkeypatch) -> None:
    spec = on_same_base(generate_spec(own_run), own_run.settings)
    become_another_process()
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="absent"):
        spec.build()


def test_the_built_in_base_model_needs_no_check(tiny_run: RunFolder) -> None:
    spec = generate_spec(tiny_run)
    assert on_same_base(spec, tiny_run.settings) is spec
    assert Run.of(tiny_run).training_job.base_version == ""


def test_a_process_of_a_training_with_another_version_is_refused(tiny_run: RunFolder, own_run: RunFolder) -> None:
    ours = base_of(own_run.settings).version
    job = replace(Run.of(tiny_run).training_job, base=own_run.settings.base, network=None, base_version=ours)
    sent = JOB.dump_json(job)
    assert JOB.validate_json(sent).base_model.version == ours
    other = replace(job, base=own_run.settings.base.model_copy(update={"settings": {"width": 20}}))
    with pytest.raises(ClusterError, match=ours):
        other.base_model  # noqa: B018


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_actors_import_the_class_and_refuse_another_version(own_run: RunFolder, workplace: Path) -> None:
    settings = load_config("mine.yaml", ["executor={kind: ray, num_actors: 2}"], environment={}).settings
    run = Run.of(create(own_run.runs, settings))
    ours = base_of(settings).version
    with run.locked():
        prompts.fn(run)
        sft.fn(run)
        write_base(workplace, "same_cells", is_changed=True)
        with pytest.raises(ClusterError, match="same_cells:Cells") as caught:
            generate.fn(run)
        assert f"the command has {ours}" in caught.value.found
        write_base(workplace, "same_cells", is_changed=False)
        assert generate.fn(run).rows > 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_on_actors_and_ray_train_has_the_pairs_and_the_adapter_of_one_process(
    own_run: RunFolder, workplace: Path
) -> None:
    on_ray = ["executor={kind: ray, num_actors: 2}", "dpo.loop.launcher=ray"]
    ends = {}
    for name, changes in (("alone", []), ("actors", on_ray)):
        document = retrain.fn("mine.yaml", str(workplace / name), None, changes)
        run = Run.of(open_root(Path(document["run_dir"])))
        adapter = load_file((run.policy.adapter or Path()) / "adapter_model.safetensors")
        pairs = run.tables.read(tables.PAIRS).drop_columns(["norm_id"])  # it names the run
        ends[name] = pairs.to_pylist(), adapter
    alone, actors = ends["alone"], ends["actors"]
    assert alone[0] == actors[0] != []
    assert alone[1].keys() == actors[1].keys()
    for key, value in alone[1].items():
        torch.testing.assert_close(actors[1][key], value, atol=1e-6, rtol=0)
