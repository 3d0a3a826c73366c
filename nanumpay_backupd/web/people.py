"""Who may do what: rights, roles, and the person on whose behalf something is done. Nothing is read or stored here."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CHANGE", "DOWNLOAD", "READ", "RIGHTS", "ROLES", "RUN", "SCOPES", "SETTINGS", "Person"]

READ: Final = "read"
"""Look at everything that is no secret."""
RUN: Final = "run"
"""Start and cancel backups, verifications and drills; test a destination; pin."""
DOWNLOAD: Final = "download"
"""Take a backup away: all data of the application is in it."""
SETTINGS: Final = "settings"
"""Save the application's backup settings."""
CHANGE: Final = "change"
"""Restore, delete, unpin. Asks for the password each time, and so is nothing that a token can have."""

RIGHTS: Final = (READ, RUN, DOWNLOAD, SETTINGS, CHANGE)
SCOPES: Final = (READ, RUN, DOWNLOAD, SETTINGS)
"""What a token can be given."""
ROLES: Final = {
    "viewer": frozenset({READ}),
    "operator": frozenset({READ, RUN, DOWNLOAD}),
    "admin": frozenset(RIGHTS),
}
"""What a user of ``backupctl web-user`` can be. The application's administrators are ``admin``."""


class Person(NamedTuple):
    """Who asks. ``origin``: ``application`` (an administrator of it), ``local`` or ``token``."""

    name: str
    origin: str
    rights: frozenset[str]

    def may(self, right: str) -> bool:
        """Tell whether this right is among theirs."""
        return right in self.rights

    @property
    def shown(self) -> str:
        """Return how they are named in the audit trail."""
        return f"{self.origin}:{self.name}"
