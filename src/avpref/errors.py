"""The exception tree. Users' mistakes end here with three parts: found, expected, and the command that fixes it.

AvprefError                 exit 1   something failed
├── ConfigError             exit 2   a key, value or flag is wrong
├── GateRefused             exit 3   everything ran; the answer is no
├── AuditRefused            exit 3   chosen and rejected can be told apart by a shortcut; nothing was trained
├── InputError              exit 4   an input is missing, stale or unreadable
│   ├── MediaError                   a clip that cannot be decoded or lacks a track
│   ├── TableError                   a table with missing columns, NaN, or a wrong hash
│   ├── SchemaVersionError           a folder written by another schema version
│   └── ProductVersionError          a run that another version of the product began
├── AliasConflict           exit 1   an alias was moved by another command at the same time
├── StorageError            exit 1   a folder that cannot be written, a full disk
├── ClusterError            exit 1   a Ray cluster that cannot be joined, has no room, or runs other code
├── CircuitOpen             exit 1   so many units failed alike that it is no longer the data's fault
└── PartialResult           exit 5   some candidates were quarantined, the rest is complete
"""

from __future__ import annotations


class AvprefError(Exception):
    """Base of all errors that the product raises on purpose.

    ``found`` says what was met, ``expected`` what should have been there and ``fix`` the command or edit that helps.
    """

    exit_code = 1

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        super().__init__(found, expected, fix)
        self.found, self.expected, self.fix = found, expected, fix

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return "\n".join(lines)


class ConfigError(AvprefError):
    """A configuration key, value or command-line flag that cannot be used."""

    exit_code = 2


class GateRefused(AvprefError):
    """The gate ran and its verdict is no."""

    exit_code = 3


class AuditRefused(AvprefError):
    """A shortcut tells chosen from rejected better than the configuration allows: training was not started."""

    exit_code = 3


class InputError(AvprefError):
    """An input is missing, stale or unreadable."""

    exit_code = 4


class MediaError(InputError):
    """A media file that cannot be decoded, or lacks a track that is needed."""


class TableError(InputError):
    """A table whose columns, values or hash are not what its schema says."""


class SchemaVersionError(InputError):
    """A folder or table written by another schema version."""


class ProductVersionError(InputError):
    """A run that another version of the product began; going on would do all its stages again."""


class AliasConflict(AvprefError):
    """Another command moved the alias first."""


class StorageError(AvprefError):
    """A folder that cannot be written to."""


class ClusterError(AvprefError):
    """A Ray cluster that cannot be joined, has no room for an actor, or runs another version of the product."""


class CircuitOpen(AvprefError):
    """Too many units failed, or all failed alike: the configuration is wrong, not the data."""


class PartialResult(AvprefError):
    """Some candidates were quarantined; everything else is complete."""

    exit_code = 5
