"""Where a scratch server's Unix socket goes when its own folder's path is too long for the kernel. Starts nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

from nanumpay_backupd.system.files import remove_tree

__all__ = ["socket_folder"]

_LONGEST: Final = 107
"""Bytes of a socket's path that the kernel takes (sun_path)."""
_PREFIX: Final = "nanumpay-drill-"


def socket_folder(folder: Path, name: str) -> Path:
    """Return ``folder`` where a socket ``name`` fits into it, else a new short one, which the caller removes.

    Short ones of processes that are gone are removed on the way.
    """
    if len(bytes(folder / name)) <= _LONGEST:
        return folder
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.getuid() and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
                remove_tree(left)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
