"""From a destination's settings to an open Store. Drivers are imported only when one of their kind is asked for."""

from __future__ import annotations

from collections.abc import Callable

from nanumpay_backupd.settings.schema import Destination, FtpDestination, LocalDestination, RetryPolicy, S3Destination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.retrying import RetryingStore
from nanumpay_backupd.system.clock import Clock

__all__ = ["open_store"]


def open_store(
    destination: Destination,
    *,
    retry: RetryPolicy | None = None,
    clock: Clock | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> Store:
    """Return the Store of a destination; it connects at its first use, so nothing can fail here but the import.

    With ``retry`` it repeats what fails for a passing reason (`RetryingStore` explains the other arguments).
    """
    store = _driver(destination, clock)
    if retry is None:
        return store
    return RetryingStore(store, retry, clock=clock, cancelled=cancelled, on_retry=on_retry)


def _driver(destination: Destination, clock: Clock | None) -> Store:
    match destination:
        case S3Destination():
            # boto3 takes half a second and 30 MB: only who has a bucket pays for it.
            from nanumpay_backupd.stores.s3 import S3Store

            return S3Store(destination, clock)
        case FtpDestination():
            from nanumpay_backupd.stores.ftp import FtpStore

            return FtpStore(destination, clock)
        case LocalDestination():
            from nanumpay_backupd.stores.local import LocalStore

            return LocalStore(destination)
