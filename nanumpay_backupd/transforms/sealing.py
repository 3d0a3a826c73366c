"""What every method of encryption needs around its tool: a pipe through it, the file that it makes, its faults.

Knows neither keys nor formats: how a message looks without a key (`Framing`) the methods say themselves.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from nanumpay_backupd.errors import ToolError, VerifyError
from nanumpay_backupd.system.filter import Filter
from nanumpay_backupd.transforms.growing import writer_into

__all__ = [
    "DamagedError",
    "Framing",
    "Meant",
    "SealWriter",
    "Sealed",
    "others_than_meant",
    "piped",
    "some",
    "tool_failed",
]

_CHUNK: Final = 1 << 20
_HEAD: Final = 4 << 10
_SHOWN: Final = 3
Meant = Callable[[tuple[str, ...]], bool]
"""Tells whether a header names exactly those to whom is to be encrypted."""


class DamagedError(VerifyError):
    """A message is not whole, or not what was encrypted: the keys are not to blame."""

    default_code = "verify-structure"


class Sealed(msgspec.Struct, frozen=True):
    """What was written: bytes and SHA-256 of the encrypted file, and whom its header names (`Framing.header`)."""

    size: int
    sha256: str
    header: tuple[str, ...]


class Framing(ABC):
    """Reads a message as far as it can be read without a key: who can open it, and whether it is whole.

    `feed` takes the bytes as they come, `finish` says that there are no more. Both raise DamagedError.
    """

    def __init__(self, label: str) -> None:
        """``label`` names the file in faults."""
        self._label = label

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Go on with these bytes."""

    def finish(self, plain_size: int | None = None) -> None:
        """Make sure that nothing is missing, of ``plain_size`` bytes where that is known and the format tells it."""
        self.end()
        if None not in (plain_size, self.plain_size) and plain_size != self.plain_size:
            raise self.damaged(f"{self.plain_size} bytes are encrypted instead of {plain_size}")

    @abstractmethod
    def end(self) -> None:
        """Make sure that it is whole in itself."""

    @property
    @abstractmethod
    def header(self) -> tuple[str, ...]:
        """Return the marks of those who can open it, in order; complete after the first mebibyte."""

    @property
    def plain_size(self) -> int | None:
        """Return the bytes that are encrypted, where the format tells them (at the end), else None."""
        return None

    def damaged(self, reason: str) -> DamagedError:
        """Return the fault of a message that is not whole."""
        return DamagedError(
            f"{self._label} is damaged: {reason}", hint="do not rely on this file; another copy may be whole"
        )


class SealWriter:
    """Encrypts what it is given into a new file, hashed while it is written; `finish` makes it a whole one.

    `close` always: without `finish` before, the tool is ended and the file removed. Making it durable is left to whom
    it is handed. Raises ToolError where the tool dies, OSError of the disk.
    """

    def __init__(self, child: Filter, output: Path, framing: Framing, meant: Meant) -> None:
        self._child = child
        self._output = output
        self._framing = framing
        self._meant = meant
        self._digest = hashlib.sha256()
        self._size = 0
        self._fault: Exception | None = None
        self._whole = False
        self.head = b""
        """The first bytes of the message, as soon as the tool has written any; up to 4 KiB."""
        try:
            self._file: IO[bytes] = output.open("xb", buffering=0)
        except OSError:
            child.close()
            raise
        self._thread = threading.Thread(target=self._collect, name="seal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Return the tool's process id."""
        return self._child.pid

    def write(self, data: bytes) -> None:
        """Encrypt and write; what is written lags behind."""
        try:
            self._child.write(data)
        except BrokenPipeError:
            self._thread.join()
            raise self._failed() from None

    def finish(self) -> Sealed:
        """End the message and the file; nothing can be written afterwards."""
        self._child.end_input()
        self._thread.join()
        if self._child.wait() != 0 or self._fault is not None:
            raise self._failed()
        self._framing.finish()
        if not self._meant(self._framing.header):
            raise others_than_meant(self._child, self._framing)
        self._whole = True
        return Sealed(size=self._size, sha256=self._digest.hexdigest(), header=self._framing.header)

    def close(self) -> None:
        """Let go; may be called twice."""
        self._child.kill()
        self._thread.join()
        self._child.close()
        self._file.close()
        if not self._whole:
            self._output.unlink(missing_ok=True)

    def _collect(self) -> None:
        """Take what the tool writes, in a thread of its own."""
        try:
            write = writer_into(self._file)
            while data := self._child.read(_CHUNK):
                write(data)
                self.head = self.head or data[:_HEAD]
                self._digest.update(data)
                self._framing.feed(data)
                self._size += len(data)
        except Exception as error:  # noqa: BLE001 - handed to the thread that writes, which raises it
            self._fault = error
            self._child.kill()

    def _failed(self) -> Exception:
        if self._fault is not None:
            return self._fault
        return tool_failed(self._child, self._child.wait(), "encrypt")


def piped(child: Filter, chunks: Iterable[bytes], judge: Callable[[int, list[str]], None]) -> Iterator[bytes]:
    """Yield what ``child`` makes of ``chunks``, which another thread gives it; then let ``judge`` look at the end.

    ``judge`` gets the exit code and what the child said. What ``chunks`` raises comes out here, before any judgement.
    The child has ended when this ends; ``chunks`` may have been taken in part only.
    """
    fault: list[BaseException] = []

    def feed() -> None:
        try:
            for chunk in chunks:
                child.write(chunk)
        except BrokenPipeError:
            pass  # it has ended; how, is judged below
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads
            fault.append(error)
        finally:
            child.end_input()

    thread = threading.Thread(target=feed, name="feed", daemon=True)
    thread.start()
    try:
        while data := child.read(_CHUNK):
            yield data
        thread.join()
        code = child.wait()
        if fault:
            raise fault[0]
        judge(code, child.said)
    finally:
        child.kill()
        thread.join()
        child.close()


def tool_failed(child: Filter, code: int, what: str) -> ToolError:
    """Return the fault of a tool that did not do its work, for reasons of its own."""
    if code < 0:
        return ToolError(
            f"{child.name} was ended by signal {-code} before it was finished",
            hint="was memory short? journalctl -k | grep -i oom",
            retryable=True,
        )
    said = "; ".join(line for line in child.said if not line.startswith("[GNUPG:]"))[-500:]
    return ToolError(f"{child.name} could not {what} (exit code {code}): {said or 'it gave no reason'}")


def others_than_meant(child: Filter, framing: Framing) -> ToolError:
    """Return the fault of a tool that encrypted to somebody else."""
    return ToolError(
        f"{child.name} encrypted to others than it was told: {some(framing.header)}",
        hint="look at the key files: recipients in [encryption]",
    )


def some(names: Iterable[str]) -> str:
    """Name a few of many."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
