"""The gate inside a run: sequential evaluation that ends early, and the alias that a finished run moves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from avpref.config.loading import config_to_yaml, load_config
from avpref.datasets import tables
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.collect_report import collect
from avpref.flows.stages.evaluate import evaluate, held_out_parts
from avpref.registry import aliases, decisions, promotion
from avpref.storage.run_folder import RunFolder, open_root

GUIDE = Path(__file__).parents[2] / "docs" / "gate.md"
EASY = "min_audio_delta_sd: -1.0e+9, min_av_ci_low_sd: -1.0e+9, min_video_ci_low_sd: -1.0e+9, max_displacement: 1.0e+9"
LOOKS = "{kind: sequential, look_prompts: 3}"


def with_settings(folder: RunFolder, *overrides: str) -> RunFolder:
    """The run with other settings of the stages after training."""
    settings = load_config(folder.root / "config.yaml", overrides, environment={}).settings
    (folder.root / "config.yaml").write_text(config_to_yaml(settings))
    return open_root(folder.root)


def test_evaluation_ends_at_the_first_look_that_decides_and_makes_no_more_clips(
    tiny_copy: Callable[..., RunFolder], finished_marks: Callable[[Path], dict[str, object]]
) -> None:
    copy = tiny_copy("evaluate")
    folder = with_settings(copy, f"evaluation.procedure={LOOKS}", "evaluation.gate.min_audio_delta_sd=1e9")
    assert [len(part) for part in held_out_parts(Run.of(folder))] == [3, 5]
    assert evaluate.fn(Run.of(folder)).rows == 3
    seen = set(folder.tables.read(tables.EVALUATIONS)["prompt_id"].to_pylist())
    assert seen == {prompt.prompt_id for prompt in held_out_parts(Run.of(folder))[0]}
    record = decisions.read_decision(folder)
    assert record.verdict == "refuse" and record.inputs["num_held_out"] == 8
    assert set(record.inputs["prompts"]) == seen
    assert decisions.replay_decision(folder).agrees
    data = collect(Run.of(folder))
    assert len(data.held_out.clips) == 3 and set(data.held_out.clips["policy"]) <= set(data.candidates)
    before = finished_marks(folder.root)
    folder = with_settings(folder, f"evaluation.gate={{{EASY}}}")
    assert evaluate.fn(Run.of(folder)).rows == 8  # three pairs show nothing at the first look's level
    assert before.items() <= finished_marks(folder.root).items()
    assert decisions.read_decision(folder).verdict == "promote" and decisions.replay_decision(folder).agrees
    assert len(list((folder.root / "decisions").iterdir())) == 2


def test_a_finished_run_moves_the_alias_once_if_promotion_is_automatic(tiny_copy: Callable[..., RunFolder]) -> None:
    copy = tiny_copy("evaluate")
    folder = with_settings(copy, f"evaluation.gate={{{EASY}}}", "promotion.automatic=true")
    runs = folder.runs
    assert run_loop(folder).document()["promotion"] == {"alias": "serving", "state": "serving"}
    assert promotion.serving(runs).run_id == folder.run_id
    move = aliases.current(runs)
    assert run_loop(folder).document()["promotion"]["state"] == "serving"
    assert aliases.current(runs) == move
    assert folder.documents.read("result.json")["promotion"]["state"] == "serving"
    (weights,) = Path(promotion.serving(runs).adapter_path).glob("*.safetensors")
    assert weights.read_bytes() == next(folder.root.glob("models/dpo-*/adapter/*.safetensors")).read_bytes()
    _documented_loading_works(runs)


def _documented_loading_works(runs: Path) -> None:
    """The snippet of docs/gate.md, on these runs."""
    (snippet,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(snippet.replace('Path("runs")', f"Path({str(runs)!r})"), names)
    network = names["network"]
    assert isinstance(network, nn.Module)
    assert sum(parameter.numel() for parameter in network.parameters()) > 0
