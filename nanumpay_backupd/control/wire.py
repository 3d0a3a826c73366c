r"""Messages on the control socket: where one ends, whether it is JSON, how a reply is written. No sockets, no methods.

Varlink ends every message with NUL. For hands and shell scripts a newline does as well and is answered in kind:

* The first terminator met decides. A line that is one JSON object is a message; a blank one is nothing.
* A line that is only the beginning of an object is the head of a message that goes on until NUL (pretty-printed by
  some client). That is decided once, at the first line end, so a long message is never parsed again and again.
* Any other line is garbage and reported as such.
* At the end of input a complete object needs no terminator (``printf '{…}' | socat - UNIX-CONNECT:…``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec

__all__ = ["MAX_MESSAGE", "Frame", "Framer", "encode"]

MAX_MESSAGE: Final = 1 << 20
"""Bytes of one request, without its terminator."""

_NUL: Final = b"\0"
_NEWLINE: Final = b"\n"
_TERMINATOR: Final = re.compile(rb"[\0\n]")
_WHITE: Final = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """One message as it came in: an object, or the reason why it is none."""

    body: dict[str, Any] | None
    terminator: bytes
    """What the reply must end in."""
    problem: str = ""
    fatal: bool = False
    """The input cannot be understood any further: answer, then close."""


class Framer:
    """Cuts a byte stream into frames; how the stream was split on its way makes no difference.

    `feed` what was read, then call `take` until it returns None. The buffer holds at most ``limit`` bytes plus what
    was fed last, provided that `take` was called until None in between.
    """

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        """``limit`` in bytes for one message; a longer one makes a fatal frame."""
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0
        self._until_nul = False
        self._ended = False
        self._broken = False

    @property
    def pending(self) -> bool:
        """Tell whether a part of a message has come in."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes as they were read; ignored after a fatal frame."""
        if not self._broken:
            self._buffer += data

    def end(self) -> None:
        """Say that nothing follows."""
        self._ended = True

    def take(self) -> Frame | None:
        """Return the next message or piece of garbage, or None when more input is needed (or all is taken)."""
        while not self._broken:
            at = self._find()
            if (at if at >= 0 else len(self._buffer)) > self._limit:
                return self._too_long()
            if at >= 0:
                frame = self._cut(at)
            elif self._ended and self._buffer:
                frame = self._rest()
            else:
                return None
            if frame is not None:
                return frame
        return None

    def _find(self) -> int:
        """Return where the next terminator is, or -1; what was searched is not searched again."""
        if self._until_nul:
            at = self._buffer.find(_NUL, self._scanned)
        else:
            found = _TERMINATOR.search(self._buffer, self._scanned)
            at = found.start() if found else -1
        self._scanned = len(self._buffer)
        return at

    def _cut(self, at: int) -> Frame | None:
        """Decide about the bytes before a terminator; None when they are blank or not the whole message yet."""
        terminator = bytes(self._buffer[at : at + 1])
        text = bytes(self._buffer[:at])
        frame: Frame | None = None
        if text.strip(_WHITE):
            try:
                frame = Frame(_parse(text), terminator)
            except _IncompleteError as fault:
                if terminator == _NEWLINE:
                    self._until_nul = True
                    self._scanned = at + 1
                    return None
                frame = Frame(None, terminator, str(fault))
            except ValueError as fault:
                frame = Frame(None, terminator, str(fault))
        self._forget(at + 1)
        return frame

    def _rest(self) -> Frame | None:
        """Decide about what was left without a terminator. Who sends that is no Varlink client: answer with newline."""
        text = bytes(self._buffer)
        self._forget(len(text))
        if not text.strip(_WHITE):
            return None
        try:
            return Frame(_parse(text), _NEWLINE)
        except ValueError as fault:
            return Frame(None, _NEWLINE, str(fault))

    def _too_long(self) -> Frame:
        self._forget(len(self._buffer))
        self._broken = True
        return Frame(None, _NUL, f"it is longer than {self._limit} bytes, which is the most there may be", fatal=True)

    def _forget(self, length: int) -> None:
        del self._buffer[:length]
        self._scanned = 0
        self._until_nul = False


def encode(message: dict[str, Any], terminator: bytes) -> bytes:
    """Write a message as compact JSON with its terminator; raises TypeError for what is no JSON.

    Text that is no Unicode (a file name in an old encoding) is sent with question marks rather than not at all.
    """
    try:
        return msgspec.json.encode(message) + terminator
    except UnicodeEncodeError:
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace") + terminator


class _IncompleteError(ValueError):
    """The text is the beginning of an object: what is wrong with it is that it ends."""


def _parse(text: bytes) -> dict[str, Any]:
    """Return the one object that the text holds; raises ValueError with a reason that a person understands."""
    try:
        line = text.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as fault:
        raise ValueError(f"it is not UTF-8 (byte {fault.start + 1})") from None
    if not line.startswith("{"):
        raise ValueError("it is not a JSON object")
    try:
        body = json.loads(line, parse_constant=_refuse_constant)
        # A lone surrogate can be written as an escape, but no such text can be stored or printed.
        if "\\u" in line:
            json.dumps(body, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None
    except json.JSONDecodeError as fault:
        kind = _IncompleteError if fault.pos >= len(line) else ValueError
        raise kind(f"it is not JSON: {fault.msg} (character {fault.pos + 1})") from None
    except ValueError as fault:
        if "digits" in str(fault):  # Python's own guard against numbers that take for ever to read
            raise ValueError("it holds a number of too many digits") from None
        raise
    assert isinstance(body, dict)  # it starts with a brace
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it is not JSON: {name} is no number there")
