"""How the C library keeps memory of this process. No knowledge of what it is for."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

__all__ = ["few_pools", "keep_blocks"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_POOLS: Final = 2
_BLOCK: Final = 4 << 20
_KEPT: Final = 64 << 20


def few_pools() -> None:
    """Let threads share two pools of memory instead of having one each: what one has freed another one uses.

    For a small service with many threads, before they begin (the web page: 5 MB less of 75). Where the C library is
    another one, nothing is changed.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _POOLS)


def keep_blocks() -> None:
    """Use blocks of up to 4 MiB again instead of getting each anew from the kernel, which fills it with zeros first.

    For processes through which data flows block by block: an eighth of their processor time went into that (measured
    with 1.2 GB of small files). At most 64 MiB more are kept. Where the C library is another one, nothing is changed.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _BLOCK)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
