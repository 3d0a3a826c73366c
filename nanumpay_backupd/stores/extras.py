"""The fault for a driver whose library, an optional extra of this package, is not installed. Imports no driver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.destinations import DestinationSettings, type_of_destination

__all__ = ["needed_extra"]


@contextlib.contextmanager
def needed_extra(destination: DestinationSettings) -> Iterator[None]:
    """Turn an import that fails within the block into StoreError ``extra-missing``, which says what to install.

    A destination's fault and not the host file's: other places still get their copies, and a restore reads from them.
    """
    try:
        yield
    except ImportError as error:
        # Our own module that is not there is a defect, and nothing that pip brings.
        if not destination.extra or (error.name or "").startswith("nanumpay_backupd"):
            raise
        kind = type_of_destination(destination)
        raise StoreError(
            f"destination {destination.name!r}: type {kind} takes the library {error.name or destination.extra}, which "
            "is not installed here",
            hint=f"pip install 'nanumpay-backupd[{destination.extra}]', into the environment that the daemon runs in",
            code="extra-missing",
            retryable=False,
        ) from error
