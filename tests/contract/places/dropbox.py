"""A folder of a Dropbox in the contract suite: played (tests/servers/dropbox), or by `make test-dropbox` a real one."""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.destinations import DropboxDestination
from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.base import Keeping
from nanumpay_backupd.stores.dropbox_errors import AnswerError
from nanumpay_backupd.stores.dropbox_link import DropboxLink
from nanumpay_backupd.stores.payload import Body, ignore
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.dropbox import DropboxServer, start_dropbox

__all__ = ["real_folder", "start_folder"]


class DropboxFolder(DiskParticipant):
    """Folders in one account."""

    durable: ClassVar[bool] = True
    tells_room: ClassVar[bool] = True
    keeping: ClassVar[Keeping] = Keeping(versions=True, expiring=True)
    takes: ClassVar[frozenset[str]] = frozenset({"put", "list"})

    def __init__(self, server: DropboxServer) -> None:
        self._server = server
        self.port = int(server.endpoint.rpartition(":")[2])
        self.tls = bool(server.ca_file)

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"/{name}/sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.root / name / "sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"refresh_token": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"{self._server.endpoint.partition(':')[0]}://{host}:{port}"}

    def missing(self, name: str) -> dict[str, Any]:
        return {"path": f"/{name}/sub/file/deep"}

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        scope = "files.content.write" if right == "put" else "files.metadata.read"
        self._server.scopes.remove(scope)
        try:
            yield {}
        finally:
            self._server.scopes.add(scope)

    @contextlib.contextmanager
    def limited(self, name: str, size: int) -> Iterator[None]:
        before = self._server.quota
        self._server.quota = size
        try:
            yield
        finally:
            self._server.quota = before


class RealDropbox(Participant):
    """Folders in an app's own folder at Dropbox itself (`make test-dropbox`); each is deleted in the end."""

    durable: ClassVar[bool] = True
    tells_room: ClassVar[bool] = True
    keeping: ClassVar[Keeping] = Keeping(versions=True, expiring=True)

    def __init__(self, app_key: str, app_secret: str, refresh_token: str, endpoint: str = "") -> None:
        self._login = {
            "name": "dropbox",
            "app_key": app_key,
            "app_secret": Secret(app_secret),
            "refresh_token": Secret(refresh_token),
            "endpoint_url": endpoint,
            "chunk_size": 4 << 20,
        }
        self._root = f"/nanumpay-test-{secrets.token_hex(4)}"
        self._link = DropboxLink(DropboxDestination(**self._login), SystemClock())  # type: ignore[arg-type]  # by name

    def destination(self, name: str, **changes: Any) -> Destination:
        return DropboxDestination(**{**self._login, "path": f"{self._root}/{name}/sub", **changes})

    def names(self, name: str) -> set[str]:
        found: set[str] = set()
        try:
            page = self._link.call("files/list_folder", {"path": f"{self._root}/{name}/sub"})
            found |= {entry["name"] for entry in page["entries"]}
            while page["has_more"]:
                page = self._link.call("files/list_folder/continue", {"cursor": page["cursor"]})
                found |= {entry["name"] for entry in page["entries"]}
        except AnswerError as error:
            if not error.says("path/not_found"):
                raise
        return found

    def content(self, name: str, key: str) -> bytes:
        answer = self._link.open("files/download", {"path": f"{self._root}/{name}/sub/{key}"}, {})
        data: bytes = answer.read()
        answer.release_conn()
        return data

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            target = posixpath.normpath(f"{self._root}/{name}/sub/{path}")
            self._link.send("files/upload", {"path": target, "mode": {".tag": "overwrite"}}, Body(data, ignore))

    def made(self, name: str) -> bool:
        return bool(self.names(name))

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"refresh_token": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"https://{host}:{port}"}

    def tidy(self) -> None:
        """Delete all that was made."""
        with contextlib.suppress(AnswerError):
            self._link.call("files/delete_v2", {"path": self._root})
        self._link.close()


@contextlib.contextmanager
def real_folder() -> Iterator[Participant]:
    """Use Dropbox itself, with the login that the environment has."""
    app_key, app_secret, refresh_token = (
        os.environ[name] for name in ("DROPBOX_APP_KEY", "DROPBOX_APP_SECRET", "DROPBOX_REFRESH_TOKEN")
    )
    real = RealDropbox(app_key, app_secret, refresh_token, os.environ.get("DROPBOX_ENDPOINT", ""))
    try:
        yield real
    finally:
        real.tidy()


@contextlib.contextmanager
def start_folder(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_dropbox(folder, certificate) as server:
        yield DropboxFolder(server)
