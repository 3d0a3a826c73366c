"""Tells when it is memory, processes or descriptors that ran out, however the fault shows. Frees nothing."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from nanumpay_backupd.errors import BackupdError, ToolError

__all__ = ["shortage", "shortage_named", "unstartable"]

_HINT: Final = (
    "see what else takes it, and the limits of the service: "
    "systemctl show nanumpay-backupd -p LimitNOFILE -p TasksMax -p LimitNPROC -p LimitAS -p MemoryMax"
)
_WHAT: Final = {
    errno.EAGAIN: "process or thread",
    errno.ENOMEM: "memory",
    errno.EMFILE: "file descriptor",
    errno.ENFILE: "file descriptor on this host",
}


def shortage(error: BaseException) -> BackupdError | None:
    """Return the fault that says what ran out (``out-of-resources``), or None where it is something else."""
    what = _what(error)
    return None if what is None else BackupdError(_sentence(what), hint=_HINT, code="out-of-resources", retryable=True)


@contextlib.contextmanager
def shortage_named() -> Iterator[None]:
    """Raise what `shortage` says in the place of a fault that is one."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        fault = shortage(error)
        if fault is None:
            raise
        raise fault from None


def unstartable(name: str, error: OSError) -> ToolError:
    """Return the fault of a program that cannot be started: it is not there, or the host lets nothing more start."""
    why = f"{name} cannot be started: {error.strerror}"
    what = _what(error)
    if what is not None:
        return ToolError(f"{why}: {_sentence(what)}", hint=_HINT, code="out-of-resources", retryable=True)
    return ToolError(why, hint="is it installed, and may the service's user run it?", code="tool-missing")


def _what(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        return _WHAT.get(error.errno or 0)
    # Python has no type of its own for it.
    return "thread" if isinstance(error, RuntimeError) and "start new thread" in str(error) else None


def _sentence(what: str) -> str:
    return "no more memory was to be had" if what == "memory" else f"no further {what} was to be had"
