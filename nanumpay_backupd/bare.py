"""`nanumpay-backupd restore --from PLACE`: a restore on a machine that has nothing but the copies. Needs no daemon.

A catalog is made for the occasion, in a working folder, from the manifests at the place; then the same plan, question
and restore as everywhere. The place is only read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    EXIT_OK,
    EXIT_REFUSED,
    ConfigError,
    NotFoundError,
    RefusedError,
)
from nanumpay_backupd.model import SLICES, Backup, Kind, OpTime, Outcome, Run, Trigger
from nanumpay_backupd.once import Lines, conclude
from nanumpay_backupd.pipeline.chains import known, no_such_moment, parse_moment, within
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, SAFETY_SUFFIX, Layout
from nanumpay_backupd.pipeline.rebuild import adopt_place
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.settings.hostfile import load_host_file
from nanumpay_backupd.settings.place import PLACE_NAME, read_place
from nanumpay_backupd.settings.schema import (
    Destination,
    HostConfig,
    JobSpec,
    LocalDestination,
    MongoSource,
    Paths,
    RestoreOrder,
    RunSpec,
)
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import Clock, SystemClock, host_timezone
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.journal import configure
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.worker import EXIT_CODES, execute, foresee

__all__ = ["Wish", "restore_from"]

_LATEST: Final = "latest"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line; empty: not said."""

    place: str
    backup: str = _LATEST
    at: str = ""
    job: str = ""
    to_database: str = ""
    collection: str = ""
    work: str = ""
    list_only: bool = False
    dry_run: bool = False
    yes: bool = False
    safety: bool = True


def restore_from(config: Path | None, wish: Wish) -> int:
    """List, plan or do a restore from a place; returns the exit code. Raises BackupdError."""
    configure("warning")
    host = load_host_file(config)
    place = read_place(wish.place, host, os.environ)
    clock = SystemClock()
    with _workshop(wish, clock) as folder, _readable(place, folder) as destination:
        desk = _Desk(host, wish, destination, folder, clock)
        if wish.list_only:
            return desk.show()
        return desk.restore()


@contextlib.contextmanager
def _workshop(wish: Wish, clock: Clock) -> Iterator[Path]:
    """Make a private folder to work in; it goes again, unless a safety backup was put there."""
    root = Path(wish.work or os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - mkdtemp makes it private
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"nanumpay-restore-{clock.now():%Y%m%d-%H%M%S}-", dir=root))
    except OSError as error:
        raise ConfigError(
            f"no working folder can be made in {root}: {os.strerror(error.errno or 0)}",
            hint="name one with room for the unpacked backup: --work DIR",
        ) from None
    try:
        yield folder
    finally:
        kept = sorted(Layout(folder / "backups").backups.glob("*-safety-backup-*"))
        if kept:
            sys.stderr.write(f"the safety backup is kept: {kept[0]}\n")
        else:
            remove_tree(folder)


@contextlib.contextmanager
def _readable(place: Destination, folder: Path) -> Iterator[Destination]:
    """Return the place as a destination of copies; a backups folder is shown as one by links, nothing is copied."""
    if not isinstance(place, LocalDestination):
        yield place
        return
    layout = Layout(Path(place.path))
    if not layout.manifests.is_dir():
        yield place
        return
    shown = folder / "place"
    shown.mkdir()
    for source in (layout.backups, layout.slices):
        for path in source.glob("*") if source.is_dir() else ():
            if path.is_file():
                (shown / path.name).symlink_to(path.absolute())
    by_id = {path.name.split(".", 1)[0]: path.name for path in shown.iterdir()}
    for path in layout.manifests.glob("*.json"):
        if (artifact := by_id.get(path.stem)) is not None:
            (shown / f"{artifact}{MANIFEST_SUFFIX}").symlink_to(path.absolute())
    yield LocalDestination(name=PLACE_NAME, path=str(shown))


class _Desk:
    """One place, the catalog made of it, and what is to be done."""

    def __init__(self, host: HostConfig, wish: Wish, place: Destination, folder: Path, clock: Clock) -> None:
        self._host = host
        self._wish = wish
        self._place = place
        self._clock = clock
        self._paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "socket")
        self._paths.state.mkdir(mode=0o700)
        Layout(self._paths.backups).create()
        with self._catalog() as catalog, open_store(place) as store:
            count = adopt_place(place.name, store, catalog, clock.now())
        if not count:
            raise NotFoundError(
                f"there is no backup with a manifest at {wish.place}",
                hint="check bucket, prefix or folder; archives without manifests are restored by hand: "
                "docs/recovery.md",
            )

    def _catalog(self) -> Catalog:
        return Catalog(self._paths.state / "catalog.db")

    def show(self) -> int:
        """Show what is there, newest first, and what can be restored to the second."""
        with self._catalog() as catalog:
            for backup in catalog.backups(kinds=frozenset(Kind) - SLICES):
                sys.stdout.write(
                    f"{backup.id}  {backup.kind}  {human_size(backup.size)}  {backup.documents:,} documents  "
                    f"{backup.state}\n"
                )
            for job in self._jobs(catalog):
                for item in known(catalog, job).ranges:
                    sys.stdout.write(
                        f"{job}: every second from {_local(item.first.moment)} to {_local(item.last.moment)}\n"
                    )
        return EXIT_OK

    def restore(self) -> int:
        """Show the plan, ask, and restore."""
        if not self._wish.yes and not self._wish.dry_run and not sys.stdin.isatty():
            raise RefusedError(
                "a restore replaces what is in a database, and nobody can be asked here whether that is meant",
                hint="look first at what it would do: --dry-run; then add --yes",
            )
        with self._catalog() as catalog:
            job, order = self._order(catalog)
        plan = foresee(self._spec(job, order, "restore-plan"), self._clock)
        _show(plan)
        if self._wish.dry_run:
            sys.stdout.write("Nothing was done.\n")
            return EXIT_OK
        if not self._wish.yes and not _agreed(plan):
            sys.stdout.write("Nothing was done.\n")
            return EXIT_REFUSED
        run = self._perform(self._spec(job, order, "restore"))
        conclude(run)
        return EXIT_CODES[run.outcome or Outcome.FAILED]

    def _perform(self, spec: RunSpec) -> Run:
        def on_start(recorder: Recorder) -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: recorder.cancel())

        return execute(spec, Lines(sys.stdout), self._clock, on_start=on_start)

    def _jobs(self, catalog: Catalog) -> list[str]:
        return sorted({item.job for item in catalog.backups() if not item.job.endswith(SAFETY_SUFFIX)})

    def _order(self, catalog: Catalog) -> tuple[JobSpec, RestoreOrder]:
        """Work out which backup and moment are meant. Raises NotFoundError, RefusedError."""
        wish = self._wish
        order = RestoreOrder(
            backup="", to_database=wish.to_database, collection=wish.collection, safety=wish.safety, source=""
        )
        named = None if wish.backup == _LATEST else self._named(catalog, wish.backup)
        job = named.job if named is not None else wish.job or self._only(self._jobs(catalog))
        base = named if named is not None and named.kind not in SLICES else None
        moment = OpTime.parse(named.end) if named is not None and named.kind in SLICES else None
        if wish.at:
            there = known(catalog, job)
            wanted = parse_moment(_with_zone(wish.at))
            moment = within(there.ranges, wanted)
            if moment is None:
                raise no_such_moment(there, wanted, job)
        if moment is None and base is None:
            base = self._newest(catalog, job)
        chosen = msgspec.structs.replace(
            order, backup=base.id if base is not None else "", at=str(moment) if moment is not None else ""
        )
        return self._job(catalog, job), chosen

    def _only(self, jobs: list[str]) -> str:
        if len(jobs) > 1:
            raise RefusedError(f"there are backups of {len(jobs)} jobs", hint=f"name one: --job {' | '.join(jobs)}")
        return jobs[0] if jobs else ""

    def _named(self, catalog: Catalog, name: str) -> Backup:
        for backup in catalog.backups():
            if name in (backup.id, backup.artifact):
                return backup
        raise NotFoundError(f"there is no backup {name!r} at {self._wish.place}", hint="see what is there: --list")

    def _newest(self, catalog: Catalog, job: str) -> Backup:
        for backup in catalog.backups(job, kinds=(Kind.FULL,)):
            return backup
        raise NotFoundError(f"there is no full backup of job {job!r} at {self._wish.place}", hint="see: --list")

    def _job(self, catalog: Catalog, name: str) -> JobSpec:
        """Return the job as far as a restore needs it; where it goes is the host's MongoDB."""
        database = self._host.mongodb.database
        for summary in catalog.backups(name, limit=1, kinds=(Kind.FULL,)):
            backup = catalog.backup(summary.id)
            if backup is not None and backup.manifest is not None:
                held = backup.manifest.source.databases
                database = held[0] if len(held) == 1 else ""
        tools = self._host.tools
        source = MongoSource(
            uri=self._host.mongodb.uri,
            database=database,
            mongodump=tools.mongodump,
            mongorestore=tools.mongorestore,
            mongod=tools.mongod,
        )
        return JobSpec(name=name, source=source, schedule=None, destinations=(self._place,))

    def _spec(self, job: JobSpec, order: RestoreOrder, action: str) -> RunSpec:
        run = f"{self._clock.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        return RunSpec(run=run, job=job, paths=self._paths, trigger=Trigger.MANUAL.value, action=action, restore=order)


def _with_zone(text: str) -> str:
    """Add this host's zone to a time that has none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if moment.tzinfo is not None else moment.replace(tzinfo=host_timezone()).isoformat()


def _local(moment: datetime) -> str:
    return f"{moment.astimezone(host_timezone()):%Y-%m-%d %H:%M:%S %Z}"


def _show(plan: RestorePlan) -> None:
    there = f"{plan.target_documents:,} documents in {plan.target_collections} collections"
    rows = [
        ("restore", f"{plan.backup}{f' and {len(plan.slices)} slices' if plan.slices else ''}"),
        ("as of", _local(plan.moment)),
        ("brings", f"{plan.documents:,} documents, {human_size(plan.bytes)}"),
        ("into", f"database {plan.database} at {plan.server}"),
        ("there now", f"{there}; collections of the same name are replaced" if plan.target_exists else "nothing"),
    ]
    write: Callable[[str], object] = sys.stdout.write
    for name, text in rows:
        write(f"{name:<11}{text}\n")
    for warning in plan.warnings:
        write(f"! {warning}\n")
    sys.stdout.flush()


def _agreed(plan: RestorePlan) -> bool:
    """Ask; what replaces something is asked about by its name."""
    question = f"This replaces data in {plan.database}. To go on, type the name of the database: "
    sys.stdout.write(question if plan.target_exists else "Restore it? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip()
    return answer == plan.database if plan.target_exists else answer.lower() in {"y", "yes"}
