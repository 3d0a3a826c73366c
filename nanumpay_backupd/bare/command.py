"""The command: opens the place, makes a catalog of it for the occasion, shows what there is, asks, restores, concludes.

The same plan, question and restore as everywhere; the place is only read. Which backup is meant is decided in `choice`,
what is said is worded in `text`.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import sys
from datetime import tzinfo
from pathlib import Path
from types import FrameType
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from nanumpay_backupd.bare.choice import Choice, Wish, job_of
from nanumpay_backupd.bare.keys import keys_at_hand, unlocked
from nanumpay_backupd.bare.text import (
    Screen,
    Terms,
    backup_rows,
    closed_row,
    complaints,
    moment_rows,
    plan_rows,
    reworded,
)
from nanumpay_backupd.bare.together import group_rows, half_done, meant_group, usable_members
from nanumpay_backupd.bare.workshop import BACKUPS, disk_fault, readable, workshop
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    BackupdError,
    CancelledError,
    NotFoundError,
    RefusedError,
)
from nanumpay_backupd.model import SLICES, Backup, GroupManifest, Kind, Manifest, Outcome, Run, Trigger
from nanumpay_backupd.moments import read_moment
from nanumpay_backupd.once import conclude
from nanumpay_backupd.pipeline.backup import unfinished
from nanumpay_backupd.pipeline.chains import known
from nanumpay_backupd.pipeline.groups import adopt_groups
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout, is_slice
from nanumpay_backupd.pipeline.rebuild import Survey, adopt_place
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.settings.hostfile import load_host_file
from nanumpay_backupd.settings.place import read_place
from nanumpay_backupd.settings.schema import (
    Destination,
    HostConfig,
    JobSpec,
    LocalDestination,
    MongoSource,
    Paths,
    RestoreOrder,
    RetryPolicy,
    RunSpec,
    Source,
)
from nanumpay_backupd.settings.sources import settings_alone, type_of
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import Clock, SystemClock, host_timezone
from nanumpay_backupd.system.journal import configure
from nanumpay_backupd.wording import words_for
from nanumpay_backupd.worker import EXIT_CODES, execute, foresee

__all__ = ["restore_from"]

_RETRY: Final = RetryPolicy(attempts=3, delay=0.5)


def restore_from(config: Path | None, wish: Wish) -> int:
    """List, plan or do a restore from a place; returns the exit code. Raises BackupdError."""
    configure("warning")
    if not (wish.yes or wish.dry_run or wish.list_only or sys.stdin.isatty()):
        raise RefusedError(
            "a restore replaces what is in a database, and nobody can be asked here whether that is meant",
            hint="look first at what it would do: --dry-run; then add --yes",
        )
    host = load_host_file(config)
    place = read_place(wish.place, host, os.environ)
    clock = SystemClock()
    wish = _with_moment(wish, _zone(host), clock)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with workshop(wish.work, clock.now()) as folder:
            terms = _terms(config, wish, place, folder, typed=place not in host.destinations)
            return _work(_Desk(host, wish, place, folder, clock, terms), terms)
    except KeyboardInterrupt:
        sys.stderr.write("\nnanumpay-backupd: ended; nothing was changed\n")
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _zone(host: HostConfig) -> tzinfo:
    return ZoneInfo(host.timezone) if host.timezone else host_timezone()


def _with_moment(wish: Wish, zone: tzinfo, clock: Clock) -> Wish:
    """Read the moment that was asked for, before anything is fetched: it then stands there as the oplog counts."""
    if not wish.at:
        return wish
    moment, remark = read_moment(wish.at, zone, clock.now())
    if remark:
        sys.stdout.write(f"! {remark}\n")
    return msgspec.structs.replace(wish, at=moment)


def _terms(config: Path | None, wish: Wish, place: Destination, folder: Path, *, typed: bool) -> Terms:
    program = "nanumpay-backupd" + (f" --config {shlex.quote(str(config))}" if config is not None else "")
    target = (
        ("--to-db", wish.to_database),
        ("--collection", wish.collection),
        *(("--identity", file) for file in wish.identities),
        ("--passphrase-file", wish.passphrase_file),
    )
    return Terms(
        program=program,
        place=wish.place,
        name=place.name,
        safety=str(folder / BACKUPS),
        keys=", ".join(place.environment) if typed else "",
        target=tuple((option, value) for option, value in target if value),
    )


def _work(desk: _Desk, terms: Terms) -> int:
    """Do it; faults leave in words that work here."""
    try:
        return desk.work()
    except BackupdError as error:
        raise reworded(error, terms) from None
    except OSError as error:
        raise reworded(disk_fault(error, desk.folder), terms) from None


class _Desk:
    """One place, the catalog made of it, and what is to be done."""

    def __init__(
        self, host: HostConfig, wish: Wish, place: Destination, folder: Path, clock: Clock, terms: Terms
    ) -> None:
        self.folder = folder
        self._host = host
        self._wish = wish
        self._place = place
        self._clock = clock
        self._zone = _zone(host)
        self._terms = terms
        self._survey = Survey()
        self._keys = keys_at_hand(host, wish.identities, wish.passphrase_file)
        self._paths = Paths(backups=folder / BACKUPS, state=folder / "state", socket=folder / "socket")

    def work(self) -> int:
        """Do what was asked for; returns the exit code. Raises BackupdError, OSError."""
        self._paths.state.mkdir(mode=0o700)
        Layout(self._paths.backups).create()
        with readable(self._place, self.folder) as place, Catalog(self._paths.state / "catalog.db") as catalog:
            self._place = place
            self._adopt(catalog)
            if self._wish.list_only:
                return self._show(catalog)
            return self._restore(catalog)

    def _adopt(self, catalog: Catalog) -> None:
        """Read the manifests at the place into the catalog. Raises NotFoundError, StoreError."""
        # The changes of a week are ten thousand slices: they are only looked at by who needs them.
        slices = self._wish.list_only or bool(self._wish.at) or is_slice(self._wish.backup)

        def opened() -> Store:
            return open_store(self._place, retry=_RETRY, clock=self._clock)

        screen = Screen(self._terms)
        screen.passing(f"looking at what there is at {self._place.name} ...")
        with opened() as store, Keyring(self._keys) as keys:
            self._survey = adopt_place(
                self._place.name,
                store,
                catalog,
                self._clock.now(),
                lambda name: slices or not is_slice(name[0]),
                another=None if isinstance(self._place, LocalDestination) else opened,
                everything=True,
                keys=keys,
            )
            adopt_groups(self._place.name, store, Layout(self._paths.backups))
        screen.passing("")
        if not catalog.backups(limit=1) and not self._survey.unreadable:
            raise NotFoundError(
                f"there is no backup at {self._place.name}",
                hint="check bucket, prefix or folder: it is the one that holds files named like "
                "nanumpay-backup-2026-11-21T02-00-00.tar.gz",
            )

    # What there is

    def _show(self, catalog: Catalog) -> int:
        """Show what is there, newest first, and what can be restored to the second."""
        jobs = self._choice(catalog).listed()
        whole = catalog.backups(kinds=frozenset(Kind) - SLICES)
        rows = backup_rows([item for item in whole if job_of(item) in jobs], self._zone)
        if not self._wish.job:
            rows += group_rows(Layout(self._paths.backups), catalog, self._zone)
        for job in jobs:
            rows += moment_rows(job, known(catalog, job).ranges, self._zone)
        rows += [f"! {line}" for line in (*complaints(self._survey), *closed_row(self._survey))]
        sys.stdout.write("".join(f"{row}\n" for row in rows))
        return EXIT_OK

    def _choice(self, catalog: Catalog) -> Choice:
        return Choice(self._wish, catalog, self._survey, self._place.name, self._terms.look)

    # Restoring

    def _restore(self, catalog: Catalog) -> int:
        """Show the plan, ask, and restore."""
        group = meant_group(self._wish, Layout(self._paths.backups), catalog)
        if group is not None:
            return self._restore_group(catalog, group)
        choice = self._choice(catalog)
        job, order, plan = self._planned(catalog, choice)
        lines = [f"! not usable: {line}" for line in complaints(self._survey)]
        lines += [f"! passed over: {line}" for line in choice.passed_over(plan.backup)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        if self._wish.dry_run:
            sys.stdout.write("Nothing was done.\n")
            return EXIT_OK
        if not self._wish.yes and not _agreed(plan):
            sys.stdout.write("Nothing was done.\n")
            return EXIT_REFUSED
        run = self._perform(self._spec(job, order, "restore"), plan, catalog)
        self._conclude(run)
        return EXIT_CODES[run.outcome or Outcome.FAILED]

    def _planned(self, catalog: Catalog, choice: Choice) -> tuple[JobSpec, RestoreOrder, RestorePlan]:
        """Work out what is to be done, and show it."""
        name, order = choice.order(self._clock.now())
        job = self._job(catalog, name, order.backup)
        plan = foresee(self._spec(job, order, "restore-plan"), self._clock)
        sys.stdout.write("".join(f"{line}\n" for line in plan_rows(plan, self._zone, str(self.folder.parent))))
        return job, order, plan

    def _restore_group(self, catalog: Catalog, group: GroupManifest) -> int:
        """Show the plans of all members, ask once, and restore one after the other until one does not succeed."""
        members = usable_members(group, self._wish, catalog)
        planned = []
        for state in members:
            sys.stdout.write(f"{state.member.job}, of {group.id}:\n")
            wish = msgspec.structs.replace(self._wish, backup=state.member.backup or "", job="")
            choice = Choice(wish, catalog, self._survey, self._place.name, self._terms.look)
            planned.append(self._planned(catalog, choice))
        sys.stdout.flush()
        if self._wish.dry_run or not (self._wish.yes or _all_agreed(group.group, [plan for _, _, plan in planned])):
            sys.stdout.write("Nothing was done.\n")
            return EXIT_OK if self._wish.dry_run else EXIT_REFUSED
        names = [state.member.job for state in members]
        for at, (job, order, plan) in enumerate(planned):
            run = self._perform(self._spec(job, order, "restore"), plan, catalog)
            self._conclude(run)
            if run.outcome is not Outcome.SUCCEEDED:
                sys.stderr.write(f"nanumpay-backupd: {half_done(group, names[:at], names[at], names[at + 1 :])}\n")
                return EXIT_CODES[run.outcome or Outcome.FAILED]
        sys.stdout.write(f"restored: {group.id} ({', '.join(names)})\n")
        return EXIT_OK

    def _perform(self, spec: RunSpec, plan: RestorePlan, catalog: Catalog) -> Run:
        """Do it in this process. The first Ctrl-C cancels it cleanly, a second one ends it at once."""

        def on_start(recorder: Recorder) -> None:
            def stop(number: int, frame: FrameType | None) -> None:
                if recorder.cancelled:
                    signal.default_int_handler(number, frame)
                recorder.cancel()
                os.write(2, b"\nstopping; Ctrl-C again ends it at once\n")

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)

        screen = Screen(self._terms, plan.warnings)
        try:
            return execute(spec, screen, self._clock, on_start=on_start)
        except KeyboardInterrupt:
            screen.passing("")
            run = catalog.run(spec.run)
            assert run is not None, "it was recorded at its start"
            # The way back to the safety backup is told at the end.
            state = unfinished(msgspec.structs.replace(run, backup=None))
            error = CancelledError(f"the restore was ended in the middle{state}")
            return Recorder(run, catalog, screen, self._clock).finish(Outcome.CANCELLED, error)

    def _conclude(self, run: Run) -> None:
        """Say how it ended, and how to go back to what was there before."""
        if run.error is not None:
            fault = BackupdError(run.error.message, hint=run.error.hint, code=run.error.code)
            hint = reworded(fault, self._terms).hint
            run = msgspec.structs.replace(run, error=msgspec.structs.replace(run.error, hint=hint))
            conclude(run)
        else:
            sys.stdout.write(f"restored: run {run.id} {run.outcome}\n")
        if run.backup:
            sys.stdout.write(
                f"What was there before is kept in {self._paths.backups}\n"
                f"  to go back to it: {self._terms.restore(run.backup)}\n"
                f"  when it is not needed any more: rm -r {shlex.quote(str(self.folder))}\n"
            )

    def _job(self, catalog: Catalog, name: str, base: str) -> JobSpec:
        """Return the job as far as a restore needs it; what is of MongoDB goes to the host's."""
        database = self._host.mongodb.database
        chosen = [base] if base else [item.id for item in catalog.backups(name, limit=1, kinds=(Kind.FULL,))]
        backup = catalog.backup(chosen[0]) if chosen else None
        if backup is not None and backup.manifest is not None:
            manifest, self._keys = unlocked(backup.manifest.at(_stored(backup)), self._keys)
            held = manifest.source.databases
            database = held[0] if len(held) == 1 else ""
            if manifest.source.type != type_of(MongoSource):
                other = self._other(name, manifest)
                return JobSpec(
                    name=name, source=other, schedule=None, destinations=(self._place,), encryption=self._keys
                )
        tools = self._host.tools
        source = MongoSource(
            uri=self._host.mongodb.uri,
            database=database,
            mongodump=tools.mongodump,
            mongorestore=tools.mongorestore,
            mongod=tools.mongod,
        )
        return JobSpec(name=name, source=source, schedule=None, destinations=(self._place,), encryption=self._keys)

    def _other(self, name: str, manifest: Manifest) -> Source:
        """Return the source of a backup that is not of MongoDB: as the host file has it, else as it tells itself.

        Raises RefusedError where that does not do: a server has to be reached.
        """
        kind = manifest.source.type
        for job in self._host.jobs:
            if job.name == name and type_of(job.source) == kind:
                return job.source
        alone = settings_alone(kind, tuple(part.name for part in manifest.source.parts), os.environ)
        if alone is not None:
            return alone
        raise RefusedError(
            f"{manifest.backup} is of {words_for(kind).name}, and the host file does not say where that is",
            hint=f'add its job to the host file (name = "{name}", type = "{kind}"), or restore it by hand: '
            f"{'; '.join(manifest.source.by_hand) or 'tar -tf shows what is in it'}",
        )

    def _spec(self, job: JobSpec, order: RestoreOrder, action: str) -> RunSpec:
        run = f"{self._clock.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        return RunSpec(run=run, job=job, paths=self._paths, trigger=Trigger.MANUAL.value, action=action, restore=order)


def _stored(backup: Backup) -> str:
    """Return under which name a backup is stored at the place."""
    return next((copy.key for copy in backup.copies), backup.artifact)


def _all_agreed(group: str, plans: list[RestorePlan]) -> bool:
    """Ask once for all members of a group; what replaces something is asked about by the group's name."""
    replaced = ", ".join(plan.database for plan in plans if plan.target_exists)
    question = f"This replaces data in {replaced}. To go on, type the name of the group: " if replaced else ""
    sys.stdout.write(question or "Restore it? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip()
    return answer == group if replaced else answer.lower() in {"y", "yes"}


def _agreed(plan: RestorePlan) -> bool:
    """Ask; what replaces something is asked about by its name."""
    question = f"This replaces data in {plan.database}. To go on, type the name of the database: "
    sys.stdout.write(question if plan.target_exists else "Restore it? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip()
    return answer == plan.database if plan.target_exists else answer.lower() in {"y", "yes"}
