"""Every kind of Store on its real server: `place` gives a test an empty one of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import pytest

from nanumpay_backupd.stores.base import ShortNotes
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.throttled import ThrottledStore
from tests.contract.places import PARTICIPANTS, Participant, Place
from tests.servers.certs import Certificate, make_certificate

_QUICK: Final = 400 << 20
"""Bytes per second of the throttled kind: it waits, but not long."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make one authority and server certificate for all."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session", params=PARTICIPANTS)
def store_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[tuple[str, Participant]]:
    """Run the real server of each kind, once."""
    kind: str = request.param
    with PARTICIPANTS[kind](tmp_path_factory.mktemp(kind), certificate) as participant:
        yield kind, participant


_numbers = itertools.count(1)


@pytest.fixture
def place(store_server: tuple[str, Participant]) -> Iterator[Place]:
    """Give an empty destination whose folder does not exist yet."""
    kind, participant = store_server
    name = f"test{next(_numbers)}"
    notes = ShortNotes()
    driver = open_store(participant.destination(name), notes=notes)
    with ThrottledStore(driver, _QUICK) if kind.endswith("throttled") else driver as store:
        yield Place(kind, store, participant, name, notes)
