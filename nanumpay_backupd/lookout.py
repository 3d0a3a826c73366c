"""Looks at the places of one job, live: whether each answers and still has the newest copy, what is free, what ends.

All places are looked at side by side, each for a limited time. Nothing is written there. What it means is decided in
`monitoring`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, StoreError
from nanumpay_backupd.model import LOCAL, Backup, BackupState, CopyState, ErrorInfo, Kind, error_info
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import as_expected
from nanumpay_backupd.settings.schema import (
    Destination,
    JobSpec,
    LocalDestination,
    MongoSource,
    RunSpec,
)
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.system.certificates import certificate_of, last_day, last_day_in
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.files import free_bytes
from nanumpay_backupd.system.sandbox import way_out

__all__ = ["PATIENCE", "Ending", "Sight", "look"]

PATIENCE: Final = 25.0
"""Seconds that a place may take."""
_HANDSHAKE: Final = 5.0
_HTTPS: Final = 443
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LOOKED_AT: Final = 50
OpenStore = Callable[[Destination], Store]


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Something that ends: ``what`` it is, in words. ``harmless``: its end hinders nothing by itself."""

    what: str
    expires: datetime
    hint: str = ""
    harmless: bool = False


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one place, empty: of what belongs to none (keys, MongoDB).

    ``fault`` None: it answers, within ``seconds``. ``free`` bytes and ``device`` are of a disk of this host.
    """

    place: str
    at: datetime
    fault: ErrorInfo | None = None
    seconds: float = 0.0
    free: int | None = None
    device: int | None = None
    endings: tuple[Ending, ...] = ()


def look(
    spec: RunSpec, catalog: Catalog, clock: Clock, open_store: OpenStore, patience: float = PATIENCE
) -> Iterator[Sight]:
    """Yield what is seen of each place as soon as it is; a place that is silent for ``patience`` seconds is a fault.

    Threads that still wait for such a place then are left behind: the process is to end after this.
    """
    job = spec.job
    fulls = catalog.backups(job.name, _LOOKED_AT, {Kind.FULL})
    seen: queue.SimpleQueue[Sight] = queue.SimpleQueue()
    tasks: dict[str, Callable[[], Sight]] = {LOCAL: lambda: _local(Layout(spec.paths.backups), fulls, clock)}
    for destination in job.destinations:
        tasks[destination.name] = lambda one=destination: _place(one, job, fulls, clock, open_store)  # type: ignore[misc]
    started = clock.monotonic()
    for place, task in tasks.items():
        threading.Thread(target=_run, args=(place, task, clock, seen), daemon=True, name=f"look-{place}").start()
    # Here and not beside the others: a private key is brought to gpg by the thread that asks first.
    endings, fault = _keys(job)
    yield Sight(place="", at=clock.now(), fault=fault, endings=(*endings, *_mongodb(job)))
    waiting = set(tasks)
    while waiting:
        try:
            sight = seen.get(timeout=max(0.0, started + patience - clock.monotonic()))
        except queue.Empty:
            break
        waiting.discard(sight.place)
        yield sight
    for place in sorted(waiting):
        yield Sight(place=place, at=clock.now(), seconds=patience, fault=_silent(place, patience))


def _run(place: str, task: Callable[[], Sight], clock: Clock, seen: queue.SimpleQueue[Sight]) -> None:
    started = clock.monotonic()
    try:
        sight = task()
    except Exception as raised:  # noqa: BLE001 - a defect at one place must not leave the others waiting
        sight = Sight(place=place, at=clock.now(), fault=error_info(as_expected(raised)))
    seen.put(msgspec.structs.replace(sight, seconds=round(clock.monotonic() - started, 3)))


def _silent(place: str, patience: float) -> ErrorInfo:
    where = "the backups folder" if place == LOCAL else f"destination {place!r}"
    return ErrorInfo(
        code="destination-unreachable",
        message=f"{where} did not answer within {patience:.0f} s",
        hint=f"try it: backupctl {'doctor' if place == LOCAL else f'test {place}'}",
        retryable=True,
    )


def _local(layout: Layout, fulls: list[Backup], clock: Clock) -> Sight:
    """Look at the backups folder."""
    folder, now = layout.backups, clock.now()
    if not fulls and not folder.exists():  # the first run makes it
        free, device = _room(folder)
        return Sight(place=LOCAL, at=now, free=free, device=device)
    try:
        os.listdir(folder)  # noqa: PTH208 - that it can be read is all that is asked
        writable = os.access(folder, os.W_OK | os.X_OK)
        free, device = free_bytes(folder), folder.stat().st_dev
    except OSError as error:
        text = f"the backups folder {folder} cannot be used: {os.strerror(error.errno or 0)}"
        return Sight(place=LOCAL, at=now, fault=_folder_fault(folder, text))
    fault = None
    if not writable:
        fault = _folder_fault(folder, f"the backups folder {folder} cannot be written")
    elif (gone := _newest(fulls, LOCAL)) is not None and not layout.artifact(gone[1]).exists():
        fault = _gone(LOCAL, gone[0].id)
    return Sight(place=LOCAL, at=now, fault=fault, free=free, device=device)


def _folder_fault(folder: Path, text: str) -> ErrorInfo:
    hint = way_out(folder) or f"look at owner, rights and mount of {folder}: backupctl doctor"
    return ErrorInfo(code="folder-unusable", message=text, hint=hint)


def _place(destination: Destination, job: JobSpec, fulls: list[Backup], clock: Clock, open_store: OpenStore) -> Sight:
    """Look at one destination: its list, or the newest copy that should be there."""
    name, fault, free, device = destination.name, None, None, None
    try:
        with open_store(destination) as store:
            newest = _newest(fulls, name)
            if newest is None:
                next(iter(store.list()), None)
            elif (found := store.stat(newest[1])) is None or found.size != newest[2]:
                fault = _gone(name, newest[0].id)
    except BackupdError as error:
        fault = error_info(error)
    if isinstance(destination, LocalDestination) and fault is None:
        free, device = _room(Path(destination.path))
    return Sight(
        place=name,
        at=clock.now(),
        fault=fault,
        free=free,
        device=device,
        endings=(*_shown(destination), *_noted(job, name)),
    )


def _room(folder: Path) -> tuple[int | None, int | None]:
    """Return what is free where a folder is, and on which device; of one that is not made yet, of where it will be."""
    for place in (folder, *folder.parents):
        try:
            return free_bytes(place), place.stat().st_dev
        except FileNotFoundError:
            continue
        except OSError:
            break
    return None, None


def _newest(fulls: list[Backup], place: str) -> tuple[Backup, str, int] | None:
    """Return the newest good full that should have a copy at a place, with the copy's name and size."""
    for backup in fulls:
        for copy in backup.copies:
            if copy.destination == place and copy.state in _PRESENT and backup.state is BackupState.VERIFIED:
                return backup, copy.key, copy.size
    return None


def _gone(place: str, backup: str) -> ErrorInfo:
    error = StoreError(
        f"the newest good copy there, {backup}, is gone or is not as large as it was",
        hint=f"bring the catalog up to date and see what is left: backupctl verify {backup}; "
        "then find out who deletes there",
        code="object-missing" if place != LOCAL else "artifact-missing",
    )
    return error_info(error)


# What ends


def _keys(job: JobSpec) -> tuple[list[Ending], ErrorInfo | None]:
    """Return the OpenPGP keys of a job that end one day, and the fault of one to which nothing can be encrypted."""
    endings = []
    try:
        with Keyring(job.encryption) as keys:
            for label, expires, private in keys.endings():
                what = f"the {'private ' if private else ''}key {label}"
                # What is over still decrypts, but nothing can be encrypted to it.
                hint = "docs/encryption.md has how keys are changed"
                endings.append(Ending(what=what, expires=expires, hint=hint, harmless=private))
    except BackupdError as error:
        return endings, error_info(error)
    return endings, None


def _shown(destination: Destination) -> Iterator[Ending]:
    """Yield the certificate that a server shows."""
    server = destination.tls_server
    if server is not None:
        yield from _certificate(server.host, server.port, timeout=min(_HANDSHAKE, server.timeout), ftp=server.ftp)


def _certificate(
    host: str, port: int, *, timeout: float = _HANDSHAKE, ftp: bool = False, client: str = "", password: str = ""
) -> Iterator[Ending]:
    """Yield a server's certificate; a server that does not answer is told of by others."""
    try:
        ends = last_day(certificate_of(host, port, timeout, ftp=ftp, client=client, password=password))
    except (OSError, ValueError):
        return
    hint = "renew it at the server; where it is pinned (tls_fingerprint), pin the new one then"
    yield Ending(what=f"the certificate of {host}:{port}", expires=ends, hint=hint)


def _noted(job: JobSpec, place: str) -> Iterator[Ending]:
    """Yield what the host file says about the end of an access."""
    day = job.health_at(place).expires
    if day is not None:
        what = f"the access to {place} (as expires in its table says)"
        hint = f"make a new key or password, enter it, and correct expires in [destination.{place}.monitor]"
        yield Ending(what=what, expires=datetime.combine(day, time(), UTC), hint=hint)


def _mongodb(job: JobSpec) -> Iterator[Ending]:
    """Yield the certificates of a MongoDB that is reached by TLS: the servers', and the client's own."""
    if not isinstance(job.source, MongoSource):
        return
    uri = job.source.uri.reveal()
    if "tls" not in uri.lower() and "ssl" not in uri.lower() and "+srv" not in uri:
        return
    from pymongo.errors import PyMongoError
    from pymongo.uri_parser import parse_uri

    try:
        found = parse_uri(uri, validate=False, warn=False)
    except (PyMongoError, ValueError):
        return
    options = {name.lower(): value for name, value in found["options"].items()}
    if not (options.get("tls") or options.get("ssl")):
        return
    own = str(options.get("tlscertificatekeyfile") or "")
    if own:
        try:
            ends = last_day_in(Path(own))
        except (OSError, ValueError):
            ends = None
        if ends is not None:
            hint = "write the new certificate and its key into that file"
            yield Ending(what=f"the certificate for MongoDB in {own}", expires=ends, hint=hint)
    password = str(options.get("tlscertificatekeyfilepassword") or "")
    for host, port in found["nodelist"]:
        if port is not None and not host.startswith("/"):
            yield from _certificate(host, port, client=own, password=password)
