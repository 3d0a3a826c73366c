"""Who may act: the lease as a state machine. Pure: moments and messages come in, orders go out; nothing is sent here.

All moments are seconds of this host's own clock that never stands still nor goes back (`system.clock.since_boot`), and
only differences between two of them on one host count. No wall clock of a host decides anything.

- Whoever holds the lease counts from the moment before it *sent* a renewal that succeeded. It ends its runs when
  ``stop`` seconds have passed since (they are asked to), and by force at ``end``.
- Whoever waits takes the lease only when ``ttl`` seconds have passed since it *heard* of the last renewal, and the
  server's clock says so too. ``end`` comes before ``ttl`` by more than two hosts' clocks can drift apart in that time.
- What is taken is exactly what was seen (token and beat), so of several only one succeeds, and one that was renewed in
  between is not taken. Each taking raises the token.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

__all__ = [
    "Action",
    "Answer",
    "End",
    "Event",
    "Gave",
    "Give",
    "Look",
    "Looked",
    "Lost",
    "Renew",
    "Renewed",
    "Role",
    "Seen",
    "Silent",
    "State",
    "Stop",
    "Take",
    "Terms",
    "Tick",
    "Took",
    "acting",
    "step",
    "wake_in",
]

_LONG_OVER: Final = 300.0
"""Seconds for which a lease is over by the server's clock until nobody need watch it before taking it: more than the
clocks of two members of a replica set differ."""


class Role(StrEnum):
    """What a host is just now. ``ending``: it holds the lease, but could not renew it in time and ends its runs."""

    STANDBY = "standby"
    HOLDER = "holder"
    ENDING = "ending"


class Terms(msgspec.Struct, frozen=True):
    """The times that follow from how long a takeover may last at most, in seconds."""

    lease: float

    @property
    def ttl(self) -> float:
        """Return for how long a renewal holds."""
        return 0.8 * self.lease

    @property
    def stop(self) -> float:
        """Return after which time without a renewal the runs are asked to end."""
        return 0.6 * self.lease

    @property
    def end(self) -> float:
        """Return after which time without a renewal they are ended by force: nine tenths of ``ttl``."""
        return 0.72 * self.lease

    @property
    def pause(self) -> float:
        """Return the time between two renewals, or two looks."""
        return 0.1 * self.lease

    @property
    def patience(self) -> float:
        """Return for how long an answer of the server is waited for."""
        return 0.2 * self.lease


class Seen(msgspec.Struct, frozen=True):
    """The lease as MongoDB had it. ``holder`` is empty when it was given back, then ``to`` may name who is to be next.

    ``over`` is for how many seconds it is over by the server's clock, below 0: it is not.
    """

    token: int
    beat: int
    holder: str
    over: float
    to: str = ""


class State(msgspec.Struct, frozen=True):
    """What one process knows. ``me`` names this process (not only its host: one started anew is another).

    ``sent`` is when the last renewal that succeeded was sent, ``since`` when ``seen`` was first heard of, ``asked``
    when the question under way was sent, ``next`` when there is something to ask again, ``shy`` until when this one
    leaves a lease that it gave away to others, ``leaving`` whether it is about to, and ``to`` whom.
    """

    me: str
    host: str
    terms: Terms
    role: Role = Role.STANDBY
    token: int = 0
    sent: float = 0.0
    seen: Seen | None = None
    since: float = 0.0
    asked: float | None = None
    next: float = 0.0
    shy: float = 0.0
    leaving: bool = False
    to: str = ""


# What happens


class Tick(msgspec.Struct, frozen=True, tag=True):
    """Time went by. ``leaving``: the lease is to be given away, ``idle``: no run under it is active."""

    leaving: bool = False
    idle: bool = True
    to: str = ""


class Looked(msgspec.Struct, frozen=True, tag=True):
    """An answer to `Look`."""

    seen: Seen


class Took(msgspec.Struct, frozen=True, tag=True):
    """An answer to `Take`: the new token, 0: somebody else was quicker, or it was renewed."""

    token: int


class Renewed(msgspec.Struct, frozen=True, tag=True):
    """An answer to `Renew`: whether the lease was still this one's."""

    ours: bool


class Gave(msgspec.Struct, frozen=True, tag=True):
    """An answer to `Give`."""


class Silent(msgspec.Struct, frozen=True, tag=True):
    """No answer came, or none that settles it (no majority): what was asked may have happened or may yet happen."""


Answer: TypeAlias = Looked | Took | Renewed | Gave | Silent
Event: TypeAlias = Tick | Answer

# What is to be done


class Look(msgspec.Struct, frozen=True, tag=True):
    """Ask how the lease stands."""


class Take(msgspec.Struct, frozen=True, tag=True):
    """Take the lease if it is still this one."""

    token: int
    beat: int


class Renew(msgspec.Struct, frozen=True, tag=True):
    """Renew the lease of that token."""

    token: int


class Give(msgspec.Struct, frozen=True, tag=True):
    """Give the lease back, for the host ``to`` (empty: any)."""

    token: int
    to: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Ask the runs under the lease to end."""


class End(msgspec.Struct, frozen=True, tag=True):
    """End them by force, at once."""


class Lost(msgspec.Struct, frozen=True, tag=True):
    """The lease is no longer ours."""


Action: TypeAlias = Look | Take | Renew | Give | Stop | End | Lost


def acting(state: State, now: float) -> bool:
    """Tell whether a run under the lease may begin now, or take a step that others would see."""
    return state.role is Role.HOLDER and not state.leaving and now < state.sent + state.terms.stop


def step(state: State, now: float, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Return what is so after an event, and what is to be done; one question at most is under way at a time."""
    state, orders = _aged(state, now)
    match event:
        case Tick():
            state = _replace(state, leaving=event.leaving, to=event.to)
            state, more = _ask(state, now, idle=event.idle) if state.asked is None else (state, ())
        case Looked():
            state, more = _heard(_answered(state, now), now, event.seen)
        case Took():
            state, more = _took(state, now, event.token), ()
        case Renewed():
            state, more = _renewed(state, now, ours=event.ours)
        case Gave():
            state, more = _gave(state, now)
        case Silent():
            state, more = _replace(state, asked=None, next=now + state.terms.pause / 4), ()
    return state, (*orders, *more)


def wake_in(state: State, now: float) -> float:
    """Return after how many seconds a `Tick` is due at the latest."""
    moments = [state.next] if state.asked is None else []
    if state.role is Role.HOLDER:
        moments.append(state.sent + state.terms.stop)
    if state.role is not Role.STANDBY:
        moments.append(state.sent + state.terms.end)
    return max(0.0, min([moment - now for moment in moments], default=state.terms.pause))


def _aged(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Draw the conclusion from the time that went by, however late this is called."""
    if state.role is Role.STANDBY:
        return state, ()
    if now >= state.sent + state.terms.end:
        return _standby(state, now), (End(), Lost())
    if state.role is Role.HOLDER and now >= state.sent + state.terms.stop:
        return _replace(state, role=Role.ENDING), (Stop(),)
    return state, ()


def _standby(state: State, now: float) -> State:
    """Return the state of one that lost the lease; what it asked meanwhile is of no use any more."""
    return _replace(state, role=Role.STANDBY, token=0, seen=None, next=now)


def _ask(state: State, now: float, *, idle: bool) -> tuple[State, tuple[Action, ...]]:
    held = state.role is not Role.STANDBY
    order: Action
    if held and state.leaving and idle:
        order = Give(state.token, state.to)
    elif now < state.next:
        return state, ()
    elif held:
        order = Renew(state.token)
    elif (seen := state.seen) is not None and not state.leaving and _free(state, seen, now):
        order = Take(seen.token, seen.beat)
    else:
        order = Look()
    return _replace(state, asked=now), (order,)


def _free(state: State, seen: Seen, now: float) -> bool:
    """Tell whether the lease may be taken."""
    watched = now - state.since
    if seen.holder == state.me:  # a taking whose answer was lost, and nothing was done under it
        return True
    if seen.holder == "":
        meant = seen.to in ("", state.host)
        return now >= state.shy and (meant or watched >= state.terms.ttl / 2)
    if seen.over > _LONG_OVER:
        return True
    # A server's clock that went back must not keep the lease for ever; watching alone is enough for safety.
    return watched >= state.terms.ttl and (seen.over >= 0 or watched >= 2 * state.terms.ttl)


def _answered(state: State, now: float) -> State:
    return _replace(state, asked=None, next=now + state.terms.pause)


def _heard(state: State, now: float, seen: Seen) -> tuple[State, tuple[Action, ...]]:
    if state.role is not Role.STANDBY:
        return state, ()
    before = state.seen
    same = before is not None and (before.token, before.beat, before.holder) == (seen.token, seen.beat, seen.holder)
    state = _replace(state, seen=seen, since=state.since if same else now)
    if not state.leaving and _free(state, seen, now):
        return _replace(state, asked=now), (Take(seen.token, seen.beat),)
    # Not later than it may be taken: a whole pause more would be lost.
    rest = state.since + state.terms.ttl - now
    return (_replace(state, next=now + rest) if 0 < rest < state.terms.pause else state), ()


def _took(state: State, now: float, token: int) -> State:
    sent = state.asked
    state = _replace(_answered(state, now), seen=None)
    if not token or sent is None or now >= sent + state.terms.stop:
        return _replace(state, next=now)
    return _replace(state, role=Role.HOLDER, token=token, sent=sent)


def _renewed(state: State, now: float, *, ours: bool) -> tuple[State, tuple[Action, ...]]:
    sent = state.asked
    state = _answered(state, now)
    if state.role is Role.STANDBY or sent is None:
        return _replace(state, next=now), ()
    if not ours:
        return _standby(state, now), (End(), Lost())
    role = Role.HOLDER if now < sent + state.terms.stop else state.role
    return _replace(state, role=role, sent=sent, next=sent + state.terms.pause), ()


def _gave(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    held = state.role is not Role.STANDBY
    state = _replace(_answered(state, now), seen=None, shy=now + state.terms.ttl)
    return (_replace(state, role=Role.STANDBY, token=0), (Lost(),)) if held else (state, ())


def _replace(state: State, **changes: object) -> State:
    return msgspec.structs.replace(state, **changes)
