"""Kinds of value that hold something back: windows of the week, bytes per second. What follows is decided elsewhere."""

from __future__ import annotations

import json
from typing import Final

from nanumpay_backupd.blackout import parse
from nanumpay_backupd.settings.kinds import Kind, Place, Size
from nanumpay_backupd.settings.problems import Mismatch

__all__ = ["Bandwidth", "Windows"]

_SLOWEST: Final = 16 << 10


class Windows(Kind):
    """Windows of the week, or none; one may stand without the list around it."""

    expected = 'a list of times such as "09:00-18:00", "mon-fri 09:00-18:00" or "sat,sun 22:00-02:00"'
    example = '["mon-fri 09:00-18:00"]'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the windows, each written in one way."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise self.mismatch(value)
        return tuple(dict.fromkeys(self._one(item) for item in items))

    def _one(self, value: object) -> str:
        if not isinstance(value, str):
            raise self.mismatch(value)
        try:
            return str(parse(value))
        except ValueError:
            raise self.mismatch(value) from None

    def show(self, value: object) -> str:
        """Show the list."""
        assert isinstance(value, tuple)
        return json.dumps(list(value))


class Bandwidth(Size):
    """Bytes per second; 0: no limit."""

    def __init__(self) -> None:
        super().__init__("0KiB", "100GiB")
        self.example = '"10MiB"'

    def parse(self, value: object, place: Place) -> int:
        """Return the bytes per second; slower than this a server takes the line for dead."""
        size = super().parse(value, place)
        if 0 < size < _SLOWEST:
            raise Mismatch(
                "is slower than 16 KiB per second, which servers take for a dead line",
                'write "16KiB" or more, or "0KiB" for no limit',
            )
        return size
