"""From a destination's settings to an open Store. Drivers are imported only when one of their kind is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from nanumpay_backupd.settings.destinations import (
    AzureDestination,
    Destination,
    DropboxDestination,
    FtpDestination,
    GcsDestination,
    LocalDestination,
    ResticDestination,
    S3Destination,
    SftpDestination,
    WebdavDestination,
)
from nanumpay_backupd.settings.schema import RetryPolicy
from nanumpay_backupd.stores.base import Notes, Store
from nanumpay_backupd.stores.extras import needed_extra
from nanumpay_backupd.stores.retrying import RetryingStore
from nanumpay_backupd.stores.throttled import Throttle, ThrottledStore
from nanumpay_backupd.system.clock import Clock, SystemClock

__all__ = ["open_store"]

_SMALL_PART: Final = 5 << 20
_PART_SECONDS: Final = 60
_PACED: Final = (S3Destination, GcsDestination, AzureDestination, DropboxDestination)
"""Those whose drivers ask the throttle themselves before they send anything."""


def open_store(
    destination: Destination,
    *,
    retry: RetryPolicy | None = None,
    clock: Clock | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_retry: Callable[[str], None] | None = None,
    hurry: bool = False,
    notes: Notes | None = None,
) -> Store:
    """Return the Store of a destination; it connects at its first use, so nothing can fail here but the import.

    Raises StoreError ``extra-missing`` where the driver's library is not installed (`extras.needed_extra`).

    With ``retry`` it repeats what fails for a passing reason (`RetryingStore` explains the other arguments); it keeps
    to the destination's ``bandwidth``, unless there is a ``hurry``. ``notes`` are those of its unfinished uploads.
    """
    throttle = None
    if isinstance(destination, ResticDestination):
        # What goes over the line is not what is given to restic: it keeps to the rate itself.
        if hurry:
            destination = msgspec.structs.replace(destination, bandwidth=0)
    elif destination.bandwidth and not hurry:
        throttle = Throttle(destination.bandwidth, clock or SystemClock(), cancelled or (lambda: False))
    store = _driver(destination, clock, throttle, notes)
    if throttle is not None:
        sender = throttle if isinstance(destination, _PACED) else None
        rate = destination.bandwidth
        store = ThrottledStore(store, rate, clock=clock, cancelled=cancelled, sender=sender)
    if retry is None:
        return store
    return RetryingStore(store, retry, clock=clock, cancelled=cancelled, on_retry=on_retry)


def _driver(destination: Destination, clock: Clock | None, throttle: Throttle | None, notes: Notes | None) -> Store:
    with needed_extra(destination):
        return _imported(destination, clock, throttle, notes)


def _imported(destination: Destination, clock: Clock | None, throttle: Throttle | None, notes: Notes | None) -> Store:
    match destination:
        case S3Destination():
            # boto3 takes half a second and 30 MB: only who has a bucket pays for it.
            from nanumpay_backupd.stores.s3 import S3Store

            if throttle is None:
                return S3Store(destination, clock, notes=notes)
            # A part on its way is all that shows of progress: none may take for ever.
            part = max(_SMALL_PART, min(destination.part_size, destination.bandwidth * _PART_SECONDS))
            return S3Store(msgspec.structs.replace(destination, part_size=part), clock, throttle.spend, notes)
        case FtpDestination():
            from nanumpay_backupd.stores.ftp import FtpStore

            return FtpStore(destination, clock)
        case GcsDestination() | AzureDestination() | DropboxDestination():
            return _cloud(destination, clock, None if throttle is None else throttle.spend, notes)
        case SftpDestination():
            from nanumpay_backupd.stores.sftp import SftpStore

            return SftpStore(destination, clock)
        case WebdavDestination():
            from nanumpay_backupd.stores.webdav import WebdavStore

            return WebdavStore(destination)
        case ResticDestination():
            from nanumpay_backupd.stores.restic import ResticStore

            return ResticStore(destination, clock)
        case LocalDestination():
            from nanumpay_backupd.stores.local import LocalStore

            return LocalStore(destination)


def _cloud(
    destination: GcsDestination | AzureDestination | DropboxDestination,
    clock: Clock | None,
    pace: Callable[[int], None] | None,
    notes: Notes | None,
) -> Store:
    match destination:
        case GcsDestination():
            from nanumpay_backupd.stores.gcs import GcsStore

            return GcsStore(destination, clock, pace, notes)
        case AzureDestination():
            from nanumpay_backupd.stores.azure import AzureStore

            return AzureStore(destination, pace)
        case DropboxDestination():
            from nanumpay_backupd.stores.dropbox import DropboxStore

            return DropboxStore(destination, clock, pace, notes)
