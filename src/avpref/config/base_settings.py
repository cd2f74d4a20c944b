"""Section ``base``: which base model a run samples from and trains, and the sections that describe it."""

from __future__ import annotations

from pydantic import Field, JsonValue

from avpref.config.codec_settings import CodecSettings, IdentityCodecSettings, TextSettings, WordTextSettings
from avpref.config.network_settings import NetworkSettings
from avpref.config.section import Section
from avpref.errors import ConfigError

JAVISDIT = "javisdit"
"""The base model that the sections ``network``, ``codec`` and ``text`` describe."""
REFERENCE = r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$"


class BaseSettings(Section):
    """The base model, and settings that its class declares."""

    model: str = Field(
        default=JAVISDIT,
        pattern=REFERENCE,
        description="a built-in name, an entry point of avpref.base_models, or package.module:Class",
    )
    settings: dict[str, JsonValue] = Field(default={}, description="settings that the base model's class declares")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


DEFAULT_BASE = BaseSettings()


class BaseSections(Section):
    """The sections of a configuration that describe its base model."""

    base: BaseSettings = DEFAULT_BASE
    network: NetworkSettings | None = None
    codec: CodecSettings = IdentityCodecSettings()
    text: TextSettings = WordTextSettings()

    def check(self) -> None:
        """Raises ConfigError where a section is missing, or belongs to another base model than the one that is named."""
        if self.base.model == JAVISDIT:
            if self.network is None:
                found = f"network is missing, which base model {JAVISDIT} needs"
                raise ConfigError(found, "section network of docs/configuration.md", "copy it from configs/tiny.yaml")
            if self.base.settings:
                found = f"base.settings {', '.join(self.base.settings)} of base model {JAVISDIT}"
                raise ConfigError(found, "sections network, codec and text", "--set base.settings={}")
            return
        other = {"network": None, "codec": IdentityCodecSettings(), "text": WordTextSettings()}
        surplus = [name for name, unset in other.items() if getattr(self, name) != unset]
        if surplus:
            found = f"section {', '.join(surplus)} with base model {self.base.model}"
            expected = f"base.settings: these sections describe base model {JAVISDIT}"
            raise ConfigError(found, expected, f"remove {', '.join(surplus)} from the configuration")
