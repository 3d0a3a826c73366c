"""Runs that failed for a passing reason: which are made again, when, how often, and that a restart forgets nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, LimitError, SourceError, SpaceError, ToolError, VerifyError
from nanumpay_backupd.model import Outcome, Run, Trigger, error_info
from nanumpay_backupd.pipeline.again import worth_another
from nanumpay_backupd.retries import Again, Retries, attempts_made, next_attempt
from nanumpay_backupd.settings.schema import JobSpec, RetryPolicy
from tests.workbench import NOW, job_spec

PASSING = SourceError("no answer", code="source-unreachable")
LASTING = SourceError("refused", code="source-auth", retryable=False)
POLICY = RetryPolicy(run_attempts=3, run_delay=600.0)


def ran(
    outcome: Outcome = Outcome.FAILED,
    error: BackupdError | None = PASSING,
    *,
    trigger: Trigger = Trigger.SCHEDULE,
    action: str = "backup",
    at: datetime = NOW,
) -> Run:
    """Return a run that began and ended at one moment."""
    told = error_info(error) if error is not None else None
    return Run(
        id=f"{at:%H%M%S}-{trigger}",
        job="nanumpay",
        trigger=trigger,
        started=at,
        ended=at,
        outcome=outcome,
        error=told,
        action=action,
    )


@pytest.mark.parametrize(
    "run, again",
    [
        (ran(), True),
        (ran(trigger=Trigger.CATCH_UP), True),
        (ran(trigger=Trigger.AGAIN), True),
        (ran(action="drill"), True),
        (ran(action="verify"), True),
        (ran(Outcome.INTERRUPTED, BackupdError("cut off", code="interrupted", retryable=True)), True),
        (ran(error=LimitError("too long")), True),
        # Another backup is another one: that this one was damaged says nothing of it.
        (ran(error=VerifyError("damaged", code="verify-checksum")), True),
        (ran(error=VerifyError("damaged", code="verify-checksum"), action="verify"), False),
        (ran(error=LASTING), False),
        (ran(error=SpaceError("full")), False),
        (ran(error=ToolError("no mongodump", code="tool-missing")), False),
        (ran(error=LimitError("too much", code="memory-limit", retryable=False)), False),
        (ran(trigger=Trigger.MANUAL), False),
        (ran(trigger=Trigger.REPAIR), False),
        (ran(trigger=Trigger.RETRY, action="upload"), False),
        (ran(action="slice"), False),
        (ran(Outcome.CANCELLED), False),
        (ran(Outcome.DEGRADED), False),
        (ran(Outcome.SUCCEEDED, None), False),
        (ran(Outcome.SKIPPED, BackupdError("busy", code="busy", retryable=True)), False),
    ],
)
def test_which_runs_are_made_again(run: Run, again: bool) -> None:
    """What came due by itself and failed of something that may pass, and nothing else."""
    assert (next_attempt(run, POLICY, 1, None) is not None) is again


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(1, 86400),
    st.floats(-1, 1),
    st.one_of(st.none(), st.integers(-3600, 3 * 86400)),
)
def test_made_again_where_that_helps_and_in_time(
    made: int, attempts: int, delay: float, spread: float, following: int | None
) -> None:
    """Whatever the policy: after the end, before the next due time, never more often than may be, each wait longer."""
    policy = RetryPolicy(run_attempts=attempts, run_delay=delay)
    due = NOW + timedelta(seconds=following) if following is not None else None
    again = next_attempt(ran(), policy, made, due, spread)
    if again is None:
        assert made >= attempts or due is not None
        return
    assert made < attempts
    assert again.attempt == made + 1 <= again.attempts == attempts
    assert again.due > NOW
    assert due is None or again.due < due
    later = next_attempt(ran(), RetryPolicy(run_attempts=attempts + 1, run_delay=delay), made + 1, None, spread)
    assert later is not None
    assert later.due >= again.due


@pytest.mark.parametrize(
    "triggers, made",
    [
        ([], 1),
        ([Trigger.SCHEDULE], 1),
        ([Trigger.AGAIN, Trigger.SCHEDULE], 2),
        ([Trigger.AGAIN, Trigger.MANUAL, Trigger.AGAIN, Trigger.CATCH_UP, Trigger.AGAIN], 3),
    ],
)
def test_attempts_are_counted_from_the_record(triggers: list[Trigger], made: int) -> None:
    """The run that came due is the first; those before it, and what people started, do not count."""
    assert attempts_made([ran(trigger=trigger) for trigger in triggers], "backup") == made


class Bench:
    """Retries with a catalog of their own."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(folder / "catalog.db")
        self.retries = Retries(self._ask)

    def _ask(self, work: Callable[[Catalog], Any]) -> Awaitable[Any]:
        async def done() -> Any:
            return work(self.catalog)

        return done()

    def ended(self, run: Run, job: JobSpec, following: datetime | None = None) -> Again | None:
        """Put a run on record and tell of its end."""
        self.catalog.save_run(run)
        return asyncio.run(self.retries.ended(job, run, following))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Retries that know of nothing yet."""
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


JOB = job_spec(retry=POLICY)


def test_each_attempt_waits_longer_until_the_last(bench: Bench) -> None:
    """Three attempts in all, after about ten and twenty minutes; what fails then is left to the next due time."""
    first = bench.ended(ran(), JOB)
    assert first is not None
    assert timedelta(minutes=9) <= first.due - NOW <= timedelta(minutes=11)
    second = bench.ended(ran(trigger=Trigger.AGAIN, at=first.due), JOB)
    assert second is not None
    assert timedelta(minutes=18) <= second.due - first.due <= timedelta(minutes=22)
    assert (second.attempt, second.attempts) == (3, 3)
    assert bench.ended(ran(trigger=Trigger.AGAIN, at=second.due), JOB) is None
    assert bench.retries.get("nanumpay") is None


def test_a_good_run_by_hand_ends_it(bench: Bench) -> None:
    """Once a backup is there nobody needs another attempt; one by hand that failed too changes nothing."""
    bench.ended(ran(), JOB)
    bench.ended(ran(trigger=Trigger.MANUAL, at=NOW + timedelta(minutes=1)), JOB)
    assert bench.retries.get("nanumpay") is not None
    bench.ended(ran(Outcome.SUCCEEDED, None, trigger=Trigger.MANUAL, at=NOW + timedelta(minutes=2)), JOB)
    assert bench.retries.get("nanumpay") is None


def test_a_restart_forgets_nothing(bench: Bench, tmp_path: Path) -> None:
    """The next daemon makes the same attempt at the same time; of a job that was switched off none."""
    planned = bench.ended(ran(), JOB)
    again = Bench(tmp_path)
    asyncio.run(again.retries.apply(JOB))
    assert again.retries.get("nanumpay") == planned
    asyncio.run(again.retries.apply(msgspec.structs.replace(JOB, enabled=False)))
    assert again.retries.get("nanumpay") is None
    last = Bench(tmp_path)
    asyncio.run(last.retries.apply(JOB))
    assert last.retries.get("nanumpay") is None
    again.catalog.close()
    last.catalog.close()


@pytest.mark.parametrize(
    "error, failures, another",
    [
        (PASSING, 1, True),
        (PASSING, 2, True),
        (PASSING, 3, False),
        (ToolError("half", code="dump-incomplete", retryable=True), 1, True),
        (LASTING, 1, False),
        (SpaceError("full"), 1, False),
        # These pass, but not within seconds.
        (ToolError("killed", code="tool-killed", retryable=True), 1, False),
        (LimitError("too long"), 1, False),
    ],
)
def test_what_is_tried_again_within_a_run(error: BackupdError, failures: int, another: bool) -> None:
    """Three times in all, and only what may be over within seconds; one attempt is one attempt."""
    assert worth_another(error, failures, RetryPolicy()) is another
    assert not worth_another(error, failures, RetryPolicy(attempts=1))
