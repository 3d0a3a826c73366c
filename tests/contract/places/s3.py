"""An S3 bucket (rclone serve s3) in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.s3 import CACHE_SECONDS, S3Server, start_s3

__all__ = ["start_bucket"]


class Bucket(DiskParticipant):
    """Prefixes in one bucket."""

    durable: ClassVar[bool] = True
    settling: ClassVar[float] = 2 * CACHE_SECONDS

    def __init__(self, server: S3Server) -> None:
        self._server = server

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"prefix": f"{name}/sub/", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.root / self._server.bucket / name / "sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"secret_access_key": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"{self._server.endpoint.partition(':')[0]}://{host}:{port}"}


@contextlib.contextmanager
def start_bucket(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_s3(folder, certificate) as server:
        yield Bucket(server)
