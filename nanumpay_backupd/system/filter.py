"""A child between two streams: bytes go in, other bytes come out, and it may ask something at a terminal of its own.

It dies with us and keeps what it says. Knows no tool, and not what flows through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import termios
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Self

from nanumpay_backupd.system.family import end_family
from nanumpay_backupd.system.process import born, child_environment, die_with_parent, gone
from nanumpay_backupd.system.secrets import Secret, redact
from nanumpay_backupd.system.shortage import unstartable

__all__ = ["Filter", "Typed"]

_KEPT_LINES: Final = 200
_PIPE: Final = 1 << 20
"""Bytes that a pipe holds where it may: what every user may have. Else it is 64 KiB."""
_LONGEST_LINE: Final = 4096
_ECHO: Final = 3
"""Where the flags of a terminal lie in what termios gives."""
Typed = tuple[str, Secret]
"""The last word of a question (as ``passphrase:``), and what is typed in answer to it."""


class Filter:
    """A running child. One thread writes, another one may read meanwhile; `close` always.

    With ``typed`` it gets a terminal, at which these answers are given in order, each when its question has come: for
    tools that take a passphrase in no other way. What is typed is never echoed and never kept.
    """

    def __init__(self, argv: Sequence[str], *, pass_fds: Sequence[int] = (), typed: Sequence[Typed] = ()) -> None:
        """Start it; raises ToolError (``tool-missing``)."""
        self.name = Path(argv[0]).name
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._ended = False
        self._threads: list[threading.Thread] = []
        master, slave = _terminal() if typed else (-1, -1)

        def before() -> None:
            die_with_parent()
            if slave >= 0:
                os.setsid()
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        try:
            self._process = subprocess.Popen(  # noqa: S603 - argv comes from configuration, no shell
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(*pass_fds, *((slave,) if slave >= 0 else ())),
                env=child_environment({"LC_ALL": "C.UTF-8"}),
                preexec_fn=before,
                bufsize=0,
            )
        except OSError as error:
            if master >= 0:
                os.close(master)
            raise unstartable(self.name, error) from None
        finally:
            if slave >= 0:
                os.close(slave)
        born(self._process.pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for stream in (self._process.stdin, self._process.stdout):
            # Fewer changes between two processes that hand on hundreds of MB; a limit of the host may forbid it.
            with contextlib.suppress(OSError):
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE)
        self._begin("filter-said", self._listen, self._process.stderr)
        if master >= 0:
            self._begin("filter-typed", self._type, master, tuple(typed))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def said(self) -> list[str]:
        """Return the last lines that it wrote beside its output, without secrets; complete once it was waited for."""
        return [redact(line) for line in self._lines]

    def write(self, data: bytes | memoryview) -> None:
        """Give it all of ``data``; raises BrokenPipeError when it takes no more."""
        assert self._process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self._process.stdin.write(view) :]

    def end_input(self) -> None:
        """Say that nothing follows; may be called twice."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def read(self, most: int) -> bytes:
        """Return what it has written, at most so many bytes; empty: there is no more."""
        assert self._process.stdout is not None
        return self._process.stdout.read(most) or b""

    def ended(self, timeout: float) -> bool:
        """Wait up to so many seconds for its end; tells whether it has come."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self) -> int:
        """Wait for its end and return the exit code (negative: the signal)."""
        code = self._process.wait()
        gone(self._process.pid)
        for thread in self._threads:
            thread.join()
        return code

    def kill(self) -> None:
        """End it at once, with whatever it started; harmless when it has ended."""
        if self._process.poll() is None:
            end_family(self._process.pid)

    def close(self) -> None:
        """End it if it still runs, and let go of its streams; may be called twice."""
        if self._ended:
            return
        self._ended = True
        self.kill()
        self.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def _begin(self, name: str, work: object, *arguments: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                self._lines.append(line.decode("utf-8", "replace").rstrip())

    def _type(self, master: int, typed: tuple[Typed, ...]) -> None:
        """Answer the questions; the terminal is there for as long as the child is."""
        asked = b""
        waiting = list(typed)
        try:
            while data := os.read(master, _LONGEST_LINE):
                asked = (asked + data)[-_LONGEST_LINE:]
                if waiting and asked.rstrip().lower().endswith(waiting[0][0].encode("utf-8")):
                    os.write(master, waiting.pop(0)[1].reveal().encode("utf-8") + b"\n")
                    asked = b""
        except OSError:
            pass  # EIO: the other side is closed
        finally:
            os.close(master)


def _terminal() -> tuple[int, int]:
    """Make a terminal that echoes nothing: its two sides."""
    master, slave = os.openpty()
    flags = termios.tcgetattr(slave)
    flags[_ECHO] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, flags)
    return master, slave
