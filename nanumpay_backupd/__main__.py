"""Entry point of `nanumpay-backupd`: reads the command line and hands over. Wiring only."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import EXIT_INTERRUPTED, BackupdError

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

_HIDDEN: Final = ("worker", "sender")
"""The daemon's own processes, which take their orders on standard input."""
_NEW_OBJECTS: Final = 20_000
"""How many new ones the garbage collector waits for: records come by the ten thousand, and hold no cycles."""

_EXAMPLES = """\
examples:
  nanumpay-backupd                                   serve in the foreground (this is what systemd does)
  nanumpay-backupd --config /tmp/try.toml            the same with another host file
  nanumpay-backupd run-once nanumpay                 one backup without a daemon: for cron, containers and CI
  nanumpay-backupd check-config                      read the host file and say whether it is right
  nanumpay-backupd rebuild                           read the catalog anew from the manifests
  nanumpay-backupd restore --from s3://my-backups/   restore on a new machine (nanumpay-backupd restore --help)

exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 degraded (a destination failed), 5 busy,
            6 not found, 7 refused, 130 interrupted
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

places:
  s3://BUCKET/PREFIX/            a bucket
  ftp://USER@HOST:PORT/FOLDER    an FTP server; ftps:// with TLS
  /FOLDER                        copies on a disk, or the backups folder of another machine
  NAME                           a [destination.NAME] of the host file

  More is said behind a question mark, by the keys of the host file:
  s3://backups/app/?endpoint_url=https://s3.example.com   ftps://backup@nas/copies?tls_fingerprint=...

environment (secrets never stand on the command line):
  MONGODB_URI                    the server to restore into, unless the host file names one; else localhost
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION
  AWS_ENDPOINT_URL               an S3 server that is not AWS
  NANUMPAY_FTP_PASSWORD          the password of an FTP place
  TMPDIR                         where to work, unless --work says it

moments (--at) are written as for backupctl: 10:30:59, "2026-11-21 10:30", 2026-11-21T01:30:59Z, "yesterday 18:00",
  "5 minutes ago", an oplog time, latest. Without a zone: that of the host file, else this host's.

exit codes: 0 restored (listed, shown), 1 failed, 2 usage, 6 not found, 7 refused (also: the question was answered with
            no, or nobody could be asked and --yes was missing), 130 stopped. The last lines say how things stand.

More: docs/recovery.md
"""


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="nanumpay-backupd",
        description="Backs up an application's data by its own settings, proves it, and keeps it recoverable.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nanumpay-backupd {__version__}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="host file (default: /etc/nanumpay/backupd.toml, if it exists)"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="run the daemon in the foreground (default)")
    once = commands.add_parser("run-once", help="make one backup in this process and exit")
    once.add_argument("job", nargs="?", default="nanumpay", help="the job's name (default: nanumpay)")
    once.add_argument(
        "--kind",
        choices=("full", "incremental", "differential"),
        default="full",
        help="a full, or the changes since the last slice or the last full (replica set)",
    )
    once.add_argument("--force", action="store_true", help="also when the job is disabled")
    restore = commands.add_parser(
        "restore",
        help="restore on a machine that has nothing but the copies",
        usage="%(prog)s [BACKUP|latest] --from PLACE [options]",
        description=_RESTORE_DESCRIPTION,
        epilog=_RESTORE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    restore.add_argument(
        "backup", nargs="?", default="latest", metavar="BACKUP|latest", help="its name; a slice stands for its end"
    )
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
    restore.add_argument("--collection", default="", metavar="C", help="only this collection")
    restore.add_argument("--work", default="", metavar="DIR", help="where to unpack (default: $TMPDIR or /var/tmp)")
    restore.add_argument(
        "--list", action="store_true", dest="list_only", help="only show what is there, and up to when it leads"
    )
    restore.add_argument("--dry-run", action="store_true", help="only show what would be done")
    restore.add_argument("--no-safety-backup", action="store_false", dest="safety", help="do not save what is there")
    restore.add_argument("--yes", action="store_true", help="do not ask")
    commands.add_parser("check-config", help="read the host file and say whether it is right")
    commands.add_parser("rebuild", help="read the catalog anew from the manifests in the backups folder")
    for name in _HIDDEN:
        commands.add_parser(name)
    # Not for people, so not in the help.
    commands._choices_actions = [item for item in commands._choices_actions if item.dest not in _HIDDEN]  # noqa: SLF001
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the process's exit code. An expected fault is a sentence, never a traceback."""
    gc.set_threshold(_NEW_OBJECTS)
    words = sys.argv[1:] if argv is None else argv
    try:
        if words == ["worker"]:  # every minute, so without the parser
            _work()
        if words == ["sender"]:
            _send()
        return _run(_parser().parse_args(words))
    except BackupdError as error:
        sys.stderr.write(f"nanumpay-backupd: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  → {error.hint}\n")
        sys.stderr.write(f"  (code {error.code})\n")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _leave(code: int) -> NoReturn:
    """End the process at once: the driver's threads would hold it up for half a second, and all is written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _work() -> NoReturn:
    from nanumpay_backupd import worker

    _leave(worker.main())


def _send() -> NoReturn:
    from nanumpay_backupd.notifiers import sender

    _leave(sender.main())


def _run(options: argparse.Namespace) -> int:
    if options.command in _HIDDEN:
        {"worker": _work, "sender": _send}[options.command]()
    if options.command == "run-once":
        from nanumpay_backupd.once import run_once

        return run_once(options.config, options.job, force=options.force, kind=options.kind)
    if options.command == "restore":
        from nanumpay_backupd.bare.choice import Wish
        from nanumpay_backupd.bare.command import restore_from

        wanted = {name: getattr(options, name) for name in Wish.__struct_fields__}
        return restore_from(options.config, Wish(**wanted))
    if options.command == "check-config":
        from nanumpay_backupd.once import check_config

        return check_config(options.config)
    if options.command == "rebuild":
        from nanumpay_backupd.once import rebuild_catalog

        return rebuild_catalog(options.config)
    from nanumpay_backupd.daemon import serve

    return serve(options.config)


if __name__ == "__main__":
    sys.exit(main())
