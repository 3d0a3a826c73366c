"""A bucket of Google Cloud Storage (its emulator) in the contract suite."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import rsa

from nanumpay_backupd.settings.schema import Destination
from tests.contract.places.base import Participant
from tests.servers.certs import Certificate
from tests.servers.gcs import GcsServer, start_gcs

__all__ = ["start_google"]


class GoogleBucket(Participant):
    """Prefixes in one bucket."""

    durable: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"put", "list"})

    def __init__(self, server: GcsServer) -> None:
        self._server = server
        self.port = int(server.endpoint.rpartition(":")[2])
        self.tls = bool(server.ca_file)

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"prefix": f"{name}/sub/", **changes})

    def names(self, name: str) -> set[str]:
        prefix = f"{name}/sub/"
        return {key.removeprefix(prefix).partition("/")[0] for key in self._server.here() if key.startswith(prefix)}

    def content(self, name: str, key: str) -> bytes:
        return self._server.content(f"{name}/sub/{key}")

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self._server.plant(posixpath.normpath(f"{name}/sub/{path}"), data)

    def made(self, name: str) -> bool:
        return bool(self.names(name))

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return {"service_account": self._server.account(foreign, wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"{self._server.endpoint.partition(':')[0]}://{host}:{port}"}

    def missing(self, name: str) -> dict[str, Any]:
        return {"bucket": "nobody-made-this"}

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        self._server.denied |= {"POST", "PUT", "DELETE"} if right == "put" else {"LIST"}
        try:
            yield {}
        finally:
            self._server.denied.clear()


@contextlib.contextmanager
def start_google(certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_gcs(certificate) as server:
        yield GoogleBucket(server)
