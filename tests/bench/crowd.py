"""Years of backups at once: fills a backups folder and its catalog, and measures the commands that look at all of them.

The files are made up (artifacts are holes in the disk), their names, manifests and records are as the product makes
them: a full each hour, slices of a quarter of an hour in between, now and then a gap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import (
    LOCAL,
    SLICES,
    Artifact,
    Backup,
    CollectionStat,
    Consistency,
    Copy,
    CopyState,
    Kind,
    Manifest,
    OpTime,
    Outcome,
    Run,
    SourceInfo,
    Stage,
    StageRecord,
    Stream,
    Trigger,
    Verification,
    to_json,
)
from nanumpay_backupd.pipeline.chains import order_chain
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.layout import Layout, backup_id
from tests.bench.site import DATABASE, Site, median_of

__all__ = ["fill", "measure"]

_FULLS: Final = 10_000
_SLICES: Final = 40_000
_EVERY: Final = timedelta(minutes=15)
_PER_FULL: Final = 4
_GAPS: Final = 20
_ROUNDS: Final = 5
_RUNS: Final = 12_500
"""As many as are kept: 10,000 of slices, and those of the fulls between them."""


class Rows(Protocol):
    """What the bench collects its figures in."""

    def add(self, what: str, measured: float, target: float, *, unit: str = "", least: bool = False) -> None:
        """Add a figure with its target."""

    def fact(self, text: str) -> None:
        """Add a plain fact."""


def measure(site: Site, report: Rows) -> None:
    """Fill the folder and the catalog of a running daemon, then time the commands as whole processes."""
    fill(site, _FULLS, _SLICES)
    time.sleep(2)
    began = time.perf_counter()
    site.backupctl("list")
    report.fact(f"the first look at a folder of {_FULLS + _SLICES:,} backups: {time.perf_counter() - began:.1f} s")
    crowd = f"with {_FULLS:,} fulls and {_SLICES:,} slices, median"
    for words, target in (
        (("status",), 0.15),
        (("list",), 1.0),
        (("prune",), 1.0),
        (("timeline",), 1.0),
    ):
        taken = median_of([site.backupctl(*words) for _ in range(_ROUNDS)])
        report.add(f"`backupctl {' '.join(words)}` {crowd}", taken * 1000, target * 1000, unit=" ms")
    every = median_of([site.backupctl("list", "--slices") for _ in range(3)])
    report.fact(f"`backupctl list --slices`: {every:.2f} s")
    with Catalog(site.state / "catalog.db") as catalog:
        newest = next(iter(catalog.backups(DATABASE, 1, kinds=SLICES)))
        began = time.perf_counter()
        order_chain(catalog, DATABASE, OpTime.parse(newest.end))
        report.fact(f"finding the chain that restores the newest moment: {time.perf_counter() - began:.2f} s")


def fill(site: Site, fulls: int, slices: int) -> None:
    """Put that many committed backups into the backups folder and into the catalog."""
    layout = Layout(site.backups)
    layout.create()
    layout.slices.mkdir(exist_ok=True)
    backups = []
    for manifest in _manifests(datetime.now(UTC).replace(microsecond=0), fulls, slices):
        with layout.artifact(manifest.artifact.name).open("wb") as file:
            file.truncate(manifest.artifact.size)
        layout.manifest(manifest.backup).write_bytes(to_json(manifest))
        copy = Copy(
            backup=manifest.backup,
            destination=LOCAL,
            state=CopyState.VERIFIED,
            key=manifest.artifact.name,
            size=manifest.artifact.size,
            updated=manifest.ended,
        )
        backups.append(backup_from_manifest(manifest, copy))
    newest = max((item for item in backups if item.kind in SLICES), key=lambda item: OpTime.parse(item.end))
    stream = Stream(
        job=DATABASE,
        position=newest.end,
        parent=newest.id,
        since=newest.end,
        chain=newest.id,
        checked=newest.created,
    )
    with Catalog(site.state / "catalog.db") as catalog, catalog.together():
        catalog.save_backups(backups)
        catalog.save_stream(stream)
        for backup in backups[-_RUNS:]:
            catalog.save_run(_run(backup))


def _run(backup: Backup) -> Run:
    """Return the record of the run that made a backup."""
    action = "slice" if backup.kind in SLICES else "backup"
    stage = StageRecord(
        stage=Stage.VERIFY, started=backup.created, ended=backup.created, outcome=Outcome.SUCCEEDED, detail="read back"
    )
    return Run(
        id=f"{backup.created:%Y%m%d-%H%M%S}-{action}",
        job=DATABASE,
        trigger=Trigger.SCHEDULE,
        started=backup.created,
        ended=backup.created,
        outcome=Outcome.SUCCEEDED,
        backup=backup.id,
        stages=(stage,) * 5,
        action=action,
    )


def _manifests(now: datetime, fulls: int, slices: int) -> Iterator[Manifest]:
    """Yield manifests of fulls and slices, old ones first; what they hold follows on, except at the gaps."""
    begin = now - _EVERY * slices - timedelta(minutes=1)
    gap = max(slices // (_GAPS + 1), 1)
    chain = ""
    for number in range(slices):
        start = begin + _EVERY * number
        if number % _PER_FULL == 0 and number // _PER_FULL < fulls:
            full = _manifest(Kind.FULL, start, start)
            chain = full.backup
            yield full
        if number % gap == gap - 1:
            continue
        yield _manifest(Kind.INCREMENTAL, start, start + _EVERY, chain)


def _manifest(kind: Kind, start: datetime, end: datetime, chain: str = "") -> Manifest:
    identifier = backup_id(DATABASE, end, kind)
    sliced = kind in SLICES
    users = CollectionStat(database=DATABASE, name="users", documents=1000, bytes=10**9, indexes=3)
    return Manifest(
        backup=identifier,
        job=DATABASE,
        kind=kind,
        run="none",
        host="bench",
        started=end,
        ended=end,
        parent=chain or None,
        chain=chain or None,
        source=SourceInfo(
            type="mongodb",
            server_version="6.0.5",
            topology="replica-set",
            databases=(DATABASE,),
            collections=() if sliced else (users,),
        ),
        consistency=Consistency(level="point-in-time", start=_time(start), end=_time(end), moment=end, entries=1000),
        artifact=Artifact(
            name=f"{identifier}.{'bson.zst' if sliced else 'tar.gz'}",
            size=1_000_000 if sliced else 160_000_000,
            sha256="0" * 64,
            compression="zstd" if sliced else "gzip",
            level=2,
            raw_bytes=10_000_000 if sliced else 10**9,
        ),
        tools={} if sliced else {"mongodump": "100.7.0"},
        verification=(Verification(level="structure", at=end, ok=True, seconds=1.0, documents=1000, bytes=10**9),),
    )


def _time(moment: datetime) -> str:
    return str(OpTime(int(moment.timestamp()), 1))
