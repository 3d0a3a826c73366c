"""Azure Blob Storage for tests: Azurite, Microsoft's emulator: it asks for logins, compares MD5, knows SAS and tiers.

`make tools` installs it into .tools/azurite (npm).
"""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from azure.storage.blob import AccountSasPermissions, ContainerClient, ResourceTypes, generate_account_sas

from nanumpay_backupd.settings.destinations import AzureDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.process import Program, free_port, serving

__all__ = ["ACCOUNT", "KEY", "Azurite", "start_azurite"]

ACCOUNT: Final = "nanumpaytest"
KEY: Final = base64.b64encode(b"a key of sixty-four bytes, which is what Azure's accounts have....").decode()
_CONTAINER: Final = "backups"
_PROGRAM: Final = Path(__file__).resolve().parents[2] / ".tools/azurite/node_modules/azurite/dist/src/blob/main.js"


@dataclass(frozen=True)
class Azurite:
    """A running server with one container."""

    endpoint: str
    ca_file: str
    program: Program = field(repr=False)
    container: str = _CONTAINER

    def destination(self, **changes: Any) -> AzureDestination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "azure",
            "container": self.container,
            "account": ACCOUNT,
            "account_key": Secret(KEY),
            "endpoint_url": self.endpoint,
            "ca_file": self.ca_file,
            "block_size": 2 << 20,
            "parallel_blocks": 2,
            "timeout": 20.0,
        }
        return AzureDestination(**{**settings, **changes})

    def client(self) -> ContainerClient:
        """Return a client of one's own."""
        return ContainerClient(
            self.endpoint,
            self.container,
            credential={"account_name": ACCOUNT, "account_key": KEY},
            connection_verify=self.ca_file or True,
            retry_total=0,
        )

    def make_container(self) -> None:
        """Make the container; it keeps all in memory, and so has none when it was started again."""
        with contextlib.closing(self.client()) as client:
            client.create_container()

    def sas(self, permission: str = "rwdlac", *, ended: bool = False) -> Secret:
        """Return a shared access signature with these rights."""
        return Secret(
            generate_account_sas(
                ACCOUNT,
                KEY,
                ResourceTypes(container=True, object=True),
                AccountSasPermissions.from_string(permission),  # type: ignore[no-untyped-call]
                datetime.now(UTC) + timedelta(days=-1 if ended else 1),
                start=datetime.now(UTC) - timedelta(days=2),
            )
        )


@contextlib.contextmanager
def start_azurite(
    folder: Path, certificate: Certificate | None = None, address: str = "127.0.0.1", port: int = 0
) -> Iterator[Azurite]:
    """Run a server that keeps its data below ``folder``; with a certificate it speaks HTTPS and takes bearer tokens."""
    node = shutil.which("node")
    if node is None or not _PROGRAM.is_file():
        raise FileNotFoundError("no Azurite: make tools")
    port = port or free_port()
    argv = [node, str(_PROGRAM), "--blobHost", address, "--blobPort", str(port)]
    argv += ["--skipApiVersionCheck", "--disableTelemetry", "--silent", "--inMemoryPersistence"]
    if certificate is not None:
        argv += ["--cert", str(certificate.certificate), "--key", str(certificate.key), "--oauth", "basic"]
    environment = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    scheme = "https" if certificate else "http"
    trusted = str(certificate.authority) if certificate else ""
    with serving(argv, folder / "azurite.log", address, port, environment) as program:
        server = Azurite(f"{scheme}://{address}:{port}/{ACCOUNT}", trusted, program)
        server.make_container()
        yield server
