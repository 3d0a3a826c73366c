"""Finds the programs that tests, demo and benchmark run: first where `make tools` puts them, then on PATH."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

__all__ = ["PROJECT", "ToolMissingError", "find_tool", "has_tool", "tools_path"]

PROJECT: Final = Path(__file__).resolve().parent.parent.parent
_SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class ToolMissingError(Exception):
    """A program that tests need is not on this machine."""


def tools_path() -> str:
    """Return a PATH with mongod, mongodump, mongorestore, rclone, vsftpd and this environment's own scripts on it."""
    first = [
        PROJECT / ".tools" / "bin",
        Path(sys.executable).parent,
        Path(sysconfig.get_path("purelib")) / "fiftyone" / "db" / "bin",
    ]
    rest = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *_SYSTEM_FOLDERS]
    return os.pathsep.join(dict.fromkeys([*map(str, first), *rest]))


def has_tool(name: str) -> bool:
    """Tell whether a program is there."""
    return shutil.which(name, path=tools_path()) is not None


def find_tool(name: str) -> Path:
    """Return a program's path; raises ToolMissingError saying how to get it."""
    found = shutil.which(name, path=tools_path())
    if found is None:
        raise ToolMissingError(f"{name} is not on this machine: run `make tools`")
    return Path(found)
