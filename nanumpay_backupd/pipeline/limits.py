"""What is too long or too much for a run: decided from how long it takes by now. Pure; ends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nanumpay_backupd.errors import LimitError
from nanumpay_backupd.model import Stage
from nanumpay_backupd.pipeline.report import Elapsed
from nanumpay_backupd.settings.schema import APPLICATION_JOB, Limits
from nanumpay_backupd.system.family import Member
from nanumpay_backupd.system.units import human_size, human_span

__all__ = ["go_limit", "overdue", "too_large", "upload_overdue"]

_OWN: Final = {Stage.PREFLIGHT: "preflight", Stage.DUMP: "dump", Stage.VERIFY: "verify"}
"""Stages that have a limit of their own, and its key."""
_STEADY: Final = frozenset(
    {Stage.DUMP, Stage.CAPTURE, Stage.COMPRESS, Stage.ENCRYPT, Stage.VERIFY, Stage.FETCH, Stage.CHECK}
)
"""Stages in which something moves all the time. A restore is silent for as long as an index takes."""
_AFTERWARDS: Final = frozenset({Stage.PUBLISH, Stage.RETENTION, Stage.AFTER})
"""Stages that are ended only when they take as long as a whole run by themselves: what is good is to stay good."""
_LONG: Final = frozenset({"upload", "copy", "verify", "restore"})
"""What may take as long as it takes, beside the limits of its own."""
_GO_SHARE: Final = 0.6
"""Of the memory that a run may take, the part below which one of its tools tries to stay."""
_GO_LEAST: Final = 64 << 20
_NAMED: Final = 4


def overdue(limits: Limits, job: str, action: str, elapsed: Elapsed) -> LimitError | None:
    """Return which limit a run of that action has passed, None: none."""
    stage = elapsed.stage
    if stage is None or stage is Stage.UPLOAD:  # each upload has a limit of its own
        return None
    if action == "restore":
        return _passed("restore", "the restore", limits.restore, elapsed.run, job)
    if stage in _AFTERWARDS:
        return _passed("run", f"the stage {stage}", limits.run, elapsed.part, job)
    key = _OWN.get(stage)
    return (
        (_passed(key, f"the stage {stage}", getattr(limits, key), elapsed.part, job) if key is not None else None)
        or (_stalled(f"the stage {stage}", limits, elapsed.idle, job) if stage in _STEADY else None)
        or (_passed("run", "the run", limits.run, elapsed.run, job) if action not in _LONG else None)
    )


def upload_overdue(limits: Limits, job: str, what: str, taken: float, idle: float) -> LimitError | None:
    """Return which limit ``what`` ("the upload to PLACE") has passed after so many seconds, so many without a byte."""
    return _passed("upload", what, limits.upload, taken, job) or _stalled(what, limits, idle, job)


def too_large(limits: Limits, job: str, family: Sequence[Member]) -> LimitError | None:
    """Say that a run takes more memory than it may, and which of its processes how much; None: it does not."""
    taken = sum(member.memory for member in family)
    if not limits.memory or taken <= limits.memory:
        return None
    largest = sorted(family, key=lambda member: member.memory, reverse=True)[:_NAMED]
    each = ", ".join(f"{member.name} {human_size(member.memory)}" for member in largest)
    return LimitError(
        f"the run took {human_size(taken)} of memory ({each}), more than its limit of {human_size(limits.memory)}",
        hint=f"raise {_where('memory', job)}; where it is the drill's mongod, that one needs some 400 MiB",
        code="memory-limit",
        retryable=False,
    )


def go_limit(limits: Limits) -> str:
    """Return what GOMEMLIMIT is for the tools of a run; empty: its memory has no limit."""
    return str(max(int(limits.memory * _GO_SHARE), _GO_LEAST)) if limits.memory else ""


def _passed(key: str, what: str, limit: float, taken: float, job: str) -> LimitError | None:
    if not limit or taken <= limit:
        return None
    return LimitError(
        f"{what} was ended: it took longer than {human_span(limit)}",
        hint=f'where that is too short, raise {_where(key, job)} ("0s": no limit); '
        "else see what it waited for: backupctl logs",
    )


def _stalled(what: str, limits: Limits, idle: float, job: str) -> LimitError | None:
    if not limits.stall or idle <= limits.stall:
        return None
    return LimitError(
        f"{what} was ended: nothing moved for {human_span(limits.stall)}",
        hint=f"see whether the other side hangs; where it is only slow, raise {_where('stall', job)}",
    )


def _where(key: str, job: str) -> str:
    own = "nanumpay.limits" if job == APPLICATION_JOB else "job.limits"
    return f"{key} in [limits] or [{own}] of backupd.toml"
