"""Tries out what a backup, a restore and retention ask of any Store, with a small object of its own. No driver code."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from nanumpay_backupd.errors import LockedError, StoreError
from nanumpay_backupd.stores.base import Store, store_error
from nanumpay_backupd.system.clock import Clock

__all__ = ["Step", "probe", "probe_key"]

_CONTENT: Final = b"nanumpay-backupd doctor probe\n" * 4
_MIDDLE: Final = (37, 41)
"""The offset and the length of what is asked for as a range."""
_NOT_AT_ALL: Final = frozenset(
    {"destination-unreachable", "destination-auth", "destination-tls", "destination-not-found"}
)
"""Faults that every other step would meet too."""


class Step(msgspec.Struct, frozen=True):
    """One thing that was tried: ``put``, ``list``, ``get``, ``range`` or ``delete``, and the seconds that it took.

    ``right`` is what the place calls the right to do so, named where it is missing.
    """

    name: str
    seconds: float
    fault: StoreError | None = None
    right: str = ""


def probe_key() -> str:
    """Return a name that no backup has."""
    return f"doctor-{secrets.token_hex(4)}.probe"


def probe(store: Store, key: str, clock: Clock) -> list[Step]:
    """Put, list, get, get a part of, and delete an object; a step that fails does not hide the next.

    Only where nothing can be done at the place at all it ends. What was put is deleted in any case, as far as it lets.
    """
    steps: list[Step] = []

    def attempt(name: str, action: Callable[[], None], *, right: str = "") -> bool:
        begun = clock.monotonic()
        fault: StoreError | None = None
        try:
            action()
        except StoreError as error:
            fault = error
        denied = fault is not None and fault.code == "destination-denied"
        lacking = store.rights.get(right or name, "") if denied else ""
        steps.append(Step(name, clock.monotonic() - begun, fault, lacking))
        return fault is None

    there = attempt("put", lambda: _put(store, key))
    if not there and steps[-1].fault is not None and steps[-1].fault.code in _NOT_AT_ALL:
        return steps
    attempt("list", lambda: _list(store, key, there=there))
    if there:
        attempt("get", lambda: _get(store, key))
        attempt("range", lambda: _range(store, key), right="get")
        attempt("delete", lambda: _delete(store, key))
    return steps


def _put(store: Store, key: str) -> None:
    store.put_bytes(key, _CONTENT)


def _list(store: Store, key: str, *, there: bool) -> None:
    listed = [item.key for item in store.list()]
    if there and key not in listed:
        raise _wrong(store, "a listing does not show what was stored a moment ago")


def _get(store: Store, key: str) -> None:
    if b"".join(store.get(key)) != _CONTENT:
        raise _wrong(store, "what was written did not read back the same")


def _range(store: Store, key: str) -> None:
    offset, length = _MIDDLE
    if b"".join(store.get(key, offset, length)) != _CONTENT[offset : offset + length]:
        raise _wrong(store, "a part of what was written did not read back the same")


def _delete(store: Store, key: str) -> None:
    try:
        store.delete(key)
    except LockedError:
        return  # by the bucket's own rule; `Store.keeping` tells
    if store.stat(key) is not None:
        raise store_error(
            "destination-denied",
            f"destination {store.name!r}: a test object could not be deleted",
            "allow deletion: retention needs it",
        )


def _wrong(store: Store, what: str) -> StoreError:
    return store_error(
        "destination-failed",
        f"destination {store.name!r}: {what}",
        "do not use this place until that is understood",
        retryable=False,
    )
