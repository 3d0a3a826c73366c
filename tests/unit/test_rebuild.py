"""What a place holds is told apart: whole copies, and the ways in which a file or its manifest is not right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.model import BackupState, CopyState, Kind, Manifest, to_json
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX
from nanumpay_backupd.pipeline.rebuild import Survey, adopt_place
from nanumpay_backupd.settings.schema import LocalDestination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.local import LocalStore
from tests.workbench import NOW, manifest_of

pytestmark = pytest.mark.promise(
    "The catalog may be lost: the manifests beside the backups have what it takes to go on.", item=5
)

PLACE = "usb"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog(tmp_path / "catalog.db") as opened:
        yield opened


def put(folder: Path, number: int, job: str = "nanumpay") -> Manifest:
    """Put a copy with its manifest into a folder."""
    data = f"archive {number}".encode()
    manifest = manifest_of(data, NOW + timedelta(days=number), proven=True, job=job)
    folder.mkdir(exist_ok=True)
    (folder / manifest.artifact.name).write_bytes(data)
    beside(folder, manifest).write_bytes(to_json(manifest))
    return manifest


def beside(folder: Path, manifest: Manifest) -> Path:
    """Return where a copy's manifest is."""
    return folder / f"{manifest.artifact.name}{MANIFEST_SUFFIX}"


def survey(folder: Path, catalog: Catalog, *, everything: bool = False) -> Survey:
    """Look at a folder."""
    with open_store(LocalDestination(name=PLACE, path=str(folder))) as store:
        return adopt_place(PLACE, store, catalog, NOW, everything=everything)


Change = Callable[[Path, Manifest, Manifest], object]


@pytest.mark.parametrize(
    "change,sort,state",
    [
        (lambda folder, one, _: (folder / one.artifact.name).write_bytes(b"a"), "misfits", CopyState.CORRUPT),
        (lambda folder, one, _: (folder / one.artifact.name).unlink(), "lost", CopyState.MISSING),
        (lambda folder, one, _: beside(folder, one).write_bytes(b"{"), "unreadable", None),
        (lambda folder, one, _: beside(folder, one).write_bytes(b"\xff\xfe"), "unreadable", None),
        (lambda folder, one, two: beside(folder, one).write_bytes(to_json(two)), "unreadable", None),
        (
            lambda folder, one, two: beside(folder, one).write_bytes(
                to_json(msgspec.structs.replace(one, backup=two.backup))
            ),
            "unreadable",
            None,
        ),
        (lambda folder, one, _: beside(folder, one).unlink(), "alone", CopyState.UPLOADED),
    ],
    ids=["size", "gone", "no JSON", "no text", "another's manifest", "another's name in it", "no manifest"],
)
@pytest.mark.parametrize("everything", [False, True])
def test_what_is_wrong_with_a_copy(
    tmp_path: Path, catalog: Catalog, change: Change, sort: str, state: CopyState | None, *, everything: bool
) -> None:
    """Each fault is of one sort; what cannot be believed is in the catalog as such, or not at all."""
    folder = tmp_path / "usb"
    good, bad = put(folder, 1), put(folder, 2)
    (folder / "holiday.jpg").write_bytes(b"x")
    change(folder, bad, good)
    assert survey(folder, catalog, everything=everything) == Survey(
        1 + (sort == "alone" and everything), **{sort: (bad.artifact.name,)}
    )
    found = {backup.id: backup for backup in catalog.backups()}
    assert found[good.backup].copies[0].state is CopyState.UPLOADED
    only_here = everything or sort == "misfits"
    if state is None or not only_here:
        assert found.keys() == {good.backup}
    else:
        assert found[bad.backup].copies[0].state is state
        assert (found[bad.backup].kind is Kind.LEGACY) is (sort == "alone")
        assert (found[bad.backup].state is BackupState.LEGACY) is (sort == "alone")


def test_many_manifests_are_read_over_several_connections(tmp_path: Path, catalog: Catalog) -> None:
    """All are read, each once, also where the place allows no further connection or cuts one off in the middle."""
    folder = tmp_path / "usb"
    made = {put(folder, number).backup for number in range(60)}
    for allowed, lasts in ((0, 0), (2, 0), (3, 5), (3, 1000)):
        opened: list[Moody] = []

        def another(allowed: int = allowed, lasts: int = lasts, opened: list[Moody] = opened) -> Store:
            if len(opened) >= allowed:
                raise StoreError("too many connections", code="destination-unreachable")
            opened.append(Moody(folder, lasts))
            return opened[-1]

        with Moody(folder, 1000) as store:
            catalog.clear_backups()
            found = adopt_place(PLACE, store, catalog, NOW, another=another)
        assert found == Survey(60)
        assert {backup.id for backup in catalog.backups()} == made
        assert store.asked + sum(min(one.asked, lasts) for one in opened) == 60
        assert len(opened) == allowed
        assert all(one.closed for one in opened)


def test_a_place_that_fails_is_a_fault(tmp_path: Path, catalog: Catalog) -> None:
    """Where the only connection breaks off, nothing is recorded, and the fault is told."""
    folder = tmp_path / "usb"
    for number in range(60):
        put(folder, number)
    with Moody(folder, 30) as store, pytest.raises(StoreError, match="cut off"):
        adopt_place(PLACE, store, catalog, NOW, another=lambda: Moody(folder, 0))
    assert catalog.backups() == []


class Moody(LocalStore):
    """A folder that can be read from only so many times."""

    def __init__(self, folder: Path, lasts: int) -> None:
        super().__init__(LocalDestination(name=PLACE, path=str(folder)))
        self.lasts = lasts
        self.asked = 0
        self.closed = False

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read, or fail."""
        self.asked += 1
        if self.asked > self.lasts:
            raise StoreError("cut off", code="destination-unreachable")
        return super().get(key, offset, length)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True
