"""Trying a part of a run again at once: what failed for a passing reason and left nothing behind. Queues nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, TypeVar

from nanumpay_backupd.errors import BackupdError, LimitError
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import RetryPolicy
from nanumpay_backupd.stores.retrying import backoff

__all__ = ["repeated", "worth_another"]

T = TypeVar("T")
_SOON: Final = 2.0
"""Seconds before the second attempt, at most: somebody may be waiting. In all it is enough for an election."""
_MOST: Final = 3
_NAP: Final = 0.5
_NOT_AT_ONCE: Final = frozenset({"tool-killed", "write-failed", "interrupted", "busy"})
"""Codes of faults that pass, but not within seconds; a killed tool may have been killed for want of memory."""
_random = random.SystemRandom()


def worth_another(error: BackupdError, failures: int, policy: RetryPolicy) -> bool:
    """Tell whether a part of a run that failed so, so many times, is tried again within the run."""
    if isinstance(error, LimitError) or error.code in _NOT_AT_ONCE:
        return False
    return error.retryable and failures < min(policy.attempts, _MOST)


def repeated(recorder: Recorder, policy: RetryPolicy, doing: str, work: Callable[[], T]) -> T:
    """Do ``work`` until it succeeds or trying again cannot help; raises what it raised last.

    It must leave nothing behind when it fails. Each attempt that failed is told, and stays with the stage it was in.
    """
    failures = 0
    while True:
        try:
            return work()
        except BackupdError as error:
            failures += 1
            if recorder.cancelled or recorder.fault is not None or not worth_another(error, failures, policy):
                raise
            seconds = backoff(min(policy.delay, _SOON), failures, _random.uniform(-1.0, 1.0))
            of = f"attempt {failures + 1} of {min(policy.attempts, _MOST)}"
            recorder.remark(f"{error.message}; {of} follows in {seconds:.0f} s")
            recorder.reporter.message("warning", f"{doing} failed: {error.message}; {of} follows in {seconds:.0f} s")
            _wait(recorder, seconds)


def _wait(recorder: Recorder, seconds: float) -> None:
    left = seconds
    while left > 0.0:
        recorder.check()
        nap = min(_NAP, left)
        recorder.clock.sleep(nap)
        left -= nap
