"""Runs by schedule that failed for a passing reason: when each is made again, kept over restarts. Starts nothing.

What slices do after a fault is decided in `plans`, uploads have a queue of their own, `repairs` has fulls out of turn.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol, TypeVar

import structlog

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import Outcome, Run, Trigger
from nanumpay_backupd.settings.schema import JobSpec, RetryPolicy

__all__ = ["Again", "Retries", "attempts_made", "next_attempt"]

T = TypeVar("T")
_ACTIONS: Final = ("backup", "verify", "drill")
_BY_ITSELF: Final = frozenset({Trigger.SCHEDULE, Trigger.CATCH_UP, Trigger.AGAIN})
_LONGEST: Final = 6 * 3600.0
_JITTER: Final = 0.1
_LOOKED_AT: Final = 200
_random = random.SystemRandom()
log = structlog.get_logger()


class Again(NamedTuple):
    """When a run is made again, as which attempt (2 is the first after the one that failed), and of how many."""

    due: datetime
    attempt: int
    attempts: int


def next_attempt(
    run: Run, policy: RetryPolicy, made: int, following: datetime | None, spread: float = 0.0
) -> Again | None:
    """Decide whether a run that ended is made again before its next due time (``following``), after ``made`` attempts.

    ``spread`` from -1 to 1 moves it by up to a tenth of the wait, so that the jobs of a server do not come together.
    """
    failed = run.outcome in {Outcome.FAILED, Outcome.INTERRUPTED} and run.error is not None
    passing = failed and run.error is not None and (run.error.retryable or _is_another(run.action, run.error.code))
    if not passing or run.action not in _ACTIONS or run.trigger not in _BY_ITSELF or made >= policy.run_attempts:
        return None
    # The exponent is bounded as the number of attempts is.
    wait = min(policy.run_delay * 2.0 ** (made - 1), _LONGEST) * (1.0 + _JITTER * spread)
    due = (run.ended or run.started) + timedelta(seconds=wait)
    if following is not None and due >= following:
        return None
    return Again(due, made + 1, policy.run_attempts)


def _is_another(action: str, code: str) -> bool:
    """Tell whether what failed for good was one backup, so that the next attempt makes another."""
    return action == "backup" and (code.startswith("verify-") or code == "artifact-missing")


def attempts_made(runs: Iterable[Run], action: str) -> int:
    """Return how many attempts the newest ones (given first) make up: the run that came due, and those made again."""
    made = 0
    for run in runs:
        if run.action != action or run.outcome in {None, Outcome.SKIPPED} or run.trigger not in _BY_ITSELF:
            continue
        made += 1
        if run.trigger is not Trigger.AGAIN:
            break
    return max(made, 1)


class Ask(Protocol):
    """Asks the catalog, in its own thread."""

    def __call__(self, work: Callable[[Catalog], T]) -> Awaitable[T]:
        """Do ``work`` with the catalog."""
        ...


class Retries:
    """What is made again, and when. All methods belong to the event loop."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._again: dict[tuple[str, str], Again] = {}
        self._known: set[str] = set()

    def get(self, job: str, action: str = "backup") -> Again | None:
        """Return when a job's last run of that kind is made again, None: it is not."""
        return self._again.get((job, action))

    def items(self) -> Iterator[tuple[str, str, Again]]:
        """Yield job, action and when; what is yielded may be changed meanwhile."""
        for (job, action), again in list(self._again.items()):
            yield job, action, again

    async def apply(self, job: JobSpec) -> None:
        """Take over what an earlier daemon planned of a job, and drop it where the job is switched off."""
        if not job.enabled:
            await self.forget(job.name)
        elif job.name not in self._known:
            self._known.add(job.name)
            await self._recall(job)

    async def forget(self, job: str) -> None:
        """Make nothing of a job again."""
        for action in _ACTIONS:
            await self.drop(job, action)

    async def drop(self, job: str, action: str) -> None:
        """Make this not again: it is begun, or no longer needed."""
        if self._again.pop((job, action), None) is not None:
            await self._save(job, action, None)

    async def ended(self, job: JobSpec, run: Run, following: datetime | None) -> Again | None:
        """Draw the conclusion from a run that ended; returns when it is made again. ``following``: its next time."""
        if run.action not in _ACTIONS or run.outcome in {None, Outcome.SKIPPED}:
            return None
        again = None
        if job.enabled:
            made = await self._made(run.job, run.action)
            again = next_attempt(run, job.retry, made, following, _random.uniform(-1.0, 1.0))
        if again is not None:
            self._again[run.job, run.action] = again
            await self._save(run.job, run.action, again.due)
        elif run.outcome in {Outcome.SUCCEEDED, Outcome.DEGRADED} or run.trigger in _BY_ITSELF:
            await self.drop(run.job, run.action)
        return again

    async def _recall(self, job: JobSpec) -> None:
        for action in _ACTIONS:
            name = _name(job.name, action)
            try:
                due = await self._ask(lambda catalog, name=name: catalog.plan(name))  # type: ignore[misc]
                made = await self._made(job.name, action) if due is not None else 0
            except BackupdError:
                continue  # that the catalog is of no use is told by others
            if due is not None:
                self._again[job.name, action] = Again(due, made + 1, max(job.retry.run_attempts, made + 1))

    async def _made(self, job: str, action: str) -> int:
        runs = await self._ask(lambda catalog: catalog.runs(job, _LOOKED_AT, slices=False))
        return attempts_made(runs, action)

    async def _save(self, job: str, action: str, due: datetime | None) -> None:
        name = _name(job, action)
        try:
            await self._ask(lambda catalog: catalog.save_plan(name, due))
        except BackupdError as error:
            log.error(f"that a run of job {job} is made again cannot be saved: {error.message}", code=error.code)


def _name(job: str, action: str) -> str:
    """Return the name under which the catalog keeps it, beside the plans; a job's name has no slash."""
    return f"{job}/again/{action}"
