"""What libraries load unasked although it is of no use. No knowledge of what they are for."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

__all__ = ["leave_out_half_installed"]

_NEEDED: Final = ("service_identity", "OpenSSL")
_TRIES: Final = "pymongo.pyopenssl_context"


def leave_out_half_installed() -> None:
    """Keep pymongo from loading `cryptography` where what it needs beside it, to ask for OCSP, is not installed.

    It tries in this order: loads the one, does not find the others, and goes on without. What was loaded stays: 8 MB of
    memory in every process, and 30 ms. With all of them installed nothing is changed. To be called before pymongo is
    imported.
    """
    if not all(importlib.util.find_spec(name) for name in _NEEDED):
        sys.modules[_TRIES] = None  # type: ignore[assignment]  # the import system's own sign for "not to be had"
