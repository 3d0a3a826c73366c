"""The one error tree: every expected fault has a code, a sentence, a hint and whether a retry can help.

Nothing here imports anything but the standard library, so that the thin client may use it too.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing: importing that would double the start-up time of the thin client
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from typing import ClassVar

__all__ = [
    "EXIT_BUSY",
    "EXIT_DEGRADED",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_FOUND",
    "EXIT_OK",
    "EXIT_REFUSED",
    "EXIT_UNHEALTHY",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "BackupdError",
    "BusyError",
    "CancelledError",
    "ConfigError",
    "DecryptError",
    "InternalError",
    "LeaseError",
    "LimitError",
    "LockedError",
    "NotFoundError",
    "NotifyError",
    "RefusedError",
    "SourceError",
    "SpaceError",
    "StoreError",
    "ToolError",
    "UnreachableError",
    "UsageError",
    "VerifyError",
    "worst_exit",
]

# Process exit codes of every command of this package (design: backupctl).
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DEGRADED = 3
EXIT_UNREACHABLE = 4
EXIT_BUSY = 5
EXIT_NOT_FOUND = 6
EXIT_REFUSED = 7
EXIT_UNHEALTHY = 8
EXIT_INTERRUPTED = 130

_BEST_FIRST = (EXIT_OK, EXIT_DEGRADED, EXIT_BUSY, EXIT_INTERRUPTED, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_FAILED)


def worst_exit(codes: Iterable[int]) -> int:
    """Return the exit code of a command that did several things, of each of which there is one."""
    return max(codes, key=lambda code: _BEST_FIRST.index(code) if code in _BEST_FIRST else len(_BEST_FIRST))


class BackupdError(Exception):
    """An expected fault: shown as one sentence plus a hint, never as a traceback.

    ``code`` is stable and meant for machines (journal field ERROR_CODE, protocol, docs);
    ``hint`` says what the operator can do; ``retryable`` says whether trying again unchanged can help.
    """

    default_code: ClassVar[str] = "failed"
    default_retryable: ClassVar[bool] = False
    exit_code: int = EXIT_FAILED

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        return self.message


class ConfigError(BackupdError):
    """A setting that cannot be used: names the key's path, the reason and the fix."""

    default_code = "config-invalid"
    exit_code = EXIT_USAGE


class UsageError(BackupdError):
    """A command line that cannot be understood."""

    default_code = "usage"
    exit_code = EXIT_USAGE


class SourceError(BackupdError):
    """What is to be backed up could not be reached or read."""

    default_code = "source-failed"
    default_retryable = True


class ToolError(BackupdError):
    """A stock tool is missing, too old, died, or did not do what its exit code claims."""

    default_code = "tool-failed"


class SpaceError(BackupdError):
    """There is not enough room; says how much is needed and how much is free, in bytes."""

    default_code = "no-space"


class StoreError(BackupdError):
    """A destination refused or failed an operation. ``code`` tells which way (see docs/operations.md)."""

    default_code = "destination-failed"
    default_retryable = True


class LockedError(StoreError):
    """A destination does not let an object go: until ``until`` (an aware datetime), None: until somebody lifts it."""

    default_code = "object-locked"
    default_retryable = False

    def __init__(self, message: str, *, until: datetime | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.until = until


class NotifyError(BackupdError):
    """A message, a record or a ping could not be brought to where it is to go."""

    default_code = "notify-failed"
    default_retryable = True


class VerifyError(BackupdError):
    """What was written is not what was meant: checksum, structure or counts differ."""

    default_code = "verify-failed"


class DecryptError(BackupdError):
    """What is encrypted cannot be opened with the keys at hand: ``key-missing`` or ``key-wrong``.

    It says nothing about what is encrypted: damage is a VerifyError.
    """

    default_code = "key-wrong"


class BusyError(BackupdError):
    """Somebody else holds what is needed: a run of the same job, or another daemon."""

    default_code = "busy"
    default_retryable = True
    exit_code = EXIT_BUSY


class NotFoundError(BackupdError):
    """The job, run, backup or object named does not exist."""

    default_code = "not-found"
    exit_code = EXIT_NOT_FOUND


class RefusedError(BackupdError):
    """Not allowed, or too dangerous without being asked for explicitly."""

    default_code = "refused"
    exit_code = EXIT_REFUSED


class CancelledError(BackupdError):
    """Stopped because somebody asked for it."""

    default_code = "cancelled"
    exit_code = EXIT_INTERRUPTED


class LimitError(BackupdError):
    """A run, or a part of it, took longer (``deadline``) or more memory (``memory-limit``) than it may."""

    default_code = "deadline"
    default_retryable = True


class LeaseError(LimitError):
    """A run had to end because its host may no longer hold the fleet's lease; the next holder makes up for it."""

    default_code = "lease-lost"
    default_retryable = False


class UnreachableError(BackupdError):
    """The daemon's control socket does not answer."""

    default_code = "daemon-unreachable"
    default_retryable = True
    exit_code = EXIT_UNREACHABLE


class InternalError(BackupdError):
    """A defect of this software: the journal has the traceback, the terminal has this sentence."""

    default_code = "internal"
