"""A repository of restic, in a folder and in a bucket, in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import Participant
from tests.servers.restic import Repository
from tests.servers.s3 import CACHE_SECONDS, start_s3

__all__ = ["start_restic", "start_restic_in_bucket"]


class Vault(Participant):
    """Folders in the snapshots of one repository: making one for each test would take long."""

    many: ClassVar[int] = 5
    durable: ClassVar[bool] = True
    takes_empty: ClassVar[bool] = False

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.tells_room = repository.name.startswith("/")  # type: ignore[misc]  # of two kinds
        self.settling = 0.0 if self.tells_room else 2 * CACHE_SECONDS  # type: ignore[misc]

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._repository.destination(**{"path": f"/{name}/sub", **changes})

    def names(self, name: str) -> set[str]:
        root = f"/{name}/sub/"
        paths = [path for one in self._repository.snapshots() for path in one["paths"]]
        return {path.removeprefix(root) for path in paths if path.startswith(root)}

    def content(self, name: str, key: str) -> bytes:
        path = f"/{name}/sub/{key}"
        return self._repository.run("dump", "--no-lock", "--path", path, "latest", path)

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            *folders, last = path.split("/")
            above = f"/{name}" if folders and folders[0] == ".." else f"/{name}/sub"
            inside = [folder for folder in folders if folder != ".."]
            self._repository.put("/".join([above, *inside, last]), data)

    def made(self, name: str) -> bool:
        return bool(self.names(name))

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"secret_access_key": Secret(wrong)}

    def missing(self, name: str) -> dict[str, Any]:
        return {"repository": f"{self._repository.name}-absent"}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        path = urlsplit(self._repository.name.removeprefix("s3:")).path
        return {"repository": f"s3:http://{host}:{port}{path}"}


@contextlib.contextmanager
def start_restic(folder: Path) -> Iterator[Participant]:
    """Make a repository in a folder."""
    repository = Repository(str(folder / "vault"), folder / "vault")
    repository.create()
    yield Vault(repository)


@contextlib.contextmanager
def start_restic_in_bucket(folder: Path) -> Iterator[Participant]:
    """Make one in a bucket of rclone's."""
    with start_s3(folder) as server:
        place = server.destination()
        inside = server.root / server.bucket / "vault"
        login = {"access_key_id": place.access_key_id, "secret_access_key": place.secret_access_key}
        repository = Repository(f"s3:{server.endpoint}/{server.bucket}/vault", inside, login)
        repository.create()
        yield Vault(repository)
