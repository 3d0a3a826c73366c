"""tar at work: its archive on the way into the pipeline, what it said, files that changed saved once more.

The archive goes from pipe to pipe without being copied. Only its end is held back: where files changed while they were
read, the marker of its end gives way to a second look at them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, SourceError, ToolError
from nanumpay_backupd.sources.base import Harvest, Stream
from nanumpay_backupd.sources.files_tar import (
    BLOCKING,
    CHANGED,
    OTHER,
    RENAMED,
    SOCKET,
    UNREADABLE,
    VANISHED,
    Last,
    Listing,
    again_command,
    first_command,
    read_said,
    unescape,
)
from nanumpay_backupd.sources.files_walk import headers_before
from nanumpay_backupd.system.spout import Spout, wide_pipe

__all__ = ["Faults", "TarStream"]

_BLOCK: Final = 512
_END: Final = 2 * _BLOCK
"""Bytes of zeros that end an archive; up to a whole record may follow."""
_HELD: Final = BLOCKING * _BLOCK + _END
_MOST: Final = 1 << 20
_REMEMBERED: Final = 10_000
_SHOWN: Final = 10
_PAUSE: Final = 0.2
"""Seconds before files that changed are read again."""
_ENOUGH: Final = 256 << 10
"""Bytes in the pipe that are worth handing on."""
_ROOM: Final = 2 * _ENOUGH
"""Bytes that a pipe has to take, if the end of an archive is to stay in it."""
_REST: Final = 1
"""Milliseconds between two looks at the pipe."""
_PATIENCE: Final = 10
"""Looks after which what little there is is handed on."""
_KILLED: Final = -9


class Faults:
    """What tar said, in a few words: how many of each kind, and which, the first of them."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys((CHANGED, VANISHED, UNREADABLE, SOCKET, RENAMED, OTHER), 0)
        self.named: dict[str, list[tuple[str, str]]] = {what: [] for what in self.counts}

    def __call__(self, line: bytes) -> None:
        """Take a line of tar's standard error."""
        said = read_said(line)
        if said.what not in self.counts:
            return
        self.counts[said.what] += 1
        if len(self.named[said.what]) < _REMEMBERED:
            self.named[said.what].append((said.name, said.text))

    def names(self, what: str) -> list[bytes]:
        """Return the names of the first of them, as they are on the disk."""
        return [unescape(os.fsencode(name)) for name, _ in self.named[what]]

    def told(self, what: str) -> str:
        """Return the first of them for a sentence: ``/a (Permission denied), /b (…) and 3 more``."""
        names = [f"{name} ({text})" if text else name for name, text in self.named[what][:_SHOWN]]
        more = self.counts[what] - len(names)
        return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")


class TarStream(Stream):
    """One archive under way. ``judge`` makes the harvest of what is known at its end."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        tar: str,
        roots: Sequence[str],
        work: Path,
        state: Path,
        xattrs: bool,
        retries: int,
        judge: Callable[[TarStream], Harvest],
    ) -> None:
        """Start tar; raises ToolError (``tool-missing``)."""
        self.faults = Faults()
        self.listing = Listing([os.fsencode(root.strip("/")) for root in roots])
        self.state = state
        self.looked_again = 0
        """Files that changed and were saved once more."""
        self._tar = tar
        self._work = work
        self._xattrs = xattrs
        self._retries = retries
        self._judge = judge
        self._total = 0
        self._held = b""
        self._origin = 0  # blocks of the archive before those that the present tar counts from
        self._fault: BaseException | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._spout = Spout(command, on_error=self.faults, on_index=self.listing)
        self._out, self._in = wide_pipe()
        self._thread = threading.Thread(target=self._run, name="tar", daemon=True)
        self._thread.start()
        self._closed = False

    def fileno(self) -> int:
        """See `Stream.fileno`."""
        return self._out

    @property
    def documents(self) -> int:
        """See `Stream.documents`."""
        return self.listing.items

    def kill(self) -> None:
        """See `Stream.kill`."""
        if self._closed:
            return
        self._closed = True
        self._stopped.set()
        with self._lock:
            self._spout.kill()
        os.close(self._out)
        self._thread.join()
        self._spout.close()

    def harvest(self, size: int) -> Harvest:
        """See `Stream.harvest`."""
        self._thread.join()
        if isinstance(self._fault, BackupdError):
            raise self._fault
        if self._fault is not None:
            raise ToolError(f"what tar wrote could not be taken: {self._fault}", retryable=True) from self._fault
        if size != self._total:
            raise ToolError(f"tar wrote {self._total} bytes, {size} came through", retryable=True)
        return self._judge(self)

    def _run(self) -> None:
        try:
            self._carry(self._spout.output)
            self._check(self._spout.wait())
            for _ in range(self._retries):
                if not self._again():
                    break
            self._write(self._held)
        except BaseException as error:  # noqa: BLE001 - told by harvest
            self._fault = error
        finally:
            os.close(self._in)

    def _carry(self, source: int) -> None:
        """Hand on all that comes but the end."""
        if fcntl.fcntl(source, fcntl.F_GETPIPE_SZ) >= _ROOM:
            self._leave_end(source)
        while data := os.read(source, _HELD):
            self._keep(data)

    def _leave_end(self, source: int) -> None:
        """Hand on what comes without copying it; what may be the end is left in the pipe until nothing follows."""
        ended = select.poll()
        ended.register(source, 0)
        before = quiet = 0
        while not ended.poll(_REST if quiet <= _PATIENCE else _PATIENCE * _REST):
            waiting = _waiting(source)
            quiet = quiet + 1 if waiting == before else 0
            if waiting >= _ENOUGH or (waiting > _HELD and quiet > _PATIENCE):
                # What was held of an archive before comes first.
                self._write(self._held)
                self._held = b""
                self._splice(source, waiting - _HELD)
                waiting = _HELD
            before = waiting

    def _keep(self, data: bytes) -> None:
        """Hold back the end of what came, hand on what is before it."""
        held = self._held + data
        if len(held) > _HELD:
            self._write(held[:-_HELD])
            held = held[-_HELD:]
        self._held = held

    def _splice(self, source: int, count: int) -> None:
        while count > 0:
            try:
                moved = os.splice(source, self._in, min(count, _MOST))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                moved = os.write(self._in, os.read(source, min(count, _MOST)))
            count -= moved
            self._total += moved

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._in, view)
            view = view[written:]
            self._total += written

    def _check(self, code: int) -> None:
        """Judge how tar ended; 1 is told of files that changed or vanished, 2 of files that could not be read too."""
        if code < 0:
            by = "for want of memory, or by somebody" if code == _KILLED else f"by signal {-code}"
            raise ToolError(f"tar was ended {by}", hint="see journalctl -k", code="tool-killed", retryable=True)
        faults = self.faults
        if faults.counts[RENAMED]:
            raise SourceError(
                f"a folder was moved just when the increment began: {faults.told(RENAMED)}",
                hint="it is tried again; where that is usual, save a filesystem's snapshot (docs/sources/files.md)",
            )
        if faults.counts[OTHER] or (code > 1 and not faults.counts[UNREADABLE] and not faults.counts[VANISHED]):
            raise ToolError(f"tar failed with exit code {code}: {faults.told(OTHER) or 'it said nothing'}")
        if self.listing.strange:
            raise ToolError(f"{self.listing.strange} lines of tar's listing cannot be understood", code="tool-failed")

    def _again(self) -> bool:
        """Save the files that changed while they were read once more; tells whether it is worth another look."""
        names = self.still_changing()
        if not names or self._stopped.wait(_PAUSE):
            return False
        end = self._end_of_content(self.listing.last)
        if end is None:
            return False
        listed = self._work / "again"
        listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
        self._write(self._held[: end - self._total])
        self._held, self._origin = b"", end // _BLOCK
        self.faults.named[CHANGED], self.faults.counts[CHANGED] = [], 0
        self.listing.again, members = True, self.listing.members
        with self._lock:
            if self._stopped.is_set():
                return False
            self._spout.close()
            self._spout = Spout(
                again_command(self._tar, str(listed), xattrs=self._xattrs), on_error=self.faults, on_index=self.listing
            )
        self._carry(self._spout.output)
        self._check(self._spout.wait())
        self.looked_again = max(self.looked_again, self.listing.members - members)
        return self.listing.members > members

    def still_changing(self) -> list[str]:
        """Return the plain files that changed, by their names on the disk; folders always may."""
        found = []
        for name in map(os.fsdecode, self.faults.names(CHANGED)):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(name).st_mode):
                    found.append(name)
        return list(dict.fromkeys(found))

    def _end_of_content(self, last: Last | None) -> int | None:
        """Return how long the archive is without the marker of its end, None: that cannot be said for sure.

        The content of the last file may end in zeros as the marker does; its place, its headers' length and its size
        tell.
        """
        total = self._total + len(self._held)
        zeros = len(self._held) - len(self._held.rstrip(b"\0"))
        least = -(-(total - zeros) // _BLOCK) * _BLOCK
        if last is None or zeros < _END:
            return None
        if last.kind != "-" or not last.size:
            return least if least >= self._total else None
        headers = self._headers_of(b"/" + last.name)
        end = (self._origin + last.block + headers) * _BLOCK - (-last.size // _BLOCK) * _BLOCK if headers else 0
        return end if max(least, self._total) <= end <= total - _END else None

    def _headers_of(self, name: bytes) -> int:
        """Return how many blocks of headers tar writes for a file; 0: it is sparse, or gone."""
        listed = self._work / "last"
        listed.write_bytes(name + b"\0")
        spout = Spout(first_command(self._tar, str(listed), xattrs=self._xattrs), on_error=lambda _: None)
        data = b""
        try:
            while len(data) < _MOST and (piece := os.read(spout.output, _MOST)):
                data += piece
        finally:
            spout.close()
        return headers_before(data)


def _waiting(fileno: int) -> int:
    """Return how many bytes a pipe holds."""
    return int(struct.unpack("i", fcntl.ioctl(fileno, termios.FIONREAD, bytes(4)))[0])
