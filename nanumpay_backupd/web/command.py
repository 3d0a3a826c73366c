"""`nanumpay-backup-web`: the command line of the page's service, its users and its tokens."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import EXIT_INTERRUPTED, EXIT_OK, BackupdError, UsageError
from nanumpay_backupd.settings.hostfile import DEFAULT_HOST_FILE, WebPart, load_web_part
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.web.people import ROLES, SCOPES
from nanumpay_backupd.web.userfile import Token

__all__ = ["main"]

_EPILOG: Final = """\
examples:
  nanumpay-backup-web                                    serve the page
  nanumpay-backup-web user add kim --role operator       asks for the password
  nanumpay-backup-web token create app --scope run --scope download
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the process's exit code. An expected fault is a sentence, never a traceback."""
    try:
        return _run(_parser().parse_args(argv))
    except BackupdError as error:
        sys.stderr.write(f"nanumpay-backup-web: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  → {error.hint}\n")
        sys.stderr.write(f"  (code {error.code})\n")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nanumpay-backup-web",
        description="The web page of the Nanumpay backup daemon.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nanumpay-backup-web {__version__}")
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help=f"the host file (default: {DEFAULT_HOST_FILE})"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="serve the page until told to stop (the default)")
    _user_commands(commands.add_parser("user", help="the people who are no administrators of the application"))
    _token_commands(commands.add_parser("token", help="keys for programs"))
    return parser


def _user_commands(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    add = verbs.add_parser("add", help="add one; the password is asked for, or read from standard input")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--role", choices=tuple(ROLES), default="admin", help="what they may do (default: admin)")
    add.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    _listing(verbs.add_parser("list", help="who there is"))
    verbs.add_parser("remove", help="take one out; their sessions end").add_argument("name", metavar="NAME")
    verbs.add_parser("password", help="another password; their sessions end").add_argument("name", metavar="NAME")


def _token_commands(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser("create", help="make one; it is shown this once")
    create.add_argument("name", metavar="NAME")
    create.add_argument(
        "--scope", action="append", choices=SCOPES, default=[], help="what it may; may be given several times"
    )
    create.add_argument("--days", type=int, metavar="N", help="it ends after so many days (default: never)")
    _listing(verbs.add_parser("list", help="which there are, and when each was used last"))
    verbs.add_parser("revoke", help="end one at once").add_argument("name", metavar="NAME")


def _listing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _run(options: argparse.Namespace) -> int:
    part = load_web_part(options.config)
    if options.command == "user":
        return _user(options, part)
    if options.command == "token":
        return _token(options, part)
    from nanumpay_backupd.web.serving import serve

    return serve(part)


def _user(options: argparse.Namespace, part: WebPart) -> int:
    from nanumpay_backupd.web.site import users_of

    users, now = users_of(part), SystemClock().now()
    if options.verb == "add":
        users.add(options.name, options.role, _password(), now)
        sys.stdout.write(f"{options.name.strip().lower()} may sign in now, as {options.role}\n")
    elif options.verb == "password":
        users.change(options.name.strip().lower(), _password(), now)
        sys.stdout.write("the password is changed; sessions begun before have ended\n")
    elif options.verb == "remove":
        users.remove(options.name.strip().lower())
        sys.stdout.write(f"{options.name.strip().lower()} may not sign in any more\n")
    elif options.json:
        found = [{"name": user.name, "role": user.role, "made": user.made.isoformat()} for user in users.all().values()]
        sys.stdout.write(json.dumps({"users": found}, indent=2) + "\n")
    else:
        for user in users.all().values():
            sys.stdout.write(f"{user.name:24} {user.role:10} since {user.made:%Y-%m-%d}\n")
    return EXIT_OK


def _token(options: argparse.Namespace, part: WebPart) -> int:
    from nanumpay_backupd.web.site import tokens_of

    tokens, now = tokens_of(part), SystemClock().now()
    if options.verb == "create":
        if options.days is not None and not 1 <= options.days <= 3650:
            raise UsageError("--days must be from 1 to 3650")
        until = now + timedelta(days=options.days) if options.days else None
        secret = tokens.create(options.name, tuple(dict.fromkeys(options.scope)), now, until)
        sys.stdout.write(f"{secret}\n")
        sys.stderr.write("keep it now: it is not shown again\n")
    elif options.verb == "revoke":
        tokens.remove(options.name.strip().lower())
        sys.stdout.write(f"{options.name.strip().lower()} is of no use any more\n")
    else:
        _list_tokens(tokens.all().values(), _uses(part), as_json=options.json)
    return EXIT_OK


def _list_tokens(tokens: Iterable[Token], used: dict[str, tuple[float, str]], *, as_json: bool) -> None:
    found: list[dict[str, Any]] = []
    for token in tokens:
        at = used.get(token.name)
        last = datetime.fromtimestamp(at[0], UTC) if at else None
        found.append({"name": token.name, "scopes": list(token.scopes), "until": token.until, "last_used": last})
    if as_json:
        sys.stdout.write(json.dumps({"tokens": found}, indent=2, default=datetime.isoformat) + "\n")
        return
    for one in found:
        until, last = one["until"], one["last_used"]
        ends = f"until {until:%Y-%m-%d}" if until else "no end"
        seen = f"last used {last:%Y-%m-%d %H:%M UTC}" if last else "never used"
        sys.stdout.write(f"{one['name']:24} {', '.join(one['scopes']):28} {ends:18} {seen}\n")


def _uses(part: WebPart) -> dict[str, tuple[float, str]]:
    from nanumpay_backupd.web.ledger import Ledger

    if not (part.web.state / "web.db").exists():  # not to be made by root
        return {}
    ledger = Ledger(part.web.state)
    try:
        return ledger.tokens_used()
    finally:
        ledger.close()


def _password() -> str:
    """Ask for a password twice on a terminal; elsewhere it is the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise UsageError("the two are not the same", hint="try again")
    return first


if __name__ == "__main__":
    # What is run by root must not leave files of root's behind with the rights of its umask.
    os.umask(0o077)
    sys.exit(main())
