"""From the command line to the exit code: finds the command, runs it, and puts every fault into words."""

from __future__ import annotations

import os
import sys

from nanumpay_backupd.cli.context import Context, complain
from nanumpay_backupd.cli.options import parse
from nanumpay_backupd.cli.terminal import Screen
from nanumpay_backupd.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, BackupdError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

_ACTIONS = {"run", "cancel", "delete", "send"}
_RARE = {
    "fleet",
    "web-user",
    "token",
    "sync",
    "copies",
    "copy",
    "swaps",
    "wait",
    "notify",
    "report",
    "monitor",
    "completion",
}
_EXIT_BROKEN_PIPE = 141  # what the shell shows for `... | head` of any other program


def run(argv: list[str] | None = None) -> int:
    """Carry out one command line (default: ``sys.argv[1:]``) and return the exit code."""
    color = "auto"
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        color = args.color
        code = _version() if args.version else _command(args.command)(Context(args, Screen(sys.stdout, color)))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BackupdError as error:
        complain(error.message, error.hint, error.code, color)
        return error.exit_code
    except Exception as error:
        if os.environ.get("BACKUPCTL_DEBUG") == "1":
            raise
        hint = "BACKUPCTL_DEBUG=1 shows where; after an upgrade: systemctl restart nanumpay-backupd"
        complain(f"unexpected {type(error).__name__}: {error}", hint, "internal", color)
        return EXIT_FAILED


def _command(name: str) -> Callable[[Context], int]:
    """Find the function of a command; only the module that has it is imported."""
    if name in _ACTIONS:
        from nanumpay_backupd.cli import actions

        return {"run": actions.run, "cancel": actions.cancel, "delete": actions.delete, "send": actions.send}[name]
    if name in {"prune", "pin", "unpin"}:
        from nanumpay_backupd.cli import keeping

        return {"prune": keeping.prune, "pin": keeping.pin, "unpin": keeping.unpin}[name]
    if name == "restore":
        from nanumpay_backupd.cli.restore import restore

        return restore
    if name == "ls":
        from nanumpay_backupd.cli.listing import ls

        return ls
    if name == "timeline":
        from nanumpay_backupd.cli.timeline import timeline

        return timeline
    if name in {"verify", "drill"}:
        from nanumpay_backupd.cli import proofs

        return {"verify": proofs.verify, "drill": proofs.drill}[name]
    if name in _RARE:
        return _rare(name)
    from nanumpay_backupd.cli import commands

    return {
        "status": commands.status,
        "jobs": commands.jobs,
        "runs": commands.runs,
        "list": commands.list_backups,
        "show": commands.show,
        "settings": commands.settings,
        "doctor": commands.doctor,
        "test": commands.test,
        "logs": commands.logs,
        "reload": commands.reload,
        "rebuild": commands.rebuild,
    }[name]


def _rare(name: str) -> Callable[[Context], int]:
    if name in {"sync", "copies", "copy"}:
        from nanumpay_backupd.cli import placing

        return {"sync": placing.sync, "copies": placing.copies, "copy": placing.copy}[name]
    if name == "swaps":
        from nanumpay_backupd.cli.swaps import swaps

        return swaps
    if name == "wait":
        from nanumpay_backupd.cli.waiting import wait

        return wait
    if name in {"notify", "report"}:
        from nanumpay_backupd.cli import telling

        return {"notify": telling.notify, "report": telling.report}[name]
    if name in {"web-user", "token"}:
        from nanumpay_backupd.cli import page

        return {"web-user": page.user, "token": page.token}[name]
    if name == "fleet":
        from nanumpay_backupd.cli.fleet import fleet

        return fleet
    if name == "monitor":
        from nanumpay_backupd.cli.monitor import monitor

        return monitor
    from nanumpay_backupd.cli.completion import completion

    return completion


def _version() -> int:
    from nanumpay_backupd import __version__

    sys.stdout.write(f"backupctl {__version__}\n")
    return EXIT_OK
