"""``status --watch``: the status again and again, soon after anything happened. What it looks like is in `details`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from nanumpay_backupd.cli.context import Context
from nanumpay_backupd.cli.details import status_lines
from nanumpay_backupd.cli.progress import measures
from nanumpay_backupd.cli.terminal import clean
from nanumpay_backupd.control.client import DOWN
from nanumpay_backupd.errors import BackupdError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Reply = dict[str, Any]

__all__ = ["watch"]

_EVERY = 5.0  # seconds between looks when nothing happens, for the "ago" texts and the free disk
_MOVING = ("age", "recoverable_until", "slices", "next_slice", "window")
_PAUSE = 0.25  # seconds after a look before the next, however much happens
_RETRY = 2.0  # seconds before a daemon that went away is tried again
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen without a cursor, and back
_HOME, _TO_LINE_END, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


class _Listener:
    """Listens to the daemon's events in a thread of its own; ``stir`` is set whenever a new look is worth it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.stir = threading.Event()
        self.progress: dict[str, Reply] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> NoReturn:
        while True:
            try:
                if not _is_down(self._context):
                    for reply in self._context.stream("Watch"):
                        self._heard(reply["event"])
            except Exception:  # noqa: BLE001, S110 - the looks themselves say what is wrong; this only tries again
                pass
            self.progress.clear()
            time.sleep(_RETRY)

    def _heard(self, event: Reply) -> None:
        heard = event.get("progress")
        if heard:
            self.progress[heard["run"]] = heard
        elif event["kind"] in {"stage", "run-ended"}:
            self.progress.clear()  # what was heard is about a stage that ended; more is heard soon
        self.stir.set()


def watch(context: Context) -> int:
    """Show the status until Ctrl-C: in place on a terminal, elsewhere again whenever it changed."""
    first = context.ask("GetStatus")  # a daemon that is not there now is an error; later it is waited for
    listener = _Listener(context)
    if context.args.json or not context.screen.moves:
        return _repeat(context, listener, first)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the screen is put back
    context.screen.raw(_ENTER)
    try:
        return _redraw(context, listener, first)
    finally:
        context.screen.raw(_LEAVE)


def _repeat(context: Context, listener: _Listener, status: Reply) -> NoReturn:
    """Print the status whenever something else than the clock changed."""
    before: Reply | None = None
    while True:
        now = _settled(status)
        if now != before:
            if context.args.json:
                context.dump(status)
            else:
                context.screen.lines([""] if before else [])
                context.screen.lines(status_lines(context.screen, status))
            context.screen.stream.flush()
            before = now
        status = _next(context, listener) or status


def _settled(status: Reply) -> Reply:
    """Leave out what moves on by itself while nothing happens: the clock, the disk, how far the slices have come."""
    jobs = [{**job, "protection": {**job["protection"], **dict.fromkeys(_MOVING)}} for job in status["jobs"]]
    return {**status, "now": "", "free_bytes": 0, "jobs": jobs}


def _redraw(context: Context, listener: _Listener, status: Reply) -> NoReturn:
    """Draw the status in place; what is left of a daemon that went away stays, with a line that says so."""
    screen = context.screen
    reply: Reply | None = status
    while True:
        going = {run: f"{one['stage']} {measures(one)}".strip() for run, one in list(listener.progress.items())}
        lines = status_lines(screen, reply or status, going)
        footer = "Ctrl-C ends this" if reply else f"{_trouble(context)}. Ctrl-C ends this"
        lines = [screen.fit(clean(line)) for line in lines[: screen.rows - 3]]
        lines += ["", screen.paint(footer, "dim" if reply else "red")]
        screen.raw(_HOME + "".join(f"{line}{_TO_LINE_END}\n" for line in lines) + _TO_END)
        reply = _next(context, listener)
        status = reply or status


def _next(context: Context, listener: _Listener) -> Reply | None:
    """Wait until there is something to see, and look; None when the daemon does not answer."""
    listener.stir.wait(_EVERY)
    time.sleep(_PAUSE)
    listener.stir.clear()
    try:
        if not _is_down(context):
            return context.ask("GetStatus")
    except BackupdError:
        pass
    time.sleep(_RETRY)
    return None


def _is_down(context: Context) -> bool:
    """Tell whether the daemon is down on purpose, and connecting would start it: that is not for who only watches."""
    return os.path.exists(context.args.socket + DOWN)  # noqa: PTH110 - pathlib costs more than all the rest


def _trouble(context: Context) -> str:
    if _is_down(context):
        return "The daemon was stopped, or cannot start; waiting for it (systemctl status nanumpay-backupd)"
    return "The daemon does not answer; trying again"
