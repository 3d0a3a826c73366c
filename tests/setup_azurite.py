"""Installs Azurite, Microsoft's emulator of Azure Storage, into .tools/azurite with npm. Standard library only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["VERSION", "install_azurite"]

VERSION: Final = "3.37.0"
_PACKAGE: Final = {
    "name": "azurite-for-tests",
    "private": True,
    "dependencies": {"azurite": VERSION},
}


def install_azurite(tools: Path, run: Callable[..., None], say: Callable[[str], None]) -> str:
    """Install it where it is not there yet; returns what is missing for that, empty: it is there.

    No package's own installer is run; npm compares what comes with the digests of its registry.
    """
    folder = tools / "azurite"
    done = folder / "installed"
    if done.is_file() and done.read_text(encoding="utf-8").strip() == VERSION:
        return ""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"Azurite needs {', '.join(missing)}: apt-get install nodejs npm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps(_PACKAGE), encoding="utf-8")
    say(f"fetching Azurite {VERSION} (365 MB on disk)")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock")
    run(("npm", "install", "--ignore-scripts", *quiet), cwd=folder)
    done.write_text(VERSION, encoding="utf-8")
    return ""
