"""A container of Azure Blob Storage (Azurite) in the contract suite."""

from __future__ import annotations

import base64
import contextlib
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import Participant
from tests.servers.azurite import ACCOUNT, Azurite, start_azurite
from tests.servers.certs import Certificate

__all__ = ["start_container"]


class Container(Participant):
    """Prefixes in one container. Blocks that no blob has yet are not to be seen: Azure forgets them after a week."""

    durable: ClassVar[bool] = True
    forgets: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"put", "list"})

    def __init__(self, server: Azurite) -> None:
        self._server = server
        self.port = int(server.endpoint.rpartition(":")[2].partition("/")[0])
        self.program = server.program
        self.tls = bool(server.ca_file)
        self._client = server.client()

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"prefix": f"{name}/sub/", **changes})

    def names(self, name: str) -> set[str]:
        prefix = f"{name}/sub/"
        found = self._client.list_blob_names(name_starts_with=prefix)
        return {key.removeprefix(prefix).partition("/")[0] for key in found}

    def content(self, name: str, key: str) -> bytes:
        return self._client.download_blob(f"{name}/sub/{key}").readall()

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self._client.upload_blob(posixpath.normpath(f"{name}/sub/{path}"), data, overwrite=True)

    def made(self, name: str) -> bool:
        return bool(self.names(name))

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"account_key": Secret(base64.b64encode(wrong.encode() * 3).decode())}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"{self._server.endpoint.partition(':')[0]}://{host}:{port}/{ACCOUNT}"}

    def missing(self, name: str) -> dict[str, Any]:
        return {"container": "nobody-made-this"}

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        rights = "rl" if right == "put" else "rwdac"
        yield {"account_key": Secret(""), "sas_token": self._server.sas(rights)}

    def revived(self) -> None:
        self._server.make_container()


@contextlib.contextmanager
def start_container(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_azurite(folder, certificate) as server:
        yield Container(server)
