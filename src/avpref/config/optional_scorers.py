"""``scoring.optional``: those of its scorers that are installed are added to ``scoring.scorers``, and the list is emptied.

A loaded configuration therefore names exactly the scorers that it uses. Its identity, the copy in the run's folder and
``config show`` follow from that: a run keeps its scorers when packages come or go.
"""

from __future__ import annotations

from avpref.config.learned_names import is_installed
from avpref.config.schema import Settings


def with_installed(settings: Settings) -> tuple[Settings, str]:
    """The settings with the installed ones of ``scoring.optional`` among their scorers, and a note on each optional scorer.

    The note is empty where nothing is optional.
    """
    scoring = settings.scoring
    if not scoring.optional:
        return settings, ""
    listed = {use.slug for use in scoring.uses}
    added = [name for name in scoring.optional if is_installed(name) and name not in listed]
    absent = [name for name in scoring.optional if not is_installed(name)]
    resolved = scoring.model_copy(update={"scorers": (*scoring.scorers, *added), "optional": ()})
    note = f"optional: {', '.join(added) or 'none'} installed, {', '.join(absent) or 'none'} not installed"
    return settings.model_copy(update={"scoring": resolved}), note
