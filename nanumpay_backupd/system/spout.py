"""A child that pours bytes into a pipe, with its lines and a further stream beside. Knows no tool, and not what flows.

It dies with us. What it writes to standard output is read by whom it is handed to; the others are read in threads here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from nanumpay_backupd.system.process import child_environment, die_with_parent
from nanumpay_backupd.system.shortage import unstartable

__all__ = ["Spout", "Take", "wide_pipe", "widen"]

Take = Callable[[bytes], None]
_WIDE: Final = 1 << 20
"""Bytes in a pipe: what Linux allows everybody (fs.pipe-max-size)."""
_PIECE: Final = 256 << 10
_REST: Final = 0.02
"""Seconds."""


class Spout:
    """A running child. ``output`` is the reading end of its standard output, closed with `close`."""

    def __init__(self, argv: Sequence[str | bytes], *, on_error: Take, on_index: Take | None = None) -> None:
        """Start it; raises ToolError (``tool-missing``).

        ``on_error`` gets each line of standard error without its end, from a thread; ``on_index`` the pieces of a
        further stream as they come, whose descriptor stands in the place of ``{index}`` in ``argv``.
        """
        name = Path(os.fsdecode(argv[0])).name
        ends: tuple[int, ...] = ()
        if on_index is not None:
            ends = wide_pipe()
            argv = [os.fsencode(part).replace(b"{index}", b"%d" % ends[1]) for part in argv]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - argv comes from configuration, no shell
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=ends[1:],
                env=child_environment({"LC_ALL": "C"}),
                preexec_fn=die_with_parent,
                bufsize=0,
            )
        except OSError as error:
            for end in ends[:1]:
                os.close(end)
            raise unstartable(name, error) from None
        finally:
            for end in ends[1:]:
                os.close(end)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.output = self._process.stdout.fileno()
        widen(self.output)
        self._threads = [_begin(_lines, self._process.stderr, on_error)]
        if on_index is not None:
            self._threads.append(_begin(_pieces, os.fdopen(ends[0], "rb", buffering=0), on_index))

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for its end, and that all lines were read; returns the exit code (negative: the signal)."""
        code = self._process.wait()
        for thread in self._threads:
            thread.join()
        return code

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """End it if it still runs and let go of its output; may be called twice."""
        self.kill()
        self.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def wide_pipe() -> tuple[int, int]:
    """Make a pipe that holds as much as may be."""
    ends = os.pipe()
    widen(ends[0])
    return ends


def widen(fileno: int) -> None:
    """Let a pipe hold as much as may be."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fileno, fcntl.F_SETPIPE_SZ, _WIDE)


def _begin(read: Callable[[IO[bytes], Take], None], stream: IO[bytes], take: Take) -> threading.Thread:
    thread = threading.Thread(target=read, args=(stream, take), name="spout", daemon=True)
    thread.start()
    return thread


def _lines(stream: IO[bytes], take: Take) -> None:
    with stream, open(stream.fileno(), "rb", closefd=False) as lines:
        for line in lines:
            take(line.rstrip(b"\n"))


def _pieces(stream: IO[bytes], take: Take) -> None:
    with stream:
        while data := stream.read(_PIECE):
            take(data)
            if len(data) < _PIECE:
                # Written line by line: worth a look when more has come.
                time.sleep(_REST)
