"""Kinds of value of a restic repository's settings: its name, the variables of its environment, options. No setting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from nanumpay_backupd.settings.kinds import Kind, Names, Place, SecretValue, Text
from nanumpay_backupd.settings.problems import Mismatch
from nanumpay_backupd.system.secrets import Secret

__all__ = ["Repository", "Variables", "Words"]

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_OURS: Final = ("RESTIC_",)
_CONFIDENTIAL: Final = re.compile(r"KEY$|SECRET|PASS|TOKEN|CREDENTIAL")


class Repository(Text):
    """The name of a repository. A folder is named by its path from the root."""

    def __init__(self) -> None:
        super().__init__(
            "a repository as restic takes it, a folder by its path from the root",
            pattern=r"(?:/|[a-z0-9]+:)[^\x00-\x1f\x7f]+",
            example='"/srv/restic"',
        )


class Words(Names):
    """A list of options; one that is not ``name=value`` is refused."""

    expected = 'a list of options such as "s3.storage-class=STANDARD_IA"'
    example = '["s3.storage-class=STANDARD_IA"]'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:
        """Return the options."""
        found = super().parse(value, place)
        if not all("=" in word and word.isprintable() and not word.startswith("-") for word in found):
            raise self.mismatch(value)
        return found


class Variables(Kind):
    """Names of environment variables and their values, each plain or as a secret."""

    expected = "a table of variables, each a text or a secret: { credential = … }, { env = … } or { file = … }"
    example = '{ B2_ACCOUNT_KEY = { credential = "b2-key" } }'

    def parse(self, value: object, place: Place) -> tuple[tuple[str, Secret], ...]:
        """Return names and values in the order of the file; those that are the driver's own matter are refused."""
        if not isinstance(value, Mapping):
            raise self.mismatch(value)
        found = []
        for name, item in value.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise Mismatch(f"names {name!r}, which is no variable", "write names in capitals: B2_ACCOUNT_ID")
            if name.startswith(_OURS):
                raise Mismatch(f"names {name}, which has a key of its own", "write repository, password or cache")
            at = Place(f"{place.path}.{name}", world_readable=place.world_readable)
            kind = SecretValue() if _CONFIDENTIAL.search(name) or not isinstance(item, str) else _Open()
            found.append((name, kind.parse(item, at)))
        return tuple(found)

    def show(self, value: object) -> str:
        """Show the names only."""
        assert isinstance(value, tuple)
        return "{ " + ", ".join(f"{name} = {json.dumps('***')}" for name, _ in value) + " }" if value else "{}"


class _Open(SecretValue):
    """A value that everybody may see, such as a region's name."""

    def is_confidential(self, value: str) -> bool:
        """Nothing of it is."""
        return not value.isprintable()
