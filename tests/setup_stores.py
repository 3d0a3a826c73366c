"""Fetches the servers of destinations that tests run out of Debian's packages into .tools: none is installed.

Installing would start them. Run by setup_tools; standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["OPENSSH", "fetch_stores"]

OPENSSH: Final = ("openssh-server", "openssh-sftp-server", "libwrap0")
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


def fetch_stores(tools: Path, download: Callable[[Sequence[str], Path], None]) -> None:
    """Fetch what is not there; ``download`` brings Debian packages into a folder."""
    starter = tools / "bin" / "sshd"
    if starter.exists():
        return
    cache, tree = tools / "download", tools / "openssh"
    for folder in (cache, tree):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    download(OPENSSH, cache)
    for package in sorted(cache.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    shutil.rmtree(cache)
    starter.parent.mkdir(exist_ok=True)
    # It starts itself again for each connection, and so has to be called by its absolute path.
    starter.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{tree / _LIBRARIES}" exec "{tree / "usr/sbin/sshd"}" "$@"\n', encoding="utf-8"
    )
    starter.chmod(0o755)
