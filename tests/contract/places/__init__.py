"""Every type of destination on its real server, as the suites (test_stores, test_faults) ask for it.

A new one is a module here with a subclass of `base.Participant`, and its place in `EVERY`. A usual run has each server
once, by TLS where it can; `make test-places` sets NANUMPAY_TEST_ALL_PLACES and has all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from tests.contract.places.azure import start_container
from tests.contract.places.base import Participant, Place
from tests.contract.places.dropbox import real_folder, start_folder
from tests.contract.places.ftp import start_ftp
from tests.contract.places.gcs import start_google
from tests.contract.places.local import start_local
from tests.contract.places.restic import start_restic, start_restic_in_bucket
from tests.contract.places.s3 import start_bucket, start_ceph, start_swift_bucket
from tests.contract.places.sftp import start_ssh
from tests.contract.places.webdav import start_webdav, start_webdav_apache
from tests.servers.certs import Certificate
from tests.workbench import small_disk

__all__ = ["DRIVERS", "FULL", "LOCAL", "MOMENTS", "PARTICIPANTS", "REMOTE", "TLS", "Participant", "Place"]

Start = Callable[[Path, Certificate], AbstractContextManager[Participant]]

LOCAL: Final[dict[str, Start]] = {
    "local": lambda folder, _: start_local(folder),
    "local-throttled": lambda folder, _: start_local(folder),
    "restic": lambda folder, _: start_restic(folder),
}
EVERY: Final[dict[str, Start]] = {
    "s3": lambda folder, _: start_bucket(folder),
    "s3-https": start_bucket,
    "s3-swift": lambda folder, _: start_swift_bucket(folder),
    "s3-ceph": lambda folder, _: start_ceph(folder),
    "ftp-pyftpdlib": lambda folder, _: start_ftp(folder, "pyftpdlib"),
    "ftps-pyftpdlib": lambda folder, certificate: start_ftp(folder, "pyftpdlib", certificate),
    "ftp-vsftpd": lambda folder, _: start_ftp(folder, "vsftpd"),
    "ftps-vsftpd": lambda folder, certificate: start_ftp(folder, "vsftpd", certificate),
    "ftp-proftpd": lambda folder, _: start_ftp(folder, "proftpd"),
    "ftps-proftpd": lambda folder, certificate: start_ftp(folder, "proftpd", certificate),
    "gcs": lambda _, __: start_google(),
    "gcs-https": lambda _, certificate: start_google(certificate),
    "azure": lambda folder, _: start_container(folder),
    "azure-https": start_container,
    "dropbox": lambda folder, _: start_folder(folder),
    "dropbox-https": start_folder,
    "sftp": lambda folder, _: start_ssh(folder),
    "webdav": lambda folder, _: start_webdav(folder),
    "webdav-https": start_webdav,
    "webdav-apache": lambda folder, _: start_webdav_apache(folder),
}
_ALL: Final = bool(os.environ.get("NANUMPAY_TEST_ALL_PLACES"))
_USUAL: Final = frozenset(
    {
        *("s3-https", "ftp-pyftpdlib", "ftps-vsftpd", "ftps-proftpd", "gcs", "azure-https", "dropbox-https", "sftp"),
        *("webdav-https", "webdav-apache"),
    }
)
REMOTE: Final[dict[str, Start]] = {
    **{kind: start for kind, start in EVERY.items() if _ALL or kind in _USUAL},
    # By make test-dropbox only: it takes an account.
    **({"dropbox-real": lambda _, __: real_folder()} if os.environ.get("NANUMPAY_TEST_REAL_DROPBOX") else {}),
}
DRIVERS: Final = tuple(
    kind for kind in REMOTE if _ALL or kind not in {"ftp-pyftpdlib", "ftps-proftpd", "webdav-apache", "dropbox-real"}
)
"""One of each driver, for what takes long; all by `make test-places`."""
MOMENTS: Final = 10 if _ALL else 4
"""At how many moments everything is cut."""
PARTICIPANTS: Final[dict[str, Start]] = {
    **LOCAL,
    **REMOTE,
    # Each call of it takes a process: the one in a folder serves every day, its faults are in test_restic_faults.
    **({"restic-s3": lambda folder, _: start_restic_in_bucket(folder)} if _ALL else {}),
}
"""How to start each: a folder for it alone, and a certificate for 127.0.0.1 where it wants one."""
TLS: Final = tuple(kind for kind in REMOTE if "https" in kind or kind.startswith("ftps"))


@contextlib.contextmanager
def _on_small_disk(kind: str, folder: Path, certificate: Certificate) -> Iterator[Participant]:
    with small_disk(folder / "disk", 4 << 20) as disk, PARTICIPANTS[kind](disk, certificate) as participant:
        yield participant


_DISKS: Final = ("local", "ftp", "sftp", "webdav", "s3-https")
FULL: Final[dict[str, Start]] = {
    kind: lambda folder, pem, kind=kind: _on_small_disk(kind, folder, pem)  # type: ignore[misc]
    for kind in PARTICIPANTS
    if kind in {"restic", "s3"} or kind.startswith(_DISKS)
}
"""How to start those whose disk can be full, with less than 4 MiB of room."""
