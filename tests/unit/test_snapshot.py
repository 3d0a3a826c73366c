"""Backups of one collection beside the others: read back by their manifest, kept apart, never taken for a full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import bson
import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import find
from nanumpay_backupd.control.facts import job_facts
from nanumpay_backupd.errors import NotFoundError, VerifyError
from nanumpay_backupd.model import (
    FULLS,
    LOCAL,
    SLICES,
    Backup,
    CollectionStat,
    Consistency,
    Copy,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Policy,
    Trigger,
    Verification,
)
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.layout import Layout, backup_id
from nanumpay_backupd.pipeline.outlook import look, plan
from nanumpay_backupd.pipeline.produce import _learned_ratio
from nanumpay_backupd.pipeline.prune import prune
from nanumpay_backupd.pipeline.report import new_run
from nanumpay_backupd.pipeline.snapshot import MEASURED, json_files, writer
from nanumpay_backupd.pipeline.verify import read_back
from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.sources.bson_walk import BsonWalk
from nanumpay_backupd.stores.base import Store
from tests.workbench import NOW, SetClock, archive_bytes, documents, job_spec, manifest_of

ID: Final = backup_id("nanumpay", NOW, Kind.COLLECTION)
LINES: Final = b"".join(b'{"_id":{"$numberInt":"%d"}}\n' % number for number in range(5))
METADATA: Final = b'{"indexes":[],"collectionName":"users","type":"collection"}'
HOUR: Final = timedelta(hours=1)


def snapshot_manifest(
    artifact: bytes = b"", created: datetime = NOW, *, name: str = "users", count: int = 5, size: int = 0, raw: int = 0
) -> Manifest:
    """Return the manifest of a snapshot."""
    stat = {f"pay.{name}": (count, size)}
    manifest = manifest_of(artifact, created, collections=stat, raw_bytes=raw, proven=True)
    identifier = backup_id("nanumpay", created, Kind.COLLECTION)
    return msgspec.structs.replace(
        manifest,
        backup=identifier,
        kind=Kind.COLLECTION,
        artifact=msgspec.structs.replace(manifest.artifact, name=f"{identifier}.tar.gz"),
    )


def prove(folder: Path, files: dict[str, bytes], *, name: str = "users", count: int = 5) -> Verification:
    """Write the archive of a snapshot, its documents first, and read it back against what its manifest promises."""
    content = {f"{ID}/pay/{path}": data for path, data in files.items()}
    data = archive_bytes(ID, content)
    size = len(next(iter(files.values())))
    manifest = snapshot_manifest(data, name=name, count=count, size=size, raw=sum(map(len, files.values())))
    (folder / manifest.artifact.name).write_bytes(data)

    def check(path: str) -> Callable[[bytes], None] | None:
        return BsonWalk(path) if path.endswith(".bson") else None

    return read_back(folder / manifest.artifact.name, manifest, check, SetClock(), lambda _: None)


@pytest.mark.parametrize("file", ["users.json", "users.bson"])
def test_a_snapshot_is_read_back_in_both_formats(tmp_path: Path, file: str) -> None:
    """Lines of Extended JSON are counted as documents of BSON are."""
    content = LINES if file.endswith(".json") else documents(5)
    assert prove(tmp_path, {file: content, "users.metadata.json": METADATA}).documents == 5


@pytest.mark.parametrize(
    "content,code",
    [
        (LINES[:-1], "verify-structure"),
        (LINES + b"[]\n", "verify-structure"),
        (LINES.replace(b'{"_id":{"$numberInt":"3"}}', b'{"_id":{"$numberInt":"3"}'), "verify-structure"),
        (LINES + b"{}\n", "verify-counts"),
        (LINES[27:], "verify-counts"),
        (b"", "verify-counts"),
    ],
    ids=["cut off", "no object", "damaged", "one more", "one less", "empty"],
)
def test_lines_that_are_not_what_was_exported_are_found(tmp_path: Path, content: bytes, code: str) -> None:
    """Every line has to be one JSON object, and there have to be as many as mongoexport reported."""
    with pytest.raises(VerifyError) as caught:
        prove(tmp_path, {"users.json": content, "users.metadata.json": METADATA})
    assert caught.value.code == code


def test_a_collection_that_is_called_like_metadata(tmp_path: Path) -> None:
    """The documents of ``users.metadata`` are in a file that is otherwise the metadata of ``users``: not mistaken."""
    files = {"users.metadata.json": LINES, "users.metadata.metadata.json": METADATA}
    assert prove(tmp_path, files, name="users.metadata").documents == 5
    files = {"users.metadata.bson": documents(5), "users.metadata.metadata.json": METADATA}
    assert prove(tmp_path, files, name="users.metadata").documents == 5


def test_only_snapshots_hold_extended_json() -> None:
    """In a full that holds ``users`` and ``users.metadata`` that file is metadata."""
    full = manifest_of(b"", collections={"pay.users": (5, 9), "pay.users.metadata": (5, 9)})
    assert json_files(full) == {}
    assert json_files(None) == {}
    assert list(json_files(snapshot_manifest(name="a b"))) == ["pay/a+b.json"]


def test_lines_arrive_as_bson_where_mongorestore_looks(tmp_path: Path) -> None:
    """A collection's file holds its documents; that of a time-series none, they lie beside it for a second pass."""
    folder = tmp_path / "unpacked"
    (folder / "pay").mkdir(parents=True)
    expected = [{"_id": number} for number in range(5)]
    plain = CollectionStat(database="pay", name="users", documents=5, bytes=1, indexes=1)
    with writer(plain, folder / "pay" / "users.bson") as stream:
        stream.write(LINES)
    assert bson.decode_all((folder / "pay" / "users.bson").read_bytes()) == expected
    series = msgspec.structs.replace(plain, name="metrics", type="timeseries")
    with writer(series, folder / "pay" / "metrics.bson") as stream:
        stream.write(LINES)
    assert sorted(path.name for path in (folder / "pay").iterdir()) == ["system.buckets.metrics.bson", "users.bson"]
    assert (folder / "pay" / "system.buckets.metrics.bson").read_bytes() == b""
    assert bson.decode_all((tmp_path / MEASURED / "pay" / "metrics.bson").read_bytes()) == expected


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Open an empty catalog."""
    with Catalog(tmp_path / "catalog.db") as opened:
        yield opened


def entered(catalog: Catalog, hours: float, name: str = "", kind: Kind = Kind.COLLECTION) -> str:
    """Enter a verified backup that is so many hours old; returns its id."""
    created = NOW - hours * HOUR
    if kind is Kind.COLLECTION:
        manifest = snapshot_manifest(created=created, name=name or "users", raw=1000)
    else:
        manifest = manifest_of(b"x" * 300, created, raw_bytes=1000, proven=True)
        identifier = backup_id("nanumpay", created, kind)
        span = Consistency(level="point-in-time", start="1:1", end="2:1") if kind in SLICES else manifest.consistency
        manifest = msgspec.structs.replace(manifest, kind=kind, backup=identifier, consistency=span)
    copy = Copy(
        backup=manifest.backup,
        destination=LOCAL,
        state=CopyState.VERIFIED,
        key=manifest.artifact.name,
        size=manifest.artifact.size,
        updated=created,
    )
    catalog.save_backup(backup_from_manifest(manifest, copy))
    return manifest.backup


def test_the_catalog_knows_of_what_a_snapshot_is(catalog: Catalog) -> None:
    """In a listing, by itself, and after it was read anew; a time-series collection has the name that people know."""
    users = entered(catalog, 1, "users.old")
    metrics = entered(catalog, 2, "system.buckets.metrics")
    full = entered(catalog, 3, kind=Kind.FULL)
    assert [backup.collection for backup in catalog.backups()] == ["pay.users.old", "pay.metrics", ""]
    assert [entry(catalog, name).collection for name in (users, metrics, full)] == ["pay.users.old", "pay.metrics", ""]
    assert [backup.id for backup in catalog.backups(kinds=FULLS)] == [full]


def entry(catalog: Catalog, name: str) -> Backup:
    """Return one backup."""
    backup = catalog.backup(name)
    assert backup is not None
    return backup


def test_snapshots_and_slices_are_never_taken_for_the_newest_backup(catalog: Catalog) -> None:
    """``latest``, the status and what is learned for the next run mean fulls, however old they are."""
    entered(catalog, 0, "users")
    entered(catalog, 1, kind=Kind.INCREMENTAL)
    entered(catalog, 2, kind=Kind.DIFFERENTIAL)
    with pytest.raises(NotFoundError):
        find(catalog, "latest")
    facts = job_facts(catalog, "nanumpay")
    assert (facts["newest_backup"], facts["backups"]) == (None, 0)
    unlearned = _learned_ratio(job_spec(), catalog)
    full = entered(catalog, 30, kind=Kind.FULL)
    assert find(catalog, "latest").id == full
    facts = job_facts(catalog, "nanumpay")
    assert (facts["newest_backup"]["id"], facts["backups"]) == (full, 1)
    assert _learned_ratio(job_spec(), catalog) == 0.3 * 1.25 != unlearned


def test_how_a_snapshot_went_says_nothing_of_the_jobs_backups(catalog: Catalog) -> None:
    """A mistyped collection does not make a job fail, and a good snapshot does not hide that its backups fail."""
    for at, (action, outcome) in enumerate(
        [("backup", Outcome.SUCCEEDED), ("backup", Outcome.FAILED), ("collection", Outcome.SUCCEEDED)]
    ):
        run = new_run(f"run{at}", "nanumpay", Trigger.MANUAL, NOW + at * HOUR, action)
        catalog.save_run(msgspec.structs.replace(run, ended=NOW, outcome=outcome))
    facts = job_facts(catalog, "nanumpay")
    assert (facts["last_run"]["id"], facts["last_success"]["id"]) == ("run1", "run0")


def no_store(destination: Destination) -> Store:
    """Open no destination: the job has none."""
    raise AssertionError(destination.name)


def test_snapshots_are_pruned_collection_by_collection(catalog: Catalog, tmp_path: Path) -> None:
    """The newest of each stay as many as the policy says; fulls and slices are not counted with them."""
    job = job_spec(retention=Policy(count=2, days=2))
    fulls = [entered(catalog, hours, kind=Kind.FULL) for hours in (5, 10)]
    slices = [entered(catalog, 20, kind=Kind.INCREMENTAL), entered(catalog, 21, kind=Kind.DIFFERENTIAL)]
    users = [entered(catalog, hours, "users") for hours in (0, 1, 2, 60)]
    plans = [entered(catalog, 100, "plans"), entered(catalog, 110, "plans")]
    lines = {line.backup: line for line in plan(job, look(catalog, "nanumpay"), NOW)}
    assert {name for name, line in lines.items() if line.action == "delete"} == {*users[2:], plans[1]}
    assert lines[plans[0]].reason == "the newest verified snapshot of a collection is never deleted"
    assert all(lines[name].action == "keep" for name in slices)

    older = entered(catalog, 20, kind=Kind.FULL)
    layout = Layout(tmp_path / "backups")
    layout.create()
    prune(job, catalog, layout, NOW, no_store, frozenset({Kind.COLLECTION}))
    left = {backup.id for backup in catalog.backups()}
    assert left == {*fulls, older, *slices, *users[:2], plans[0]}
    prune(job, catalog, layout, NOW, no_store)
    assert {backup.id for backup in catalog.backups()} == left - {older}
