"""What a scorer class declares: settings, metrics, terms, version; and wrong declarations, each one error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from avpref.domain import METRIC_BY_NAME, PICTURE, Dimension, Metric, Terms
from avpref.errors import ConfigError
from avpref.rewards.outside.declaration import UNSTATED_TERMS, declare, make_scorer

METRIC = Metric("sharpness", "dB", True, Dimension.VIDEO, PICTURE)


class Plain:
    metrics = (METRIC,)

    def score(self, clips: Any) -> Any:
        return []


class WithModel(Plain):
    class Settings(BaseModel):
        step_px: int = Field(default=1, gt=0)
        url: str = "http://localhost"

    not_of_scores = frozenset({"url"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


class WithDataclass(Plain):
    @dataclass(frozen=True)
    class Settings:
        step_px: int = 1
        names: tuple[str, ...] = ("a",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


def fingerprint(owner: type, **values: Any) -> str:
    return declare("mine", f"here:{owner.__name__}", owner, values).fingerprint


def refusal(owner: type, **values: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        declare("mine", "here:Thing", owner, values)
    assert "mine" in caught.value.found and caught.value.expected and caught.value.fix
    return caught.value


@pytest.mark.parametrize("owner", [WithModel, WithDataclass])
def test_settings_are_converted_and_completed(owner: type) -> None:
    scorer, settings = make_scorer("mine", owner, {"step_px": "3"})
    assert scorer.settings.step_px == 3 and settings["step_px"] == 3 and len(settings) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("owner", [Plain, WithModel, WithDataclass])
def test_an_unknown_setting_is_refused(owner: type) -> None:
    assert "unknown setting steppx" in refusal(owner, steppx=1).found


def test_a_model_that_takes_any_setting_takes_them() -> None:
    class Open(WithModel):
        class Settings(WithModel.Settings):
            model_config = ConfigDict(extra="allow")

    assert declare("mine", "here:Open", Open, {"question": "is it a dog?"}).settings["question"] == "is it a dog?"


@pytest.mark.parametrize(("owner", "value"), [(WithModel, 0), (WithModel, "x"), (WithDataclass, "x")])
def test_a_value_that_the_declaration_refuses_is_named(owner: type, value: object) -> None:
    assert f"step_px = {value!r}" in refusal(owner, step_px=value).found


def test_the_fingerprint_has_class_version_settings_and_metrics() -> None:
    class Declared(WithModel):
        fingerprint = "1"

    class Later(Declared):
        fingerprint = "2"

    class Measured(Declared):
        metrics = (Metric("other", "dB", True, Dimension.VIDEO, PICTURE),)

    def of(owner: type, **values: Any) -> str:
        return declare("mine", "here:Same", owner, values).fingerprint

    different = [of(WithModel), of(Declared), of(Later), of(Measured), of(Declared, step_px=2), fingerprint(Declared)]
    assert len(set(different)) == len(different)
    assert of(Declared, step_px=1) == of(Declared) == of(Declared, url="http://other")


def test_terms_are_unstated_where_the_class_has_none() -> None:
    assert declare("mine", "here:Plain", Plain, {}).terms == UNSTATED_TERMS and not UNSTATED_TERMS.commercial_use
    licensed = type("Licensed", (Plain,), {"terms": Terms("MIT", True), "__module__": __name__})
    assert declare("mine", "here:Licensed", licensed, {}).terms.licence == "MIT"


@pytest.mark.parametrize(
    "attributes",
    [
        {"metrics": ()},
        {"metrics": ("sharpness",)},
        {"metrics": None},
        {"metrics": (METRIC, METRIC)},
        {"metrics": METRIC_BY_NAME},
        {"terms": "MIT"},
        {"score": None},
        {"fingerprint": 3},
        {"fingerprint": ""},
        {"Settings": int},
    ],
    ids=["none", "a name", "null", "twice", "by name", "terms", "score", "number", "empty", "settings"],
)
def test_a_wrong_declaration_is_refused(attributes: dict[str, Any]) -> None:
    refusal(type("Wrong", (Plain,), {**attributes, "__module__": __name__}))


def test_a_class_that_cannot_be_made_is_an_error_with_its_traceback() -> None:
    class Broken(Plain):
        def __init__(self) -> None:
            raise OSError("no such microphone")

    found = refusal(Broken).found
    assert "no such microphone" in found and "test_declaration.py" in found
