"""Entry point of `nanumpay-backupd`: reads the command line and hands over. Wiring only."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from nanumpay_backupd.errors import EXIT_INTERRUPTED, BackupdError
from nanumpay_backupd.system.unasked import leave_out_half_installed

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

_EXIT_BROKEN_PIPE: Final = 141  # what the shell shows for `... | head` of any other program
_NEW_OBJECTS: Final = 20_000
"""How many new ones the garbage collector waits for: records come by the ten thousand, and hold no cycles."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the process's exit code. An expected fault is a sentence, never a traceback."""
    gc.set_threshold(_NEW_OBJECTS)
    leave_out_half_installed()
    words = sys.argv[1:] if argv is None else argv
    try:
        if words == ["worker"]:  # every minute, so without the parser
            _work()
        if words == ["sender"]:  # for the daemon too; takes its orders on standard input
            _send()
        from nanumpay_backupd.arguments import parse

        code = _run(parse(words))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader left, as `| head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
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
    if options.command == "worker":
        _work()
    if options.command == "run-once":
        from nanumpay_backupd.once import run_once

        return run_once(
            options.config,
            options.job,
            force=options.force,
            kind=options.kind,
            only_to=options.only_to,
            holds=options.holds,
        )
    if options.command == "restore":
        from nanumpay_backupd.bare.choice import Wish
        from nanumpay_backupd.bare.command import restore_from

        wanted = {name: getattr(options, name) for name in Wish.__struct_fields__}
        return restore_from(
            options.config, Wish(**{**wanted, "identities": tuple(options.identities), "only": tuple(options.only)})
        )
    if options.command == "check-config":
        from nanumpay_backupd.once import check_config

        return check_config(options.config)
    if options.command == "rebuild":
        from nanumpay_backupd.once import rebuild_catalog

        return rebuild_catalog(options.config)
    if options.command == "take-over-crontab":
        from nanumpay_backupd.system.clock import SystemClock
        from nanumpay_backupd.takeover.crontabs import take_over_crontab

        return take_over_crontab(options.users, SystemClock(), keep_in=options.keep_in, dry_run=options.dry_run)
    if options.command == "prepare-folder":
        from nanumpay_backupd.takeover.folders import Host, prepare_folder

        return prepare_folder(Host(options.config), dry_run=options.dry_run)
    from nanumpay_backupd.daemon import serve

    return serve(options.config)


if __name__ == "__main__":
    sys.exit(main())
