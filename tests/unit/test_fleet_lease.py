"""The lease under all that can happen to hosts, clocks and messages: one holder at a time, and soon a new one."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nanumpay_backupd.fleet.lease import (
    Action,
    Answer,
    End,
    Gave,
    Give,
    Look,
    Looked,
    Lost,
    Renew,
    Renewed,
    Role,
    Seen,
    Silent,
    State,
    Stop,
    Take,
    Terms,
    Tick,
    Took,
    acting,
    step,
)

LEASE = 30.0
TERMS = Terms(lease=LEASE)
GRAIN = 0.3
"""Seconds of true time between two looks at everybody's timers."""
HOSTS = st.integers(0, 2)


class Server:
    """The lease as MongoDB keeps it: one document, changed in one place at a time, by the server's clock."""

    def __init__(self) -> None:
        self.token, self.beat, self.holder, self.expires, self.to = 0, 0, "", 0.0, ""
        self.skew = 0.0
        self.old: Seen | None = None

    def seen(self, now: float) -> Seen:
        """Return the lease as a look finds it."""
        return Seen(
            token=self.token, beat=self.beat, holder=self.holder, over=now + self.skew - self.expires, to=self.to
        )

    def obey(self, me: str, order: Action, now: float) -> Answer:
        """Do what is asked, as the conditional writes do."""
        match order:
            case Look():
                return Looked(self.seen(now))
            case Take(token=token, beat=beat):
                if (token, beat) != (self.token, self.beat):
                    return Took(0)
                self._write(self.token + 1, me, now)
                return Took(self.token)
            case Renew(token=token):
                if (token, me) != (self.token, self.holder):
                    return Renewed(ours=False)
                self._write(self.token, me, now)
                return Renewed(ours=True)
            case Give(token=token, to=to):
                if (token, me) == (self.token, self.holder):
                    self._write(self.token, "", now)
                    self.to = to
                return Gave()
        raise AssertionError(order)

    def _write(self, token: int, holder: str, now: float) -> None:
        self.token, self.beat, self.holder, self.to = token, self.beat + 1, holder, ""
        self.expires = now + self.skew + TERMS.ttl


class Host:
    """One daemon: the state machine, what it has under way, and whether a run under the lease is active."""

    def __init__(self, at: int, rate: float) -> None:
        self.at, self.rate, self.lives = at, rate, 0
        self.frozen = self.cut = self.held = False
        self.begin()

    def begin(self) -> None:
        """Start the daemon: it is another than the one before."""
        self.lives += 1
        self.state = State(me=f"{self.at}:{self.lives}", host=str(self.at), terms=TERMS)
        self.running = self.leaving = False
        self.alive = True
        self.request: Action | None = None
        self.reply: Answer | None = None

    def now(self, true: float) -> float:
        """Return this host's own clock."""
        return 1000.0 * self.at + true * self.rate

    def tell(self, true: float, event: Tick | Answer) -> None:
        """Let something happen, and do what follows of it."""
        self.state, orders = step(self.state, self.now(true), event)
        for order in orders:
            match order:
                case End():
                    self.running = False
                case Lost():
                    self.leaving = False
                    assert not self.running
                case Stop():
                    pass  # the run takes its time
                case _:
                    self.request, self.reply = order, None

    def tick(self, true: float) -> None:
        """Look at the timers; what was waited for too long is given up."""
        if self.state.asked is not None and self.now(true) - self.state.asked >= TERMS.patience:
            self.reply = None
            self.tell(true, Silent())
        self.tell(true, Tick(leaving=self.leaving, idle=not self.running))


class Fleet(RuleBasedStateMachine):
    """Three hosts and a server, and all that can go wrong between them."""

    @initialize(rates=st.tuples(*[st.sampled_from([0.96, 1.0, 1.04])] * 3))
    def begin(self, rates: tuple[float, float, float]) -> None:
        """Three hosts whose clocks run differently, and a lease that nobody holds."""
        self.true, self.server = 0.0, Server()
        self.hosts = [Host(at, rate) for at, rate in enumerate(rates)]
        self.ghosts: list[tuple[str, Action]] = []
        self.elected = -1000.0

    def pass_time(self, seconds: float) -> None:
        """Let time go by: who is not frozen looks at its timers, and messages arrive unless they are held up."""
        until = self.true + seconds
        while self.true < until:
            self.true += GRAIN
            for host in self.hosts:
                if not host.held:
                    self.arrive(host)
                    self.answer(host)
                if host.alive and not host.frozen:
                    host.tick(self.true)
                    # As bad as can be: there is always something to do, and a run that is asked to end does not.
                    host.running = host.running or acting(host.state, host.now(self.true))
                    if host.leaving:
                        host.running = False
                self.check()

    def arrive(self, host: Host) -> None:
        """Let what a host asks arrive."""
        if host.alive and host.request is not None and not host.cut:
            order, host.request = host.request, None
            host.reply = self.server.obey(host.state.me, order, self.true)

    def answer(self, host: Host) -> None:
        """Let the answer arrive."""
        if host.alive and not host.frozen and not host.cut and host.reply is not None and host.state.asked is not None:
            reply, host.reply = host.reply, None
            host.tell(self.true, reply)

    def check(self) -> None:
        """Never two hosts act at a time."""
        active = [host.at for host in self.hosts if host.alive and not host.frozen and host.running]
        assert len(active) <= 1, active

    @rule(seconds=st.sampled_from([0.3, 1.0, 3.0, 10.0, 20.0, 24.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.pass_time(seconds)

    @rule(at=HOSTS, held=st.booleans())
    def hold_up(self, at: int, held: bool) -> None:
        """From now on messages of a host arrive when they like, or at once."""
        self.hosts[at].held = held

    @rule(at=HOSTS)
    def request_arrives(self, at: int) -> None:
        """A question arrives."""
        self.arrive(self.hosts[at])

    @rule(at=HOSTS)
    def answer_arrives(self, at: int) -> None:
        """An answer arrives."""
        self.answer(self.hosts[at])

    @rule(at=HOSTS)
    def request_is_late(self, at: int) -> None:
        """It is still on its way when nobody waits for it any more."""
        host = self.hosts[at]
        if host.request is not None:
            self.ghosts.append((host.state.me, host.request))
            host.request = None

    @precondition(lambda self: bool(self.ghosts))
    @rule()
    def late_request_arrives(self) -> None:
        """What nobody waits for any more takes effect."""
        self.server.obey(*self.ghosts.pop(0), self.true)

    @rule(at=HOSTS)
    def answer_is_lost(self, at: int) -> None:
        """It is not."""
        self.hosts[at].reply = None

    @rule(at=HOSTS)
    def remember_for_a_stale_answer(self, at: int) -> None:
        """What is so now may be told later."""
        self.server.old = self.server.seen(self.true)

    @rule(at=HOSTS)
    def stale_answer(self, at: int) -> None:
        """A member that does not know yet that it is primary no more answers a look with what was."""
        host = self.hosts[at]
        if isinstance(host.request, Look) and self.server.old is not None and not host.cut:
            host.request, host.reply = None, Looked(self.server.old)

    @rule(at=HOSTS)
    def crash(self, at: int) -> None:
        """A daemon dies; what it asked may still arrive."""
        host = self.hosts[at]
        if host.request is not None:
            self.ghosts.append((host.state.me, host.request))
        host.alive = host.running = host.frozen = False

    @rule(at=HOSTS)
    def start(self, at: int) -> None:
        """It is started anew."""
        if not self.hosts[at].alive:
            self.hosts[at].begin()

    @rule(at=HOSTS)
    def freeze(self, at: int) -> None:
        """A host sleeps, or hangs."""
        self.hosts[at].frozen = True

    @rule(at=HOSTS, answer_first=st.booleans())
    def thaw(self, at: int, answer_first: bool) -> None:
        """It goes on where it was; an answer may have arrived meanwhile."""
        host = self.hosts[at]
        if host.frozen and host.alive:
            host.frozen = False
            if answer_first:
                self.answer(host)
            host.tick(self.true)

    @rule(at=HOSTS, cut=st.booleans())
    def cut(self, at: int, cut: bool) -> None:
        """Nothing arrives any more, or again."""
        self.hosts[at].cut = cut

    @rule(skew=st.floats(-140.0, 140.0))
    def another_primary(self, skew: float) -> None:
        """Its clock is another; what was acknowledged by a majority is there."""
        self.server.skew, self.elected = skew, self.true

    @rule(at=HOSTS)
    def hand_over(self, at: int) -> None:
        """Somebody wants another holder."""
        host = self.hosts[at]
        host.leaving = host.alive and host.state.role is Role.HOLDER

    @rule()
    def faults_end(self) -> None:
        """Somebody holds within the lease time after all faults ended."""
        self.ghosts.clear()
        for host in self.hosts:
            if not host.alive:
                host.begin()
            host.cut = host.held = False
            if host.frozen:
                host.frozen = False
                host.tick(self.true)
        longest = LEASE if self.true - self.elected > LEASE else 2 * LEASE
        until = self.true + longest / 0.96
        while not any(acting(host.state, host.now(self.true)) for host in self.hosts):
            assert self.true < until, "nobody holds the lease"
            self.pass_time(GRAIN)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
