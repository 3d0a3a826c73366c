"""Pure: how long somebody has to wait who failed to sign in. Keeps no passwords, forgets by itself.

Three things are counted: failures of a name from one address, of an address, and of a name from anywhere. The first
stops guessing one password, the second trying many names; the third is generous, so that nobody is locked out by others
for long.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Throttle"]

_FREE: Final = {"both": 5, "address": 20, "name": 40}
"""Failures after which one has to wait."""
_FIRST: Final = 30.0
_MOST: Final = 900.0
_FORGOTTEN: Final = 3600.0
_KEYS: Final = 20_000


class Throttle:
    """Failures by name and address. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def wait(self, name: str, address: str, now: float) -> float:
        """Return how many seconds are left to wait, 0: none."""
        return max(self._left(key, now) for key in _keys(name, address))

    def failed(self, name: str, address: str, now: float) -> None:
        """Count a failure."""
        for key in _keys(name, address):
            count, since = self._failures.pop(key, (0, now))
            self._failures[key] = (1 if now - since > _FORGOTTEN else count + 1, now)
        while len(self._failures) > _KEYS:
            self._failures.popitem(last=False)

    def passed(self, name: str, address: str) -> None:
        """Forget the failures of somebody who did it; those of the address and of others stay."""
        self._failures.pop(_keys(name, address)[0], None)

    def _left(self, key: tuple[str, str], now: float) -> float:
        count, last = self._failures.get(key, (0, now))
        if now - last > _FORGOTTEN:
            return 0.0
        over = count - _FREE[key[0]]
        if over < 0:
            return 0.0
        pause = min(_MOST, _FIRST * 2.0 ** min(over, 10))
        return max(0.0, last + pause - now)


def _keys(name: str, address: str) -> tuple[tuple[str, str], ...]:
    return ("both", f"{name}\0{address}"), ("address", address), ("name", name)
