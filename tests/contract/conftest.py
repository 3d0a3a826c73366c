"""Every kind of Store on its real server: `place` gives a test an empty one of each."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.settings.schema import Destination, LocalDestination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.throttled import ThrottledStore
from tests.servers.certs import Certificate, make_certificate
from tests.servers.ftp import start_pyftpdlib, start_vsftpd
from tests.servers.s3 import CACHE_SECONDS, start_s3

KINDS: Final = (
    "local",
    "local-throttled",
    "s3",
    "s3-https",
    "ftp-pyftpdlib",
    "ftps-pyftpdlib",
    "ftp-vsftpd",
    "ftps-vsftpd",
)
REMOTE: Final = KINDS[2:]
_QUICK: Final = 400 << 20
"""Bytes per second of the throttled kind: it waits, but not long."""


@dataclass
class Server:
    """A kind of store: how to make its settings for a folder name, and where the folder then is on this disk."""

    kind: str
    destination: Callable[..., Destination]
    on_disk: Callable[[str], Path]


@dataclass
class Place:
    """An empty destination of some kind."""

    kind: str
    store: Store
    folder: Path
    """Where the server keeps the objects, as plain files, so that a test sees them without the store."""
    destination: Callable[..., Destination]
    """Settings of this destination; keyword arguments change single ones."""

    def settle(self) -> None:
        """Let the server notice what a test wrote to its disk directly."""
        if self.kind.startswith("s3"):
            time.sleep(2 * CACHE_SECONDS)

    def names(self) -> set[str]:
        """Return what the server really has there, hidden files and all."""
        return {entry.name for entry in self.folder.iterdir()} if self.folder.is_dir() else set()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make one authority and server certificate for all."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session", params=KINDS)
def store_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Server]:
    """Run the real server of each kind, once."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    with contextlib.ExitStack() as stack:
        if kind.startswith("local"):
            yield _local(folder, kind)
        elif kind.startswith("s3"):
            s3 = stack.enter_context(start_s3(folder, certificate if kind == "s3-https" else None))

            def bucket(name: str, **changes: Any) -> Destination:
                return s3.destination(**{"prefix": f"{name}/sub/", **changes})

            yield Server(kind, bucket, lambda name: s3.root / s3.bucket / name / "sub")
        else:
            pem = certificate if kind.startswith("ftps") else None
            if "pyftpdlib" in kind:
                ftp = stack.enter_context(start_pyftpdlib(folder / "root", pem))
            else:
                ftp = stack.enter_context(start_vsftpd(folder / "root", folder, pem))

            def account(name: str, **changes: Any) -> Destination:
                return ftp.destination(**{"path": f"{ftp.base}/{name}/sub", **changes})

            yield Server(kind, account, lambda name: ftp.home / name / "sub")


def _local(folder: Path, kind: str) -> Server:
    def settings(name: str, **changes: Any) -> Destination:
        return LocalDestination(**{"name": "disk2", "path": str(folder / name / "sub"), **changes})

    return Server(kind, settings, lambda name: folder / name / "sub")


_numbers = itertools.count(1)


@pytest.fixture
def place(store_server: Server) -> Iterator[Place]:
    """Give an empty destination whose folder does not exist yet."""
    name = f"test{next(_numbers)}"

    def destination(**changes: Any) -> Destination:
        return store_server.destination(name, **changes)

    driver = open_store(destination())
    throttled = store_server.kind.endswith("throttled")
    with ThrottledStore(driver, _QUICK) if throttled else driver as store:
        yield Place(store_server.kind, store, store_server.on_disk(name), destination)
