"""Fetches the servers of destinations that tests run out of Debian's packages into .tools: none is installed.

Installing would start them. Run by setup_tools; standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["APACHE", "OPENSSH", "fetch_stores"]

OPENSSH: Final = ("openssh-server", "openssh-sftp-server", "libwrap0")
APACHE: Final = ("apache2-bin", "libapr1", "libaprutil1")
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


def fetch_stores(tools: Path, download: Callable[[Sequence[str], Path], None]) -> None:
    """Fetch what is not there; ``download`` brings Debian packages into a folder."""
    for name, packages in (("sshd", OPENSSH), ("apache2", APACHE)):
        if not (tools / "bin" / name).exists():
            _fetch(tools, name, packages, download)


def _fetch(tools: Path, name: str, packages: Sequence[str], download: Callable[[Sequence[str], Path], None]) -> None:
    """Unpack packages into a tree, and write a starter of the program with the libraries that came with it."""
    cache, tree = tools / "download", tools / packages[0]
    for folder in (cache, tree):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    download(packages, cache)
    for package in sorted(cache.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    shutil.rmtree(cache)
    starter = tools / "bin" / name
    starter.parent.mkdir(exist_ok=True)
    # sshd starts itself again for each connection, and so has to be called by its absolute path.
    starter.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{tree / _LIBRARIES}" exec "{tree / "usr/sbin" / name}" "$@"\n', encoding="utf-8"
    )
    starter.chmod(0o755)
