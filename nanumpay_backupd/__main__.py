"""Entry point of `nanumpay-backupd`: reads the command line and hands over. Wiring only."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import EXIT_INTERRUPTED, BackupdError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  nanumpay-backupd                                   serve in the foreground (this is what systemd does)
  nanumpay-backupd --config /tmp/try.toml            the same with another host file
  nanumpay-backupd run-once nanumpay                 one backup without a daemon: for cron, containers and CI
  nanumpay-backupd check-config                      read the host file and say whether it is right
  nanumpay-backupd rebuild                           read the catalog anew from the manifests

exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 degraded (a destination failed), 5 busy,
            6 not found, 7 refused, 130 interrupted
"""


def _parser() -> argparse.ArgumentParser:
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
    once.add_argument("--force", action="store_true", help="also when the job is disabled")
    commands.add_parser("check-config", help="read the host file and say whether it is right")
    commands.add_parser("rebuild", help="read the catalog anew from the manifests in the backups folder")
    commands.add_parser("worker")  # for the daemon itself; takes its orders on standard input
    # Not for people, so not in the help.
    commands._choices_actions = [item for item in commands._choices_actions if item.dest != "worker"]  # noqa: SLF001
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the process's exit code. An expected fault is a sentence, never a traceback."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
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


def _run(options: argparse.Namespace) -> int:
    if options.command == "worker":
        from nanumpay_backupd import worker

        _leave(worker.main())
    if options.command == "run-once":
        from nanumpay_backupd.once import run_once

        return run_once(options.config, options.job, force=options.force)
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
