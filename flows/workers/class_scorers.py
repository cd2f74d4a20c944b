"""Scorer classes as scorer sources: built-in ones, those of entry points, and those of modules that a configuration names."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avpref.domain import Metric, Terms
from avpref.errors import AvprefError, ClusterError, ConfigError, InputError
from avpref.identity import digest
from avpref.outside.class_loading import REFERENCE, SCORER, load_class, offer_of, offers, quoted_traceback
from avpref.rewards.outside.declaration import Declaration, declare, make_scorer
from avpref.rewards.outside.declaration_request import DeclarationRequest, declare_here
from avpref.rewards.protocol import Scorer

if TYPE_CHECKING:
    from avpref.config.executor_settings import RayExecutor
    from avpref.config.scorer_use import ScorerUse

BUILT_IN = "built-in"


@dataclass(frozen=True)
class ClassSource:
    """A scorer class with settings; see :class:`avpref.flows.workers.scorer_source.ScorerSource`.

    Attributes:
        slug: the scorer's name.
        reference: ``package.module:Class``.
        origin: ``built-in``, the distribution of the entry point, or ``module``.
        values: the settings that the configuration gives.
        declaration: what the class says about itself with these settings.
        folder: the working directory of the command, where modules that are not installed are found.
    """

    slug: str
    reference: str
    origin: str
    values: Mapping[str, Any]
    declaration: Declaration
    folder: str
    is_network: bool = True
    keeps_embeddings: bool = False

    @property
    def name(self) -> str:
        """The scorer's name."""
        return self.slug

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        return self.declaration.metrics

    @property
    def terms(self) -> Terms:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        return self.declaration.terms

    @property
    def fingerprint(self) -> str:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        return self.declaration.fingerprint

    @property
    def uses_device(self) -> bool:
        """Whether the class has a method ``load``, which receives the device."""
        return self.declaration.uses_device

    @property
    def is_isolated(self) -> bool:
        """True for classes from outside the product, so that they harm no other scorer, and for those that wait for a service."""
        return self.origin != BUILT_IN or self.declaration.has_own_actors

    @property
    def has_canary(self) -> bool:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        return self.declaration.has_canary

    def open(self, device: str) -> Scorer:
        """Make the scorer and load it on ``device``.

        Raises ConfigError where its module does not import here, ClusterError where it is another version than the command's,
        InputError where it does not load (its own AvprefErrors pass).
        """
        owner = load_class(SCORER, self.slug, self.reference, Path(self.folder))
        here = declare(self.slug, self.reference, owner, self.values)
        if here.fingerprint != self.fingerprint:
            raise ClusterError(
                f"scorer {self.slug}: {self.reference} on {socket.gethostname()} is another version than the command's",
                "one version of the scorer's package on all machines",
                "install the same version everywhere, and run the command again",
            )
        scorer, _ = make_scorer(self.slug, owner, self.values)
        load = getattr(scorer, "load", None)
        if load is not None:
            from avpref.devices import resolved

            try:
                load(resolved(device))
            except AvprefError:
                raise
            except Exception as error:
                found = f"scorer {self.slug} cannot load:\n{quoted_traceback(error, ('class_scorers.py',))}"
                raise InputError(found, "a method load(device) that succeeds", f"correct {self.reference}") from error
        return scorer


def class_source(use: ScorerUse, reference: str, origin: str, placed: RayExecutor | None = None) -> ClassSource:
    """The source of the class ``reference``; ``placed`` is its pool where that has an environment of its own.

    Raises ConfigError where the class does not import, or for settings that it does not accept.
    """
    if placed is not None:
        folder = str(Path(placed.runtime_env.working_dir).resolve())
        declaration = _declared_elsewhere(DeclarationRequest(use.slug, reference, use.settings, folder), placed)
        return ClassSource(use.slug, reference, origin, use.settings, declaration, folder)
    declaration = declare(use.slug, reference, load_class(SCORER, use.slug, reference), use.settings)
    return ClassSource(use.slug, reference, origin, use.settings, declaration, str(Path.cwd()))


_DECLARED: dict[str, Declaration] = {}
"""Declarations that were made in other environments by this process, by what they depend on."""


def _declared_elsewhere(request: DeclarationRequest, placed: RayExecutor) -> Declaration:
    """The declaration of a class in the environment of its pool. Raises ConfigError."""
    from avpref.execution.environment_calls import call_in_environment

    key = digest(vars(request), placed.runtime_env.model_dump(mode="json"))
    if key not in _DECLARED:
        _DECLARED[key] = call_in_environment(declare_here, request, placed, request.name)
    return _DECLARED[key]


def outside_source(use: ScorerUse, built_in: Sequence[str], placed: RayExecutor | None = None) -> ClassSource:
    """The source of ``package.module:Class`` or of an entry point.

    Raises ConfigError as :func:`class_source`, and for a name that is neither ``built_in`` nor an entry point.
    """
    if ":" in use.use:
        return class_source(use, use.use, "module", placed)
    offer = offer_of(SCORER, use.use, f"--set scoring.scorers={REFERENCE}")
    if offer is None:
        raise _unknown(use.use, built_in)
    return class_source(use, offer.reference, offer.distribution, placed)


def _unknown(name: str, built_in: Sequence[str]) -> ConfigError:
    offered = [offer.name for offer in offers(SCORER)]
    near = difflib.get_close_matches(name, [*built_in, *offered], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    installed = f"an installed entry point of {SCORER.group} ({', '.join(offered) or 'none is installed'})"
    expected = f"a built-in scorer ({', '.join(built_in)}), {installed}, or package.module:Class"
    return ConfigError(f"no scorer {name}{hint}", expected, "avpref scorers list")
