"""What a table of the host file is made of: `Option` and `Table`. Which there are is said elsewhere (`options`)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from nanumpay_backupd.settings.kinds import Kind

__all__ = ["Option", "Table"]


class Option(NamedTuple):
    """One key: its kind, what it means (a sentence), an example as TOML text, and the record field that it fills.

    ``default`` is text for the reference where the field's default does not tell it; ``required``: there is none.
    """

    key: str
    kind: Kind
    doc: str
    example: str = ""
    field: str = ""
    default: str = ""
    required: bool = False

    @property
    def target(self) -> str:
        """Return the name of the record field."""
        return self.field or self.key


class Table(NamedTuple):
    """One table of the file: the record that it fills and its keys. ``path`` is as written between brackets."""

    path: str
    record: type
    doc: str
    options: tuple[Option, ...]

    def default(self, option: Option) -> object:
        """Return an option's default as the program uses it (msgspec.NODEFAULT when there is none)."""
        fields = {field.name: field for field in msgspec.structs.fields(self.record)}
        return fields[option.target].default if option.target in fields else msgspec.NODEFAULT
