"""``backupctl web-user`` and ``token``: hands over to `nanumpay-backup-web`, which keeps both. Nothing is done here."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from nanumpay_backupd.cli.context import Context

__all__ = ["token", "user"]


def user(context: Context) -> int:
    """Become the program that keeps the users."""
    role = ["--role", context.args.role] if context.args.role else []
    return _become(context, "user", role)


def token(context: Context) -> int:
    """Become the program that keeps the tokens."""
    more = [word for scope in context.args.scope or () for word in ("--scope", scope)]
    if context.args.days is not None:
        more += ["--days", str(context.args.days)]
    return _become(context, "token", more)


def _become(context: Context, what: str, more: list[str]) -> int:
    args = context.args
    config = ["--config", args.config] if args.config else []
    words = [what, args.verb, *([args.name] if args.name else []), *more, *(["--json"] if args.json else [])]
    sys.stdout.flush()
    # -P: whatever lies in the folder where root happens to be is not for Python to load.
    argv = [sys.executable, "-P", "-m", "nanumpay_backupd.web.command", *config, *words]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell, and our own program
