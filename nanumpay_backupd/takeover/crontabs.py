"""`nanumpay-backupd take-over-crontab`: takes the old program's lines out of crontabs, and tells it.

Run by the package and by hand, as often as one likes. Which lines they are is decided next door (`crontab`).
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import EXIT_FAILED, EXIT_OK, NotFoundError, RefusedError, ToolError
from nanumpay_backupd.settings.schema import Paths
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.files import make_private_dir, write_new
from nanumpay_backupd.system.process import Finished, find_tool, run_bytes
from nanumpay_backupd.system.secrets import redact
from nanumpay_backupd.takeover.crontab import Without, without_old_program

__all__ = ["take_over_crontab"]

_OWNERS: Final = ("root", "nanumpay")
"""Whose crontabs the application writes to."""
_NO_CRONTAB: Final = "no crontab for"
_NO_LOCALE: Final = {"LC_ALL": "C"}


def take_over_crontab(users: Sequence[str], clock: Clock, *, keep_in: Path | None = None, dry_run: bool = False) -> int:
    """Take the old program's lines out of the crontabs of these users; without any, of root's and the application's.

    Callers other than root have only their own. A crontab that changes is kept before as ``keep_in/crontab.USER.TIME``
    (default: the state folder), for its reader alone. Returns the exit code, which is not 0 when a crontab could not be
    changed. Raises NotFoundError for a user that does not exist, RefusedError for somebody else's crontab.
    """
    wanted = _checked(users)
    try:
        program = find_tool("crontab", hint="")
    except ToolError:
        _say("cron is not installed here, so there is no crontab to take over.")
        return EXIT_OK
    code = EXIT_OK
    for user in wanted:
        try:
            _take_over(_Crontab(program, user), keep_in or Paths().state, clock, dry_run=dry_run)
        except (ToolError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            _warn(f"{user}'s crontab was left as it is: {reason}.")
            code = EXIT_FAILED
    return code


def _checked(users: Sequence[str]) -> Sequence[str]:
    me = pwd.getpwuid(os.geteuid()).pw_name
    for user in users:
        if not _exists(user):
            raise NotFoundError(f"there is no user {user!r}", hint="getent passwd lists them")
        if os.geteuid() != 0 and user != me:
            raise RefusedError(f"only root may change {user}'s crontab", hint="use sudo")
    if users:
        return users
    return [me] if os.geteuid() != 0 else [owner for owner in _OWNERS if _exists(owner)]


class _Crontab:
    """One user's crontab, by way of crontab(1): every cron has its own place and format for the file."""

    def __init__(self, program: Path, user: str) -> None:
        self.user = user
        # Others than root may not name a user, not even themselves.
        self._command = [str(program), *(["-u", user] if os.geteuid() == 0 else [])]

    def read(self) -> bytes | None:
        """Return the text, None when there is no crontab; raises ToolError."""
        done = run_bytes([*self._command, "-l"], extra=_NO_LOCALE)
        if done.code == 0:
            return done.stdout
        if _NO_CRONTAB in done.said:
            return None
        raise _refused("reading", done)

    def write(self, text: bytes) -> None:
        """Replace the text as a whole; raises ToolError when cron does not accept it, or it is not there afterwards."""
        done = run_bytes([*self._command, "-"], given=text, extra=_NO_LOCALE)
        if done.code != 0:
            raise _refused("changing", done)
        if (self.read() or b"") != text:
            raise ToolError("crontab took the new text, but shows another one")


def _refused(doing: str, done: Finished) -> ToolError:
    return ToolError(f"{doing} it failed with exit code {done.code}: {done.said or 'crontab said nothing'}")


def _take_over(crontab: _Crontab, folder: Path, clock: Clock, *, dry_run: bool) -> None:
    before = crontab.read()
    found = without_old_program(before or b"")
    if before is not None and found.taken and not dry_run:
        kept = folder / f"crontab.{crontab.user}.{clock.now():%Y-%m-%dT%H-%M-%S}"
        make_private_dir(folder)
        write_new(kept, before)
        crontab.write(found.kept)
        copy = f"As it was before, it is kept as {kept}."
        _tell(crontab.user, found, "These lines of the old program were taken out of", copy)
    else:
        _tell(crontab.user, found, "These lines of the old program would be taken out of", "Nothing was changed.")


def _tell(user: str, found: Without, did: str, end: str) -> None:
    def show(lines: Sequence[bytes]) -> None:
        for line in lines:
            _say(f"    {redact(line.decode('utf-8', 'backslashreplace'))}")

    if found.taken:
        _say(f"{did} {user}'s crontab:")
        show(found.taken)
        _say(end)
    if found.doubtful:
        _say(f"These lines of {user}'s crontab name the old program and stay; look at them (crontab -u {user} -e):")
        show(found.doubtful)
    if not found.taken and not found.doubtful:
        _say(f"{user}'s crontab holds no line of the old program.")


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")


def _warn(sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"nanumpay-backupd: {sentence}\n")
