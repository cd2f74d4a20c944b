"""The exception tree. Every error has three parts: what was found, what was expected, and a fix.

AvprefError                 exit 1   something failed
├── ConfigError             exit 2   a key, value or flag is wrong
├── GateRefused             exit 3   the evaluation is complete and the gate did not pass
├── AuditRefused            exit 3   a shortcut separates chosen from rejected clips; nothing was trained
├── InputError              exit 4   an input is missing, stale or unreadable
│   ├── MediaError                   a clip that cannot be decoded or lacks a track
│   ├── TableError                   a table with missing columns, NaN, or a wrong hash
│   ├── SchemaVersionError           a folder written by another schema version
│   └── ProductVersionError          a run that another version of the product created
├── AliasConflict           exit 1   an alias was moved by another command at the same time
├── StorageError            exit 1   a folder that cannot be written, a full disk
├── ClusterError            exit 1   a Ray cluster that cannot be joined, lacks resources, or runs other code
├── CircuitOpen             exit 1   many units failed in the same way, so the cause is not the data
└── PartialResult           exit 5   some candidates were quarantined, all others are complete
"""

from __future__ import annotations


class AvprefError(Exception):
    """Base of all errors that the product raises deliberately.

    ``found`` describes the problem, ``expected`` the correct state and ``fix`` a command or edit that corrects it.
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
    """An invalid configuration key, value or command-line flag."""

    exit_code = 2


class GateRefused(AvprefError):
    """The gate ran and did not pass."""

    exit_code = 3


class AuditRefused(AvprefError):
    """A shortcut separates chosen from rejected clips better than the configuration allows; training did not start."""

    exit_code = 3


class InputError(AvprefError):
    """An input is missing, stale or unreadable."""

    exit_code = 4


class MediaError(InputError):
    """A media file that cannot be decoded or lacks a required track."""


class TableError(InputError):
    """A table whose columns, values or hash contradict its schema."""


class SchemaVersionError(InputError):
    """A folder or table written by another schema version."""


class ProductVersionError(InputError):
    """A run that another version of the product created; continuing would repeat all its stages."""


class AliasConflict(AvprefError):
    """Another command moved the alias first."""


class StorageError(AvprefError):
    """A folder that cannot be written to."""


class ClusterError(AvprefError):
    """A Ray cluster that cannot be joined, lacks resources for an actor, or runs another version of the product."""


class CircuitOpen(AvprefError):
    """Too many units failed, or all failed in the same way: the configuration is wrong, not the data."""


class PartialResult(AvprefError):
    """Some candidates were quarantined; all others are complete."""

    exit_code = 5
