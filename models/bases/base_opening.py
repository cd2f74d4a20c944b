"""Opens the base model that a configuration names: a built-in one, an entry point, or ``package.module:Class``."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from avpref.config.base_settings import JAVISDIT, BaseSections, BaseSettings
from avpref.domain import Terms
from avpref.errors import ClusterError, ConfigError
from avpref.identity import digest
from avpref.models.bases.base_model import Base
from avpref.models.bases.javis_base import JavisBase
from avpref.outside.class_loading import BASE_MODEL, REFERENCE, load_class, make_importable, offer_of, offers
from avpref.outside.class_settings import make
from avpref.outside.source_version import source_version

BUILT_IN_CLASSES: Mapping[str, str] = {
    "ltx2": "avpref.models.ltx2.ltx_base:LtxBase",
    "javisdit-v01": "avpref.models.javisdit_v01.v01_base:V01Base",
}
"""Base models of the product that have settings of their own: name → ``package.module:Class``."""
BUILT_IN_NAMES = (JAVISDIT, *BUILT_IN_CLASSES)


@lru_cache(maxsize=16)
def open_base(sections: BaseSections) -> Base:
    """The base model of ``sections``; nothing is loaded.

    Raises ConfigError for an unknown name, a module that does not import, a class that is no base model, and settings that it does
    not accept.
    """
    name = sections.base.model
    if name == JAVISDIT:
        return JavisBase(sections)
    sections.check()
    if name in BUILT_IN_CLASSES:
        return _of_class(sections.base, BUILT_IN_CLASSES[name], is_built_in=True)
    if ":" in name:
        return _of_class(sections.base, name)
    offer = offer_of(BASE_MODEL, name, f"--set base.model={REFERENCE}")
    if offer is None:
        raise _unknown(name)
    return _of_class(sections.base, offer.reference)


def search_in(folder: Path, settings: BaseSettings) -> None:
    """Let the class of ``package.module:Class`` be found in ``folder``, a command's working directory, if it is not installed here."""
    module, is_reference, _ = settings.model.partition(":")
    if is_reference:
        make_importable(module, folder)


def open_same_base(sections: BaseSections, version: str, folder: Path | None = None) -> Base:
    """The base model of ``sections`` in a process that works for a command whose base model has ``version``.

    A module that is not installed here is searched in ``folder``, the command's working directory (None: this process's). Raises as
    :func:`open_base`, and ClusterError where the class is another version here.
    """
    if folder is not None:
        search_in(folder, sections.base)
    base = open_base(sections)
    if base.version == version:
        return base
    raise ClusterError(
        f"base model {sections.base.model} on {socket.gethostname()} has version {base.version}, and the command has {version}",
        "one version of the base model's class in all processes, because names of units depend on it",
        "install the same version of its package on all machines, and run the command again",
    )


def _of_class(settings: BaseSettings, reference: str, is_built_in: bool = False) -> Base:
    """The base model of class ``reference``; its version covers its settings and, of a user's class, its source."""
    name = settings.model
    owner = load_class(BASE_MODEL, name, reference)
    if not issubclass(owner, Base):
        found = f"base model {name}: {reference} is no base model"
        raise ConfigError(found, f"a subclass of {Base.__module__}.{Base.__qualname__}", f"see {BASE_MODEL.guide}")
    base: Base
    base, values = make(BASE_MODEL, name, owner, settings.settings)
    if not isinstance(base.terms, Terms):
        found = f"base model {name}: terms = {base.terms!r}"
        raise ConfigError(found, "avpref.domain.Terms", f"see {BASE_MODEL.guide}")
    ignored: Collection[str] = owner.not_of_results
    of_results = {key: value for key, value in values.items() if key not in ignored}
    source = "" if is_built_in else owner.fingerprint or source_version(BASE_MODEL, name, owner)
    base.version = digest("base model", reference, source, of_results)
    return base


def _unknown(name: str) -> ConfigError:
    offered = [offer.name for offer in offers(BASE_MODEL)]
    near = difflib.get_close_matches(name, [*BUILT_IN_NAMES, *offered], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    installed = f"an installed entry point of {BASE_MODEL.group} ({', '.join(offered) or 'none is installed'})"
    expected = f"a built-in base model ({', '.join(BUILT_IN_NAMES)}), {installed}, or package.module:Class"
    return ConfigError(f"no base model {name}{hint}", expected, f"--set base.model={near[0] if near else JAVISDIT}")
