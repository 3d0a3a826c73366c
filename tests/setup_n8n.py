"""Installs n8n into .tools/n8n with npm, for `make test-n8n` only: 1.6 GB, some minutes. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["VERSION", "install_n8n"]

VERSION: Final = "2.4.8"
"""The version of which n8n-recording.json is. It runs on Node.js 20.19 to 24; newer ones of n8n need Node.js 24."""
_PACKAGE: Final = {
    "name": "n8n-for-tests",
    "private": True,
    "dependencies": {"n8n": VERSION},
    # The one that it names is not in the registry, but at an address of its own.
    "overrides": {"xlsx": "0.18.5"},
}
_NATIVE: Final = ("sqlite3", "isolated-vm")
"""What is compiled here; no other package's own installer is run."""


def install_n8n(tools: Path, run: Callable[..., None], say: Callable[[str], None]) -> str:
    """Install n8n where it is not there yet; returns what is missing for that, empty: it is there."""
    folder = tools / "n8n"
    done = folder / "installed"
    if done.is_file() and done.read_text(encoding="utf-8").strip() == VERSION:
        return ""
    missing = [name for name in ("node", "npm", "g++", "make", "python3") if shutil.which(name) is None]
    if missing:
        return f"n8n needs {', '.join(missing)}: apt-get install nodejs npm build-essential"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps(_PACKAGE), encoding="utf-8")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock")
    steps: tuple[tuple[str, Sequence[str]], ...] = (
        (f"fetching n8n {VERSION} (1.6 GB)", ("npm", "install", "--ignore-scripts", *quiet)),
        (f"compiling {' and '.join(_NATIVE)}", ("npm", "rebuild", *_NATIVE)),
    )
    for text, command in steps:
        say(text)
        run(command, cwd=folder)
    done.write_text(f"{VERSION}{os.linesep}", encoding="utf-8")
    return ""
