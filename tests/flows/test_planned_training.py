"""The plan of a training of the released network, in its full size, resolves without weights or a GPU."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.flows.dry_run import estimate
from avpref.flows.training_plan import SmallerTraining, fewest_operations, training_plans
from avpref.trainer.memory_plan import MemoryParts

CONFIG = Path(__file__).parents[2] / "configs" / "javisdit.yaml"
NUM_ROWS, STEPS = 60, 500


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "prompts.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text"])
        writer.writerows([f"A drummer plays in scene {number}."] for number in range(NUM_ROWS))
    return path


def configured(prompts: Path, *changes: str) -> Settings:
    overrides = [f"prompts.prompts={prompts}", f"dpo.loop.steps={STEPS}", *changes]
    return load_config(CONFIG, overrides, environment={}).settings


@pytest.fixture(scope="module")
def document(prompts: Path) -> dict[str, Any]:
    return estimate(configured(prompts), tflops=200.0).document()


def test_items_devices_tokens_steps_memory_and_hours_are_planned(document: dict[str, Any]) -> None:
    items = {row["name"]: row["items"] for row in document["stages"]}
    assert items["prompts"] == NUM_ROWS == items["pair"] + items["evaluate"]
    assert items["encode"] == 2 * items["pair"] and items["train"] == STEPS
    assert {row["device"] for row in document["placements"]} == {"cuda"}
    (plan,) = document["trainings"]
    assert (plan["stage"], plan["bucket"], plan["device"]) == ("train", "65x240x432", "cuda")
    # 17 x 15 x 27 video tokens and 51 x 8 audio tokens for each of two clips
    assert plan["tokens"] == 2 * (17 * 15 * 27 + 51 * 8) and plan["steps"] == STEPS == plan["samples"]
    assert plan["gpu_hours"] == pytest.approx(plan["pflop"] / (0.2 * 3600))
    memory = plan["memory"]
    assert memory["weights"] == pytest.approx(4.5e9, rel=0.01), "2.25 billion values in bfloat16"
    assert memory["trained"] == memory["gradients"] == memory["optimiser"] / 2 == pytest.approx(4 * 127.8e6, rel=0.01)
    assert plan["memory_total"] == sum(memory.values())


def test_settings_for_a_card_of_24_gb_fit_it_when_they_are_configured(document: dict[str, Any], prompts: Path) -> None:
    (card,) = [row for row in document["cards"] if row["card_gb"] == 24]
    assert card["memory_total"] <= 0.9 * 24e9
    overrides = card["overrides"].replace("--set ", "").split()
    (plan,) = training_plans(configured(prompts, *overrides), 200.0)
    assert plan.memory.total == card["memory_total"] and plan.smallest_card_gb == 24
    assert plan.pflop == pytest.approx(card["pflop_per_pair"] * STEPS)


def test_every_row_of_smaller_trainings_is_what_its_settings_give(document: dict[str, Any], prompts: Path) -> None:
    rows = document["smaller"]
    assert [row["memory_total"] for row in rows] == sorted((row["memory_total"] for row in rows), reverse=True)
    for row in rows:
        (plan,) = training_plans(configured(prompts, *row["overrides"].replace("--set ", "").split()), 200.0)
        assert plan.memory.total == row["memory_total"], row["overrides"]


def test_the_fewest_operations_that_fit_are_chosen() -> None:
    def row(name: str, memory: int, card: int, pflop: float) -> SmallerTraining:
        return SmallerTraining("bucket", name, MemoryParts(memory, 0, 0, 0, 0, 0, 0), card, pflop)

    rows = [row("fast", 60, 80, 1.0), row("slow", 19, 24, 3.0), row("middle", 20, 24, 2.0), row("none", 900, 0, 0.5)]
    rows += [row("large", 21, 24, 2.0), row("larger", 61, 80, 1.0)]
    chosen = {card: own.overrides for card, own in fewest_operations(rows)}
    assert chosen == {24: "middle", 48: "middle", 80: "fast", 141: "fast"}
    assert list(fewest_operations([row("none", 900, 0, 0.5)])) == []
