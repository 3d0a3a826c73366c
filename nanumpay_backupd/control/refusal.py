"""Answers for the callers of a daemon that cannot start, on the socket that systemd handed over. Serves nothing else.

A caller who is left waiting would make systemd start the daemon again, and again, until it gives up on both.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.control.connection import fault_of
from nanumpay_backupd.control.listener import mark_down
from nanumpay_backupd.control.wire import Framer, encode
from nanumpay_backupd.errors import BackupdError

__all__ = ["refuse_callers"]

_INTERFACE: Final = "com.nanumpay.Backup"
_MOST: Final = 1024
"""Callers that are answered: more than the queue can hold."""


def refuse_callers(fd: int, error: BackupdError) -> int:
    """Tell everybody who waits on a listening socket why the daemon cannot start; returns how many there were.

    Those who only watch are kept from coming again. Waits for nobody. ``fd`` stays open; what is no listening socket
    is left alone.
    """
    fault = fault_of(error)
    reply = {
        "error": f"{_INTERFACE}.Failed",
        "parameters": {"fault": {**fault, "message": f"the daemon cannot start: {fault['message']}"}},
    }
    told = 0
    with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(fd)) as listening:
        listening.setblocking(False)  # noqa: FBT003 - its one argument
        where = listening.getsockname()
        if where and isinstance(where, str):
            mark_down(Path(where))
        while told < _MOST:
            accepted, _ = listening.accept()
            told += 1
            with contextlib.suppress(OSError), accepted:
                _refuse(accepted, reply)
    return told


def _refuse(accepted: socket.socket, reply: dict[str, Any]) -> None:
    """Answer one caller; a request that is there already says how the reply must end."""
    accepted.setblocking(False)  # noqa: FBT003 - its one argument
    framer = Framer()
    terminator = b"\0"
    with contextlib.suppress(BlockingIOError):
        while data := accepted.recv(65536):
            framer.feed(data)
        framer.end()
    if (frame := framer.take()) is not None:
        terminator = frame.terminator
    accepted.sendall(encode(reply, terminator))
