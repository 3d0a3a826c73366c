"""Fetches the servers of destinations that tests run out of Debian's packages into .tools: none is installed.

Installing would start them. Run by setup_tools; standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["APACHE", "OPENSSH", "PROFTPD", "SWIFT", "fetch_stores", "fetch_swift"]

OPENSSH: Final = ("openssh-server", "openssh-sftp-server", "libwrap0")
APACHE: Final = ("apache2-bin", "libapr1", "libaprutil1")
PROFTPD: Final = (
    "proftpd-core",
    "proftpd-mod-crypto",
    *("libhashkit2", "libhiredis0.14", "libmemcached11", "libmemcachedutil2", "libpcre2-posix3", "libsodium23"),
)
SWIFT: Final = (
    "python3-swift",
    *("liberasurecode1", "python3-certifi", "python3-cffi", "python3-cffi-backend", "python3-chardet"),
    *("python3-charset-normalizer", "python3-cryptography", "python3-dateutil", "python3-debtcollector"),
    *("python3-dnspython", "python3-eventlet", "python3-greenlet", "python3-idna", "python3-importlib-metadata"),
    *("python3-iso8601", "python3-lxml", "python3-more-itertools", "python3-msgpack", "python3-netaddr"),
    *("python3-netifaces", "python3-oslo.config", "python3-oslo.context", "python3-oslo.i18n", "python3-oslo.log"),
    *("python3-oslo.serialization", "python3-oslo.utils", "python3-packaging", "python3-paste"),
    *("python3-pastedeploy", "python3-pastedeploy-tpl", "python3-pastescript", "python3-pbr", "python3-pkg-resources"),
    *("python3-ply", "python3-pycparser", "python3-pyeclib", "python3-pyinotify", "python3-pyparsing"),
    *("python3-requests", "python3-rfc3986", "python3-six", "python3-stevedore", "python3-tempita", "python3-tz"),
    *("python3-urllib3", "python3-wrapt", "python3-xattr", "python3-yaml", "python3-zipp"),
    *("swift", "swift-account", "swift-container", "swift-object", "swift-proxy"),
)
"""Run by Debian's own Python, beside whatever else is installed there."""
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


def fetch_stores(tools: Path, download: Callable[[Sequence[str], Path], None]) -> None:
    """Fetch what is not there; ``download`` brings Debian packages into a folder."""
    for name, packages in (("sshd", OPENSSH), ("apache2", APACHE), ("proftpd", PROFTPD)):
        if not (tools / "bin" / name).exists():
            _fetch(tools, name, packages, download)


def fetch_swift(tools: Path, download: Callable[[Sequence[str], Path], None]) -> None:
    """Fetch OpenStack Swift, which only `make test-places` runs, if it is not there."""
    stamp = tools / SWIFT[0] / "complete"
    if not stamp.exists():
        _unpack(tools, SWIFT, download)
        stamp.touch()


def _unpack(tools: Path, packages: Sequence[str], download: Callable[[Sequence[str], Path], None]) -> Path:
    """Unpack packages into a tree that is called as the first of them."""
    cache, tree = tools / "download", tools / packages[0]
    for folder in (cache, tree):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    download(packages, cache)
    for package in sorted(cache.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    shutil.rmtree(cache)
    return tree


def _fetch(tools: Path, name: str, packages: Sequence[str], download: Callable[[Sequence[str], Path], None]) -> None:
    """Unpack packages, and write a starter of the program with the libraries that came with it."""
    tree = _unpack(tools, packages, download)
    starter = tools / "bin" / name
    starter.parent.mkdir(exist_ok=True)
    # sshd starts itself again for each connection, and so has to be called by its absolute path.
    starter.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{tree / _LIBRARIES}" exec "{tree / "usr/sbin" / name}" "$@"\n', encoding="utf-8"
    )
    starter.chmod(0o755)
