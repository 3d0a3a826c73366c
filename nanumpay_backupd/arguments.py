"""The command line of `nanumpay-backupd`: commands, options, their help with examples. Nothing is done here."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NoReturn

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import UsageError

__all__ = ["build_parser", "parse"]

_DEFAULT_CONFIG: Final = "/etc/nanumpay/backupd.toml"
_CONFIG_VARIABLE: Final = "NANUMPAY_BACKUPD_CONFIG"

_EXAMPLES = """\
examples:
  nanumpay-backupd                                   serve in the foreground (this is what systemd does)
  nanumpay-backupd --config /tmp/try.toml            the same with another host file
  nanumpay-backupd run-once nanumpay                 one backup without a daemon: for cron, containers and CI
  nanumpay-backupd check-config                      read the host file and say whether it is right
  nanumpay-backupd rebuild                           read the catalog anew from the manifests
  nanumpay-backupd restore --from s3://my-backups/   restore on a new machine (nanumpay-backupd restore --help)

`nanumpay-backupd COMMAND --help` explains one command; `man nanumpay-backupd` has all of it. A running daemon is asked
and steered with backupctl.

environment: MONGODB_URI and BACKUP_PATH, unless the host file says it; NANUMPAY_BACKUPD_CONFIG for --config

exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 degraded (a destination failed), 5 busy,
            6 not found, 7 refused, 130 interrupted
"""

_SERVE_DESCRIPTION = """\
Run the daemon in the foreground until SIGTERM or Ctrl-C. This is also what happens without a command.

SIGHUP lets it read the host file again. A running backup may finish for about 40 seconds when the daemon is stopped,
then it is cancelled cleanly. Under systemd it speaks sd_notify; without systemd it logs to standard error.
"""

_SERVE_EXAMPLES = """\
examples:
  nanumpay-backupd serve
  nanumpay-backupd serve --config ~/backupd.toml

exit codes: 0 stopped as asked, 1 a part of it broke down, 2 the host file cannot be used, 5 another daemon has the
            state folder or the socket
"""

_ONCE_DESCRIPTION = """\
Make one backup of a job in this process and exit: for cron, containers and CI.

It does what a run of the daemon does: preflight, dump, verify, upload, retention, with the same settings, catalog and
locks, so it never runs beside a daemon's run of the same job. Uploads that fail are tried again within the run. SIGTERM
or Ctrl-C cancel it cleanly.
"""

_ONCE_EXAMPLES = """\
examples:
  nanumpay-backupd run-once
  nanumpay-backupd run-once shop --config ./backupd.toml
  nanumpay-backupd run-once nanumpay --force
  nanumpay-backupd run-once nanumpay --kind incremental
  nanumpay-backupd run-once nanumpay --only-to nas
  nanumpay-backupd run-once --only-db

Of a group its jobs are made one after the other, and what they made belongs together.
Run it as the user who owns the backups folder. The settings of the job nanumpay are the application's, read from
MongoDB, or the last good ones where MongoDB does not answer; further jobs are in the host file.

exit codes: 0 succeeded, 1 failed, 2 usage or configuration, 3 degraded (a good local copy, a destination failed),
            5 the job is running already, 6 no such job or destination, 7 the job is disabled or saves something else,
            130 cancelled; of several jobs the worst
"""

_CHECK_DESCRIPTION = """\
Read the host file and say what it means: where backups, state and socket are, and which jobs there are.

Nothing is connected to and nothing is changed. backupctl doctor tries the whole, with a running daemon.
"""

_CHECK_EXAMPLES = """\
examples:
  nanumpay-backupd check-config
  nanumpay-backupd check-config --config /tmp/try.toml

exit codes: 0 it can be used, 2 it cannot: every mistake is named with its key, the reason and what to write
"""

_REBUILD_DESCRIPTION = """\
Read the catalog anew from the manifests in the backups folder and at the destinations, where its file was lost.

No backup is changed. Use backupctl rebuild while a daemon is running.
"""

_REBUILD_EXAMPLES = """\
examples:
  nanumpay-backupd rebuild

exit codes: 0 done, 1 a destination could not be read (what could be is in the catalog), 2 usage or configuration
"""

_CRONTAB_DESCRIPTION = """\
Take the lines that start the old backup program out of crontabs: those that run a program called nanumpay-backup, and
the application's comment above them. Of all other lines not a byte is changed.

A line that does something besides stays and is shown. The crontab as it was is kept before.
"""

_CRONTAB_EXAMPLES = """\
examples:
  nanumpay-backupd take-over-crontab --dry-run
  nanumpay-backupd take-over-crontab
  nanumpay-backupd take-over-crontab --user nanumpay --keep-in ~

The Debian package does it at every installation. It may be done again at any time, for example when the application has
written its line anew.

exit codes: 0 done, or there was nothing to do (also: there is no cron), 1 a crontab could not be changed,
            6 no such user, 7 a crontab of somebody else needs root
"""

_FOLDER_DESCRIPTION = """\
Make the backups folder, if it is missing, for the user nanumpay, and the drop-in of the systemd unit that lets the
service write there, if it needs one.

The folder is that of the host file ([paths] backups), else BACKUP_PATH of /etc/nanumpay/nanumpay.env, else one of
/opt/nanumpay/data/backups and /opt/nanumpay/backups that is there, else the former. An existing folder stays as it is;
only one of root's that holds nothing but backups is given to nanumpay.
"""

_FOLDER_EXAMPLES = """\
examples:
  nanumpay-backupd prepare-folder --dry-run
  nanumpay-backupd prepare-folder && systemctl daemon-reload && systemctl restart nanumpay-backupd

The Debian package does it at every installation. After a change of BACKUP_PATH do it by hand.

exit codes: 0 done, or there was nothing to do, 2 the folder cannot serve, 6 there is no user nanumpay, 7 not root
"""


_RESTORE_DESCRIPTION = """\
Restore on a machine that has nothing but MongoDB and the copies: no daemon, no catalog, no host file is needed.

It shows what it will do and asks; proves every byte before anything is changed; backs up what is there; restores with
mongorestore; and compares. The place is only read.
"""

_RESTORE_EXAMPLES = """\
examples:
  nanumpay-backupd restore --from s3://my-backups/nanumpay-backup/ --list
  nanumpay-backupd restore --from ftps://backup@nas.example.com/backup/nanumpay --dry-run
  nanumpay-backupd restore nanumpay-backup-2026-11-21T02-00-00 --from /mnt/usb/backups
  nanumpay-backupd restore --from /mnt/usb/backups --at "2026-11-21 10:30:59"
  nanumpay-backupd restore --from /mnt/usb/backups --at "5 minutes ago" --to-db nanumpay_check
  nanumpay-backupd restore --from s3://my-backups/nanumpay-backup/ --identity /media/safe/backup-key.sec
  nanumpay-backupd restore shop-group-2026-11-21T02-00-00 --from offsite --overwrite

A slice stands for its end. Of a group (its id, or its name: the newest) everything is restored, one after the other.

places:
  s3://BUCKET/PREFIX/            a bucket
  ftp://USER@HOST:PORT/FOLDER    an FTP server; ftps:// with TLS
  sftp://USER@HOST:PORT/FOLDER   an SSH server
  webdavs://USER@HOST/PATH       a WebDAV server; webdav:// without TLS
  gs://BUCKET/PREFIX/            a bucket of Google's
  azure://ACCOUNT/CONTAINER/PREFIX/
                                 a container of Azure's
  dropbox:/PATH                  a folder of a Dropbox
  /FOLDER                        copies on a disk, or the backups folder of another machine
  NAME                           a [destination.NAME] of the host file

  More is said behind a question mark, by the keys of the host file:
  s3://backups/app/?endpoint_url=https://s3.example.com   ftps://backup@nas/copies?tls_fingerprint=...

environment (secrets never stand on the command line):
  MONGODB_URI                    the server to restore into, unless the host file names one; else localhost
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION
  AWS_ENDPOINT_URL               an S3 server that is not AWS
  NANUMPAY_FTP_PASSWORD          the password of an FTP place
  NANUMPAY_SFTP_KEY_FILE, NANUMPAY_SFTP_PASSPHRASE, NANUMPAY_SFTP_PASSWORD
                                 the login of an SFTP place
  NANUMPAY_WEBDAV_PASSWORD       the password of a WebDAV place
  GOOGLE_APPLICATION_CREDENTIALS the file with the login for Google's cloud
  AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_KEY, AZURE_STORAGE_CONNECTION_STRING
                                 the login for Azure; none of them: the host's own identity
  DROPBOX_APP_KEY, DROPBOX_APP_SECRET, DROPBOX_REFRESH_TOKEN
                                 the login for Dropbox
  TMPDIR                         where to work, unless --work says it

moments (--at) are written as for backupctl: 10:30:59, "2026-11-21 10:30", 2026-11-21T01:30:59Z, "yesterday 18:00",
  "5 minutes ago", an oplog time, latest. Without a zone: that of the host file, else this host's.

encrypted backups are listed without a key. To restore one, its private key or passphrase is taken from --identity and
  --passphrase-file, from the host file, or asked for on the terminal.

exit codes: 0 restored (listed, shown), 1 failed, 2 usage, 6 not found, 7 refused (also: the question was answered with
            no, or nobody could be asked and --yes was missing), 130 stopped. The last lines say how things stand.

More: docs/recovery.md
"""


_COMMANDS: Final = ("serve", "run-once", "restore", "check-config", "rebuild", "take-over-crontab", "prepare-folder")
_WRONG_COMMAND: Final = re.compile(r"argument COMMAND: invalid choice: '([^']*)'")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written, explanations on the line of what they explain, and paths whole."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=100)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """Says a mistake as every other fault is said: a sentence, and what was probably meant."""

    def error(self, message: str) -> NoReturn:
        if words := _WRONG_COMMAND.match(message):
            hint = _meant(words[1], _COMMANDS) or f"the commands are: {', '.join(_COMMANDS)}"
            raise UsageError(f"unknown command '{words[1]}'", hint=hint)
        raise UsageError(message, hint=f"see: {self.prog} --help")


def _meant(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else ""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    parser = _Parser(
        prog="nanumpay-backupd",
        description="Backs up an application's data by its own settings, proves it, and keeps it recoverable.",
        epilog=_EXAMPLES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nanumpay-backupd {__version__}")
    _config(parser, default=None)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(
        name: str, summary: str, description: str, epilog: str, usage: str | None = None
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=_Help,
            allow_abbrev=False,
            usage=usage,
        )
        _config(made, default=argparse.SUPPRESS)
        return made

    command("serve", "run the daemon in the foreground (default)", _SERVE_DESCRIPTION, _SERVE_EXAMPLES)
    _once_options(command("run-once", "make one backup in this process and exit", _ONCE_DESCRIPTION, _ONCE_EXAMPLES))
    _restore_options(
        command(
            "restore",
            "restore on a machine that has nothing but the copies",
            _RESTORE_DESCRIPTION,
            _RESTORE_EXAMPLES,
            usage="%(prog)s [BACKUP|latest] --from PLACE [options]",
        )
    )
    command("check-config", "read the host file and say whether it is right", _CHECK_DESCRIPTION, _CHECK_EXAMPLES)
    command("rebuild", "read the catalog anew from the manifests", _REBUILD_DESCRIPTION, _REBUILD_EXAMPLES)
    crontab = command(
        "take-over-crontab",
        "take the old program's lines out of root's and the application's crontab",
        _CRONTAB_DESCRIPTION,
        _CRONTAB_EXAMPLES,
    )
    _crontab_options(crontab)
    folder = command(
        "prepare-folder", "make the backups folder and the unit's drop-in", _FOLDER_DESCRIPTION, _FOLDER_EXAMPLES
    )
    folder.add_argument("--dry-run", action="store_true", help="only show which folder it is")
    commands.add_parser("worker")  # for the daemon itself; takes its orders on standard input
    # Not for people, so not in the help.
    commands._choices_actions = [item for item in commands._choices_actions if item.dest != "worker"]  # noqa: SLF001
    return parser


def _config(parser: argparse.ArgumentParser, default: object) -> None:
    """Add --config, which may stand before or after the command."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help=f"host file (default: ${_CONFIG_VARIABLE}, or {_DEFAULT_CONFIG} if it exists)",
    )


def _once_options(once: argparse.ArgumentParser) -> None:
    once.add_argument("job", nargs="?", metavar="JOB", help="the job's name, or a group's (default: nanumpay)")
    once.add_argument(
        "--kind",
        choices=("full", "incremental", "differential"),
        default="full",
        metavar="KIND",
        help="full (default), incremental: the changes since the last slice, differential: those since the last full "
        "(both on a replica set)",
    )
    once.add_argument("--force", action="store_true", help="also when the job is disabled")
    once.add_argument(
        "--only-to",
        action="append",
        metavar="DEST",
        help="copies to this destination only, this once; several with commas; local: none elsewhere",
    )
    kinds = once.add_mutually_exclusive_group()
    for flag, kind, what in (("--only-db", "database", "a database"), ("--only-files", "files", "files")):
        kinds.add_argument(
            flag,
            action="store_const",
            const=kind,
            dest="holds",
            help=f"only what saves {what}: of a group, or without JOB of all enabled jobs, one after the other",
        )


def _restore_options(restore: argparse.ArgumentParser) -> None:
    restore.add_argument("backup", nargs="?", default="latest", metavar="BACKUP|latest", help="its name, or a group's")
    restore.add_argument(
        "--from",
        dest="place",
        required=True,
        metavar="PLACE",
        help="s3://bucket/prefix, ftp(s)://user@host/path, a folder, or a destination of the host file",
    )
    restore.add_argument("--at", default="", metavar="TIME", help="the moment to restore, to the second (see below)")
    restore.add_argument("--job", default="", metavar="JOB", help="whose backups, where there are several jobs")
    restore.add_argument("--to-db", default="", dest="to_database", metavar="NAME", help="into this database")
    restore.add_argument("--to", dest="to_database", metavar="PATH", help="to this folder or file (not MongoDB)")
    restore.add_argument("--collection", default="", metavar="C", help="only this collection")
    restore.add_argument("--only", action="append", default=[], metavar="PART", help="only this part or path")
    kinds = restore.add_mutually_exclusive_group()
    for flag, kind, what in (("--only-db", "database", "a database"), ("--only-files", "files", "files")):
        kinds.add_argument(
            flag, action="store_const", const=kind, default="", dest="holds", help=f"of a group: only what is of {what}"
        )
    restore.add_argument("--partial", action="store_true", help="of a group: what there is, although not all of it")
    restore.add_argument("--overwrite", action="store_true", help="what is there may be replaced (not MongoDB)")
    restore.add_argument(
        "--identity",
        action="append",
        default=[],
        dest="identities",
        metavar="FILE",
        help="a private key (OpenPGP as text, age, ssh) for what is encrypted; may be given several times",
    )
    restore.add_argument(
        "--passphrase-file",
        default="",
        metavar="FILE",
        help="the passphrase, in its first line (default: asked for on the terminal)",
    )
    restore.add_argument("--work", default="", metavar="DIR", help="where to unpack (default: $TMPDIR or /var/tmp)")
    restore.add_argument(
        "--list", action="store_true", dest="list_only", help="only show what is there, and up to when it leads"
    )
    restore.add_argument("--dry-run", action="store_true", help="only show what would be done")
    restore.add_argument("--no-safety-backup", action="store_false", dest="safety", help="do not save what is there")
    restore.add_argument("--yes", action="store_true", help="do not ask")


def _crontab_options(crontab: argparse.ArgumentParser) -> None:
    crontab.add_argument(
        "--user",
        action="append",
        default=[],
        dest="users",
        metavar="USER",
        help="of this user; may be given several times (default: root and nanumpay, or your own)",
    )
    crontab.add_argument(
        "--keep-in",
        type=Path,
        metavar="DIR",
        help="where the crontab as it was is kept (default: /var/lib/nanumpay-backupd)",
    )
    crontab.add_argument("--dry-run", action="store_true", help="only show what would be done")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read a command line; raises UsageError when it makes no sense. Asking for help or version prints it and exits."""
    parser = build_parser()
    options, extra = parser.parse_known_args(argv)
    if extra:
        page = f"nanumpay-backupd {options.command}" if options.command else "nanumpay-backupd"
        what = "option" if extra[0].startswith("-") else "argument"
        hint = _meant(extra[0].partition("=")[0], _flags(parser, options.command)) if what == "option" else ""
        raise UsageError(
            f"{options.command or 'nanumpay-backupd'} takes no {what} '{extra[0]}'", hint=hint or f"see: {page} --help"
        )
    if options.config is None and os.environ.get(_CONFIG_VARIABLE):
        options.config = Path(os.environ[_CONFIG_VARIABLE])
    return options


def _flags(parser: argparse.ArgumentParser, command: str | None) -> list[str]:
    """Return the options that a command takes, or those before a command."""
    page = parser
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if command and isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            page = action.choices[command]
    return [flag for flag in page._option_string_actions if flag.startswith("--")]  # noqa: SLF001
