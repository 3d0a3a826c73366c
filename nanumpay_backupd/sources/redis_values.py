"""Asks a server for many keys at once: DUMP and the time of expiry of each. Knows no backup and no file."""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.sources.redis_link import Link, Refusal, Server, command, read_version

__all__ = ["Asking"]

_EXACT: Final = b"*2\r\n$4\r\nDUMP\r\n$%d\r\n%b\r\n*2\r\n$11\r\nPEXPIRETIME\r\n$%d\r\n%b\r\n"
_LEFT: Final = b"*2\r\n$4\r\nDUMP\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"
_FOR_EVER: Final = b":-1\r\n"
_GONE: Final = -2
"""What the server says of the time of a key that is gone: by then it was deleted, whatever DUMP returned before."""
_TIME: Final = command("TIME")


class Asking:
    """Questions and answers about keys over one connection; the next may be asked before these answers are read.

    ``exact``: the server tells when a key expires (since 7.0), and not only how much is left. ``timed``: its time is
    asked for too, which is done anyway where it is needed for that.
    """

    def __init__(self, link: Link, server: Server, *, timed: bool = False) -> None:
        self._link = link
        self.exact = read_version(server.version) >= (7, 0)
        self._timed = timed or not self.exact
        self.now = 0
        """The server's time (Unix milliseconds) when it answered last, 0: it was not asked."""

    def ask(self, names: list[bytes], before: bytes = b"") -> None:
        """Ask for keys; ``before`` are commands whose answers the caller reads first. Raises OSError."""
        one = _EXACT if self.exact else _LEFT
        asked = b"".join([one % (size := len(name), name, size, name) for name in names])
        self._link.send(b"%b%b%b" % (before, _TIME if self._timed else b"", asked))

    def read(self, count: int) -> tuple[list[int], list[bytes]]:
        """Read the answers about that many keys: when each expires (Unix milliseconds, 0: never), and what DUMP gave.

        The latter has the end of its line behind it, and is empty where there is no such key. Raises Refusal, OSError,
        EOFError, ValueError.
        """
        link = self._link
        readline, exactly = link.file.readline, link.exactly
        now = 0
        if self._timed:
            answer = link.reply()
            if isinstance(answer, Refusal):
                raise answer
            now = self.now = int(answer[0]) * 1000 + int(answer[1]) // 1000
        if self.exact:
            now = 0
        expiries: list[int] = []
        payloads: list[bytes] = []
        for _ in range(count):
            header = readline()
            if header[:1] != b"$":
                raise _refusal(header)
            size = int(header[1:])
            payload = exactly(size + 2) if size >= 0 else b""
            header = readline()
            if header == _FOR_EVER:
                expiries.append(0)
            elif header[:1] != b":":
                raise _refusal(header)
            else:
                left = int(header[1:])
                if left == _GONE:
                    payload = b""
                expiries.append(left + now if left > 0 else 0)
            payloads.append(payload)
        return expiries, payloads


def _refusal(header: bytes) -> Exception:
    if header[:1] == b"-":
        return Refusal(header[1:].strip().decode("utf-8", "replace"))
    return EOFError() if not header else ValueError("what answers there is no Redis server")
