"""How the demo looks: numbered steps, commands with their output below them, ticks, a summary. Knows no backups."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO, cast

from nanumpay_backupd.cli.terminal import Screen, clean, width
from nanumpay_backupd.system.process import die_with_parent

__all__ = ["DemoError", "Teller", "fold"]

_TEXT: Final = "   "
_OUTPUT: Final = "     "
_WIDEST: Final = 100
_PATIENCE: Final = 60.0


class DemoError(Exception):
    """The demo cannot go on: a sentence, and what may help."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint


class Teller:
    """Writes to one stream; with colours and narrow tables on a terminal, plain elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self.screen = Screen(stream)
        self._steps = 0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def title(self, text: str) -> None:
        """Write the headline."""
        self._write(self.screen.paint(text, "bold"))

    def step(self, text: str) -> None:
        """Begin a numbered step."""
        self._steps += 1
        self._write("")
        self._write(self.screen.paint(f"{self._steps}. {text}", "bold", "cyan"))

    def heading(self, text: str) -> None:
        """Begin a part without a number."""
        self._write("")
        self._write(self.screen.paint(text, "bold", "cyan"))

    def note(self, text: str) -> None:
        """Explain something, in as many lines as it takes."""
        for line in fold(text, self._room(_TEXT, _WIDEST)):
            self._write(_TEXT + line)

    def typed(self, text: str, prompt: str = "$") -> None:
        """Show what a person could type; a long shell command is broken so that it can still be pasted."""
        room = self._room(_OUTPUT, _WIDEST) - len(" \\")
        lines = [part for line in text.splitlines() for part in fold(line, room, indent="    ")]
        if prompt == "$":
            lines[:-1] = [f"{line} \\" for line in lines[:-1]]
        first, *rest = [self.screen.paint(line, "bold") for line in lines]
        self._write(f"{_TEXT}{self.screen.paint(prompt, 'dim')} {first}")
        for line in rest:
            self._write(f"{_OUTPUT}{line}")

    def output(self, lines: Sequence[str]) -> None:
        """Show what something answered."""
        for line in lines:
            self._put(_OUTPUT, line)

    @property
    def arrow(self) -> str:
        """Return the symbol for "becomes"."""
        return self.screen.mark("hint")

    def indented(self) -> Screen:
        """Return a screen whose lines are output of the current step; it never moves the cursor."""
        return Screen(
            cast("TextIO", _Lines(self.screen.stream, self.output)), "always" if self.screen.colored else "never"
        )

    def tick(self, text: str, seconds: float | None = None) -> None:
        """Say what was reached, with the time that was measured."""
        took = self.screen.paint(f"  {seconds:.1f} s", "dim") if seconds is not None else ""
        self._put(_TEXT, f"{self.screen.paint(self.screen.mark('ok'), 'green', 'bold')} {text}{took}")

    def cross(self, text: str, hint: str = "") -> None:
        """Say what went wrong, and what may help."""
        self._put(_TEXT, f"{self.screen.paint(self.screen.mark('bad'), 'red', 'bold')} {text}")
        if hint:
            self._put(_TEXT, f"  {self.screen.mark('hint')} {hint}")

    def end_line(self) -> None:
        """Go on at the start of a line, whatever stands on the current one (a countdown, ``^C``)."""
        if self.screen.moves:
            self.screen.raw("\r\x1b[K")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Write labels and values in two columns."""
        room = max(width(label) for label, _ in rows)
        for label, value in rows:
            gap = " " * (room - width(label) + 3)
            self._put(_TEXT, f"{self.screen.paint(label, 'dim')}{gap}{value}", " " * (room + 3))

    def countdown(self, until: float, text: Callable[[int], str]) -> None:
        """Wait until ``time.time()`` is ``until``; on a terminal the seconds are seen going by."""
        left = until - time.time()
        if not self.screen.moves:
            if left > 0:
                self._write(_TEXT + text(round(left)))
                time.sleep(left)
            return
        while (left := until - time.time()) > 0:
            self.screen.raw("\r" + self.screen.fit(_TEXT + clean(text(int(left) + 1))) + "\x1b[K")
            time.sleep(min(left, left - int(left) + 0.001))
        self.screen.raw("\r\x1b[K")

    def command(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        shown: str = "",
        expected: Sequence[int] = (0,),
        keep: Callable[[str], bool] = lambda _: True,
        abridge: Callable[[str], str] = lambda line: line,
    ) -> list[str]:
        """Show a command, run it and show its output as it comes; returns all lines as they came.

        Lines that ``keep`` does not want are not shown, the others as ``abridge`` has them. Raises DemoError when the
        exit code is not among the ``expected`` ones.
        """
        self.typed(shown or shlex.join(argv))
        lines, hidden = [], 0
        with self._running(argv, environment, folder) as (process, output):
            for line in output:
                lines.append(line)
                if keep(line):
                    self.output([abridge(line)])
                else:
                    hidden += 1
            code = process.wait(_PATIENCE)
        if code not in expected:
            raise DemoError(f"`{shown or shlex.join(argv)}` ended with exit code {code}")
        if hidden:
            self.output([self.screen.paint(f"({hidden} lines of progress are left out here)", "dim")])
        return lines

    @contextlib.contextmanager
    def _running(
        self, argv: Sequence[str], environment: Mapping[str, str], folder: Path | None
    ) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
        """Run a command; on a terminal it gets one of its own, so that its tables fit beside the indentation."""
        reading, writing = self._terminal() if self.screen.tty else os.pipe()
        # A terminal that cannot move its cursor: lines that are drawn again and again cannot be indented.
        extra = {"TERM": "dumb"} if self.screen.tty else {}
        with open(reading, "rb", closefd=True) as stream:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=folder,
                env={**environment, **extra},
                preexec_fn=die_with_parent,
            )
            os.close(writing)
            try:
                yield process, _lines(stream.fileno())
            finally:
                if process.poll() is None:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(5)
                    process.kill()
                    process.wait()

    def _terminal(self) -> tuple[int, int]:
        reading, writing = pty.openpty()
        columns = max(40, self._room(_OUTPUT))
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        return reading, writing

    def _room(self, indent: str, most: int = 1 << 16) -> int:
        """Return how many cells of a line are left beside an indentation."""
        return min(self.screen.columns or most, most) - len(indent) - 1

    def _put(self, indent: str, text: str, hanging: str = "    ") -> None:
        """Write a line; on a terminal one that is too long goes on below, further to the right."""
        for part in fold(text, self._room(indent), indent=hanging):
            self._write((indent + part).rstrip())

    def _write(self, text: str) -> None:
        self.screen.line(text)
        self.screen.stream.flush()


class _Lines(io.TextIOBase):
    """A stream that hands on what is written, for those who write whole lines."""

    def __init__(self, stream: TextIO, take: Callable[[Sequence[str]], None]) -> None:
        self._stream = stream
        self._take = take

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the encoding of what is behind it."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Hand on some lines."""
        self._take(text.splitlines())
        return len(text)


def fold(text: str, room: int, *, indent: str = "") -> list[str]:
    """Break a text at spaces into lines of so many terminal cells, all but the first with ``indent`` before them.

    Colours take no room and wide characters two cells; a word that is longer than a line stays whole. Spaces inside a
    line stay as they are, so that tables do.
    """
    lines, line = [], ""
    for piece in re.findall(r" *[^ ]+", text):
        if line.strip() and width(line + piece) > room:
            lines.append(line)
            line = indent + piece.lstrip(" ")
        else:
            line += piece
    return [*lines, line]


def _lines(descriptor: int) -> Iterator[str]:
    """Yield the lines that come from a pipe or a terminal until its other side is closed."""
    rest = b""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO is how a terminal says that nobody is left on the other side
            data = b""
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip("\r") for line in whole)
        if not data:
            if rest:
                yield rest.decode("utf-8", "replace").rstrip("\r")
            return
