"""Shows a run while it goes: live lines on a terminal, one plain line per finished stage elsewhere.

It only looks at what the daemon sends; it knows no order of stages and may start in the middle of a run.
"""

from __future__ import annotations

import threading
import time

from nanumpay_backupd.cli.terminal import Screen, clean
from nanumpay_backupd.cli.words import Times, duration, plural, rate, size

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    Reply = dict[str, Any]

__all__ = ["Progress", "measures"]

_TICK = 0.2  # seconds between redraws, so that the elapsed time moves although nothing is heard
_NAME_WIDTH = 10
_MARKS = {"succeeded": ("ok", "green"), "degraded": ("warn", "yellow"), "skipped": ("warn", "dim")}


def measures(progress: Reply) -> str:
    """Write what a progress record counts: bytes (of a total), documents, rate, and its text."""
    parts = []
    done, total = progress["bytes"], progress.get("total")
    if total:
        parts.append(f"{size(done)} of {size(total)} ({min(100, 100 * done // total)} %)")
    elif done:
        parts.append(size(done))
    if progress["documents"]:
        parts.append(plural(progress["documents"], "document"))
    if progress["rate"] > 0:
        parts.append(rate(progress["rate"]))
    if progress["text"]:
        parts.append(progress["text"])
    return ", ".join(parts)


class _Going:
    """One stage that is going: when it began by our own clock, and what was last heard of it."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.progress: Reply | None = None


class Progress:
    """Feed it every reply of the streams ``Run`` or ``Watch``; close it before anything else is written.

    Used as a context manager. ``said`` holds the messages that were shown. ``clock`` gives seconds that never go
    backwards.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self.said: set[str] = set()
        self._screen = screen
        self._clock = clock
        self._lock = threading.Lock()
        self._going: dict[str, _Going] = {}
        self._told: set[tuple[str, str]] = set()
        self._shown = 0
        self._spin = 0
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True) if screen.moves else None

    def __enter__(self) -> Self:
        if self._ticker:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the live lines away and stop redrawing; may be called twice."""
        self._stop.set()
        if self._ticker and self._ticker.is_alive():
            self._ticker.join()
        with self._lock:
            self._going.clear()
            self._draw([])

    def say(self, text: str) -> None:
        """Write a line that stays."""
        with self._lock:
            self._draw([text])

    def feed(self, run: Reply | None, event: Reply | None) -> None:
        """Take in one reply: the run as it is by now, and the event that the reply is about."""
        event = event or {}
        with self._lock:
            lines: list[str] = []
            # Of a group several jobs are in stages of the same name at a time.
            whose = f"{event['member']} " if event.get("member") else ""
            heard = event.get("progress")
            at = f"{whose}{heard['stage']}" if heard else ""
            if at in self._going:
                self._going[at].progress = heard
            known = () if whose else (run or {}).get("stages", ())
            if event.get("kind") in {"message", "progress", "stage"}:
                # The run in a reply is newer than the event in it: its stages' ends would overtake messages.
                known = [one for one in known if one.get("outcome") is None]
            for stage in [*known, *([event["stage"]] if event.get("stage") else [])]:
                lines.extend(self._stage(stage, event.get("time"), whose))
            if at in self._going:
                self._going[at].progress = heard
            if whose and event.get("kind") in {"run-started", "run-ended"}:
                lines.extend(self._member(event))
            # The publish stage's own line says the same as "committed NAME".
            told = event.get("message") or ""
            if event.get("kind") == "message" and told and not told.startswith("committed "):
                self.said.add(event["message"])
                lines.append(f"  {whose.rstrip()}{': ' if whose else ''}{event['message']}")
            if lines:
                self._draw(lines)

    def _member(self, event: Reply) -> list[str]:
        """Say that a member of a group begins, or how it ended."""
        run = event["run"]
        if run.get("outcome") is None:
            return []
        self._going = {name: going for name, going in self._going.items() if not name.startswith(f"{run['job']} ")}
        name, style = _MARKS.get(run["outcome"], ("bad", "red"))
        error = run.get("error")
        what = f": {error['message']}" if error else f": {run['backup']}" if run.get("backup") else ""
        return [f"{self._screen.paint(self._screen.mark(name), style)} {run['job']} {run['outcome']}{what}"]

    def _stage(self, stage: Reply, at: str | None, whose: str = "") -> list[str]:
        name = whose + stage["stage"]
        key = (name, stage["started"])
        if key in self._told:
            return []
        if stage.get("outcome") is None:
            if name not in self._going:
                past = max(0.0, Times.between(stage["started"], at)) if at else 0.0
                self._going[name] = _Going(self._clock() - past)
            return []
        self._told.add(key)
        going = self._going.pop(name, None)
        return [self._finished(stage, going.progress if going else None, whose)]

    def _finished(self, stage: Reply, heard: Reply | None, whose: str) -> str:
        name, bad = _MARKS.get(stage["outcome"], ("bad", "red"))
        mark = self._screen.paint(self._screen.mark(name), bad)
        spent = duration(Times.between(stage["started"], stage.get("ended") or stage["started"]))
        detail = stage["detail"] or (measures({**heard, "text": "", "total": None}) if heard else "")
        outcome = "" if stage["outcome"] == "succeeded" else f"{stage['outcome']}  "
        return f"{mark} {whose}{stage['stage'].ljust(_NAME_WIDTH)} {spent.rjust(9)}  {outcome}{detail}".rstrip()

    def _live(self) -> list[str]:
        spin = self._screen.symbols["spin"]
        lines = []
        for name, going in self._going.items():
            spent = duration(self._clock() - going.began)
            text = measures(going.progress) if going.progress else ""
            line = f"{spin[self._spin % len(spin)]} {name.ljust(_NAME_WIDTH)} {spent.rjust(9)}  {text}".rstrip()
            lines.append(self._screen.fit(clean(line)))
        return lines

    def _draw(self, finished: list[str]) -> None:
        """Write lines that stay, and the live ones below them; the lock is held."""
        if not self._screen.moves:
            self._screen.raw("".join(clean(line) + "\n" for line in finished))
            return
        live = self._live()
        back = f"\x1b[{self._shown}A\r\x1b[J" if self._shown else ""
        stay = [clean(line) for line in finished]
        self._screen.raw(back + "".join(line + "\n" for line in [*stay, *live]))
        self._shown = len(live)

    def _tick(self) -> None:
        while not self._stop.wait(_TICK):
            with self._lock:
                self._spin += 1
                self._draw([])
