"""What all pages share: settings, the daemon, sessions, users, the audit trail. Made once; no page, no HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from nanumpay_backupd.errors import BackupdError, RefusedError
from nanumpay_backupd.settings.hostfile import WebPart
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.web.application import Application
from nanumpay_backupd.web.feed import Feed
from nanumpay_backupd.web.ledger import AuditLine, Ledger
from nanumpay_backupd.web.link import Link
from nanumpay_backupd.web.passwords import LONGEST, check_password, waste
from nanumpay_backupd.web.people import CHANGE, ROLES, Person
from nanumpay_backupd.web.sessions import Session, Sessions
from nanumpay_backupd.web.throttle import Throttle
from nanumpay_backupd.web.userfile import Tokens, Users

__all__ = ["Site", "tokens_of", "users_of"]

_RECHECK: Final = 60.0
"""Seconds until an administrator is looked up again."""
_AT_ONCE: Final = 2
"""Passwords that are compared at one time: each takes a fifth of a second of processor."""
_WAITING: Final = 20
"""Sign-ins that may wait for that; more are sent away at once."""
_ADMIN: Final = ROLES["admin"]
log = structlog.get_logger()


def users_of(options: WebPart) -> Users:
    """Return the local users."""
    return Users(Path(options.web.users) if options.web.users else options.web.state / "users.json")


def tokens_of(options: WebPart) -> Tokens:
    """Return the tokens of the API."""
    return Tokens(options.web.state / "tokens.json")


class Site:
    """One running page."""

    def __init__(self, options: WebPart, clock: Clock) -> None:
        self.options = options
        self.web = options.web
        self.clock = clock
        self.ledger = Ledger(options.web.state)
        self.sessions = Sessions(self.ledger, clock, options.web.idle, options.web.longest)
        self.users = users_of(options)
        self.tokens = tokens_of(options)
        self.application = Application(options.mongodb)
        self.link = Link(options.paths.socket)
        self.feed = Feed(self.link)
        self._throttle = Throttle()
        self._hashing = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="password")
        self._asking = ThreadPoolExecutor(4, thread_name_prefix="database")
        self._waiting = 0
        self._checked: dict[str, tuple[float, bool]] = {}

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        self.feed.close()
        self.link.close()
        self._hashing.shutdown(wait=False, cancel_futures=True)
        self._asking.shutdown(wait=False, cancel_futures=True)
        self.application.close()
        self.ledger.close()

    async def database(self, question: Any, *arguments: Any) -> Any:
        """Ask the application's database without blocking; ``question`` is a method of `application`."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, partial(question, *arguments))

    # Who is who

    async def person(self, session: Session) -> Person | None:
        """Return whose session it is, None: they may not be here any more."""
        if session.origin == "local":
            user = self.users.all().get(session.name) if self.web.sign_in != "application" else None
            if user is None or user.changed.timestamp() > session.made:
                return None
            return Person(user.name, "local", ROLES.get(user.role, frozenset()))
        if self.web.sign_in == "local" or not await self._still_welcome(session.name):
            return None
        return Person(session.name, "application", _ADMIN)

    async def _still_welcome(self, name: str) -> bool:
        now = self.clock.monotonic()
        known = self._checked.get(name)
        if known is not None and now - known[0] < _RECHECK:
            return known[1]
        try:
            welcome = bool(await self.database(self.application.still_welcome, name))
        except BackupdError:
            # MongoDB is down: that is when the page is needed most, and the session ends by itself.
            welcome = known[1] if known is not None else True
        self._checked = {key: item for key, item in self._checked.items() if now - item[0] < _RECHECK}
        self._checked[name] = (now, welcome)
        return welcome

    async def sign_in(self, name: str, password: str, address: str) -> Person:
        """Return who that is; raises RefusedError: ``sign-in-refused``, or ``sign-in-wait`` (its hint: seconds).

        Which of name and password was wrong, and whether the account is locked, is not told.
        """
        name = name.strip().lower()[:200]
        left = self._throttle.wait(name, address, self.clock.monotonic())
        if left > 0 or self._waiting >= _WAITING:
            self.audit(name or "?", address, "sign-in", "", "refused", "throttled")
            raise RefusedError("too many attempts", hint=f"{max(left, 1.0):.0f}", code="sign-in-wait", retryable=True)
        self._waiting += 1
        try:
            person = await self._known(name, password)
        finally:
            self._waiting -= 1
        if person is None:
            self._throttle.failed(name, address, self.clock.monotonic())
            self.audit(name or "?", address, "sign-in", "", "refused")
            raise RefusedError("name or password is wrong, or the account is locked", code="sign-in-refused")
        self._throttle.passed(name, address)
        return person

    async def confirm(self, person: Person, password: str, address: str) -> None:
        """Ask a person for the password again; raises RefusedError as `sign_in`, also where they may not do that."""
        if not person.may(CHANGE):
            raise RefusedError("you may not do this", code="not-allowed")
        again = await self.sign_in(person.name, password, address)
        if again != person:
            raise RefusedError("that is the password of somebody else", code="sign-in-refused")

    async def _known(self, name: str, password: str) -> Person | None:
        if not name or not 0 < len(password) <= LONGEST:
            return None
        loop = asyncio.get_running_loop()
        way = self.web.sign_in
        user = self.users.all().get(name) if way != "application" else None
        if user is not None:
            good = await loop.run_in_executor(self._hashing, check_password, password, user.hash)
            return Person(user.name, "local", ROLES.get(user.role, frozenset())) if good else None
        if way == "local":
            await loop.run_in_executor(self._hashing, waste)
            return None
        found = await loop.run_in_executor(self._hashing, self.application.sign_in, name, password, self.clock.now())
        if found is None:
            return None
        self._checked.pop(found.name, None)
        return Person(found.name, "application", _ADMIN)

    # What was done

    def audit(self, who: str, address: str, action: str, subject: str, outcome: str = "ok", detail: str = "") -> None:
        """Write down who did what: in the page's own folder and in the journal."""
        at = self.clock.now().timestamp()
        line = AuditLine(at, who[:200], address[:64], action, subject[:300], outcome, detail[:500])
        said = log.info if outcome == "ok" else log.warning
        what = f"{action} {line.subject}".strip()
        said(f"{line.who} from {line.address}: {what}: {outcome}", action=action, outcome=outcome)
        try:
            self.ledger.note(line)
        except BackupdError as error:
            log.error(f"the audit trail cannot be written: {error.message}", code=error.code)
