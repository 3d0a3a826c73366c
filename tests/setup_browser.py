"""Fetches axe-core, which finds what people cannot perceive on a page, into .tools/axe. Standard library only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["VERSION", "install_axe"]

VERSION: Final = "4.14.1"


def install_axe(tools: Path, run: Callable[..., None], say: Callable[[str], None]) -> str:
    """Fetch it where it is not there yet; returns what is missing for that, empty: it is there."""
    folder = tools / "axe"
    done = folder / "installed"
    if done.is_file() and done.read_text(encoding="utf-8").strip() == VERSION:
        return ""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"axe-core needs {', '.join(missing)}: apt-get install nodejs npm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    package = {"name": "axe-for-tests", "private": True, "dependencies": {"axe-core": VERSION}}
    (folder / "package.json").write_text(json.dumps(package), encoding="utf-8")
    say(f"fetching axe-core {VERSION}")
    run(("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"), cwd=folder)
    done.write_text(VERSION, encoding="utf-8")
    return ""
