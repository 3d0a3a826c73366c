"""What is due in a fleet: whoever holds the lease when, no due time is lost and none is done twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nanumpay_backupd.fleet.tasks import MOST_TRIES, TaskRecord, exact, records_of, replan
from nanumpay_backupd.scheduler import next_due
from nanumpay_backupd.settings.schema import Schedule

SCHEDULE = Schedule(cron=("0 3 * * *",), timezone="UTC")
BEGIN = datetime(2026, 11, 22, tzinfo=UTC)
HOSTS = st.integers(0, 2)


def following(after: datetime) -> datetime:
    """Return the next due time."""
    due = next_due(SCHEDULE, after)
    assert due is not None
    return due


def test_a_host_whose_clock_is_days_ahead_keeps_the_others_from_nothing() -> None:
    """What it took up in the future is no reason to leave out what is due now."""
    ahead = TaskRecord(due=BEGIN + timedelta(days=3), done=True, token=1)
    assert replan(ahead, BEGIN, BEGIN) is None
    assert replan(ahead, BEGIN, BEGIN, token=2) is None
    assert replan(TaskRecord(due=BEGIN, done=True, token=1), BEGIN, BEGIN) is not None


def test_a_new_holder_that_knows_of_no_plan_makes_up_for_what_nobody_took_up() -> None:
    """Its own plan begins today; what is on record was done the day before yesterday, and nobody was there since."""
    now, record = BEGIN + timedelta(days=2, hours=12), TaskRecord(due=following(BEGIN), done=True, token=1)
    planned = following(now)
    assert replan(record, planned, now) is None
    found = replan(record, planned, now, token=2)
    assert found is not None
    assert found.undone is None
    assert following(found.done) <= now


class Due(RuleBasedStateMachine):
    """Three hosts that hold the lease by turns; claims are conditional on its token, as in `fleet.room`."""

    @initialize()
    def begin(self) -> None:
        """Nothing is on record yet."""
        self.now, self.token, self.holder = BEGIN, 0, -1
        self.tasks: dict[str, Any] = {}
        self.plans = [following(BEGIN)] * 3
        self.active: tuple[int, int, datetime] | None = None
        self.done: list[tuple[datetime, datetime]] = []
        self.tries: dict[datetime, int] = {}

    def record(self) -> TaskRecord | None:
        """Return what is on record."""
        return records_of({"tasks": self.tasks}).get("job")

    @rule(hours=st.sampled_from([1, 5, 10, 20, 24, 50]))
    def time_goes_by(self, hours: int) -> None:
        """Due times come, and the holder takes them up unless it is busy."""
        self.now += timedelta(hours=hours)
        self.step()

    @rule(at=HOSTS)
    def hears(self, at: int) -> None:
        """A host that stands by hears what was taken up."""
        if at != self.holder and (record := self.record()) is not None:
            self._replan(at, record, 0)

    def _replan(self, at: int, record: TaskRecord, token: int) -> None:
        found = replan(record, self.plans[at], self.now, token)
        if found is not None:
            self.plans[at] = found.undone or following(found.done)

    @rule(at=HOSTS, anew=st.booleans())
    def takes_over(self, at: int, *, anew: bool) -> None:
        """Another host holds the lease from now on; what the former had under way was ended before.

        One that is made ``anew`` has lost its disk: it had planned from now on.
        """
        if at == self.holder:
            return
        if anew:
            self.plans[at] = following(self.now)
        self.active, self.holder, self.token = None, at, self.token + 1
        if (record := self.record()) is not None:
            self._replan(at, record, self.token)

    @rule()
    def dies(self) -> None:
        """Nobody holds the lease for a while."""
        self.active, self.holder = None, -1

    def step(self) -> None:
        """Let the holder take up what is due, as the agenda does."""
        if self.holder < 0 or self.active is not None or (due := self.plans[self.holder]) > self.now:
            return
        task = self.tasks.get("job")
        due = exact(due)
        free = task is None or task["due"] < due or (task["due"] == due and task["state"] != "done")
        self.plans[self.holder] = following(self.now if free else due)
        if free:
            tries = task["tries"] + 1 if task is not None and task["due"] == due else 1
            self.tasks["job"] = {"due": due, "state": "begun", "token": self.token, "tries": tries}
            self.active = (self.holder, self.token, due)
            self.tries[due] = tries

    @precondition(lambda self: self.active is not None)
    @rule()
    def ends(self) -> None:
        """The run comes to its end, and that is noted."""
        assert self.active is not None
        _, token, due = self.active
        assert (token, due) == (self.token, self.tasks["job"]["due"])
        self.tasks["job"]["state"] = "done"
        self.done.append((due, self.now))
        self.active = None

    @invariant()
    def none_is_done_twice(self) -> None:
        """Each due time is done at most once."""
        dues = [due for due, _ in getattr(self, "done", ())]
        assert len(dues) == len(set(dues))
        assert all(count <= MOST_TRIES for count in getattr(self, "tries", {}).values())

    @precondition(lambda self: self.holder >= 0)
    @rule()
    def none_is_lost(self) -> None:
        """When the holder has done what there is to do, a run was made since the last due time, or it was given up."""
        for _ in range(3):
            self.step()
            if self.active is not None:
                self.ends()
        last = following(self.now - timedelta(days=1) - timedelta(microseconds=1))
        task = self.tasks.get("job")
        given_up = task is not None and task["state"] != "done" and task["tries"] >= MOST_TRIES
        nothing_known = task is None  # every host was made anew before the first one
        if last > BEGIN and last <= self.now and not given_up and not nothing_known:
            assert any(at >= last for _, at in self.done), (last, self.now, self.tasks)


TestDue = Due.TestCase
TestDue.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
