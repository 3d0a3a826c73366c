"""Every type of destination on its real server, as the contract suite (test_stores) asks for it.

A new one is a module here with a subclass of `base.Participant`, and its place in `PARTICIPANTS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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
from tests.contract.places.s3 import start_bucket
from tests.contract.places.sftp import start_ssh
from tests.contract.places.webdav import start_webdav, start_webdav_apache
from tests.servers.certs import Certificate

__all__ = ["LOCAL", "PARTICIPANTS", "REMOTE", "Participant", "Place"]

_LONG: Final = "NANUMPAY_TEST_RESTIC_S3"
Start = Callable[[Path, Certificate], AbstractContextManager[Participant]]

LOCAL: Final[dict[str, Start]] = {
    "local": lambda folder, _: start_local(folder),
    "local-throttled": lambda folder, _: start_local(folder),
    "restic": lambda folder, _: start_restic(folder),
}
REMOTE: Final[dict[str, Start]] = {
    "s3": lambda folder, _: start_bucket(folder),
    "s3-https": start_bucket,
    "ftp-pyftpdlib": lambda folder, _: start_ftp(folder, "pyftpdlib"),
    "ftps-pyftpdlib": lambda folder, certificate: start_ftp(folder, "pyftpdlib", certificate),
    "ftp-vsftpd": lambda folder, _: start_ftp(folder, "vsftpd"),
    "ftps-vsftpd": lambda folder, certificate: start_ftp(folder, "vsftpd", certificate),
    "gcs": lambda _, __: start_google(),
    "gcs-https": lambda _, certificate: start_google(certificate),
    "azure": lambda folder, _: start_container(folder),
    "azure-https": start_container,
    "dropbox": lambda folder, _: start_folder(folder),
    "dropbox-https": start_folder,
    # By make test-dropbox only: it takes an account.
    **({"dropbox-real": lambda _, __: real_folder()} if os.environ.get("NANUMPAY_TEST_REAL_DROPBOX") else {}),
    "sftp": lambda folder, _: start_ssh(folder),
    # Each call of it takes a process: the one in a folder serves every day, its faults are in test_restic_faults.
    **({"restic-s3": lambda folder, _: start_restic_in_bucket(folder)} if os.environ.get(_LONG) else {}),
    "webdav": lambda folder, _: start_webdav(folder),
    "webdav-https": start_webdav,
    "webdav-apache": lambda folder, _: start_webdav_apache(folder),
}
PARTICIPANTS: Final[dict[str, Start]] = {**LOCAL, **REMOTE}
"""How to start each: a folder for it alone, and a certificate for 127.0.0.1 where it wants one."""
