"""Tries everything a backup needs and says what to do about what fails. Changes nothing that it does not undo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import as_expected
from nanumpay_backupd.settings.merge import encryption_in_words
from nanumpay_backupd.settings.schema import Destination, JobSpec, Paths
from nanumpay_backupd.sources.base import Need, Source
from nanumpay_backupd.stores.base import Keeping, Store
from nanumpay_backupd.stores.probe import Step, probe, probe_key
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.files import can_punch_holes, free_bytes
from nanumpay_backupd.system.sandbox import way_out
from nanumpay_backupd.system.timekeeper import kept_right
from nanumpay_backupd.system.units import human_size

__all__ = ["Check", "CheckStep", "check_destination", "check_encryption", "check_folder", "check_job", "check_tools"]

_PROBE: Final = b"nanumpay-backupd doctor probe\n"
_EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
_LOW_SPACE: Final = 1 << 30


class CheckStep(msgspec.Struct, frozen=True):
    """One thing that was tried at a destination: ``put``, ``list``, ``get``, ``range`` or ``delete``.

    ``state`` is ``ok`` or ``failed``; ``right`` is the place's own name of the right that is missing.
    """

    step: str
    state: str
    seconds: float
    right: str = ""
    code: str = ""
    message: str = ""


class Check(msgspec.Struct, frozen=True):
    """One finding; ``state`` is ``ok``, ``warning`` or ``failed``; ``hint`` says what to do, or what is advised.

    ``steps`` is what was tried, where that is several things.
    """

    name: str
    state: str
    message: str
    hint: str = ""
    steps: tuple[CheckStep, ...] = ()


def check_job(
    job: JobSpec, paths: Paths, source: Source, open_store: Callable[[Destination], Store], now: datetime
) -> Iterator[Check]:
    """Check all that one job needs, one finding after the other; never raises for an expected fault."""
    yield _source(job, source)
    yield from check_folder(paths)
    yield _clock(now)
    yield from check_encryption(job, now)
    if not job.destinations and not job.source.kept_outside:
        yield Check(
            f"{job.name}: destinations",
            "warning",
            "no remote place is configured: a lost host means lost backups",
            "enter an S3 bucket or FTP host in the application's backup settings, or add one in backupd.toml",
        )
    for destination in job.destinations:
        yield from check_destination(job.name, destination, open_store)


def check_encryption(job: JobSpec, now: datetime) -> Iterator[Check]:
    """Encrypt a few bytes as a backup would be, decrypt them where that can be done here, look at when keys end."""
    if not job.encryption.on:
        return
    name, words = f"{job.name}: encryption", encryption_in_words(job.encryption)
    try:
        with Keyring(job.encryption) as keys:
            warnings, readable, tool = keys.prepare(now), keys.try_out(), keys.tool()
    except BackupdError as error:
        yield Check(name, "failed", f"{words}: {error.message}", error.hint)
        return
    done = (
        "encrypted a few bytes and decrypted them" if readable else "encrypted a few bytes; no key here decrypts them"
    )
    hint = (
        ""
        if readable
        else (
            "where that is meant, verification compares checksums, and drills and restores need the key "
            "(docs/encryption.md); else set decrypt_with"
        )
    )
    yield Check(name, "ok", f"{words}; {done} ({tool})", hint)
    for warning in warnings:
        yield Check(name, "warning", warning, "docs/encryption.md has how keys are changed")


def check_tools(job: JobSpec, needs: Iterable[Need]) -> Iterator[Check]:
    """Look for the tools that restores, drills and increments take: better now than when data are gone."""
    name, found = f"{job.name}: tools", []
    for need in needs:
        try:
            found.append(f"{need.what}: {need.find()}")
        except BackupdError as error:
            yield Check(name, "warning", f"{need.what} would fail: {error.message}", error.hint)
    if found:
        yield Check(name, "ok", "; ".join(found))


def check_destination(
    job: str, destination: Destination, open_store: Callable[[Destination], Store], clock: Clock | None = None
) -> Iterator[Check]:
    """Put, list, get and delete a small object, under a name that no backup has; then look at how the place is set up.

    The first finding has the ``steps``, each with its time; the others are one for each topic.
    """
    name, where = f"{job}: destination {destination.name}", destination.address
    key = probe_key()
    try:
        with open_store(destination.for_probe) as store:
            steps = probe(store, key, clock or SystemClock())
            yield _tried(name, where, steps)
            if any(step.fault is not None and step.name == "put" for step in steps):
                return
            yield from _kept_there(name, destination, where, store.keeping())
            for finding in store.survey(key):
                yield Check(f"{name}: {finding.topic}", finding.state, finding.message, finding.hint)
    except Exception as raised:  # noqa: BLE001 - a defect at one place must not end the other checks
        error = as_expected(raised)
        yield Check(name, "failed", f"{where}: {error.message}", error.hint)


def _tried(name: str, where: str, steps: Sequence[Step]) -> Check:
    """Sum up what was tried: what fails comes first, with the right that is missing where it is one."""
    told = tuple(
        CheckStep(
            step=step.name,
            state="ok" if step.fault is None else "failed",
            seconds=round(step.seconds, 6),
            right=step.right,
            code=step.fault.code if step.fault is not None else "",
            message=step.fault.message if step.fault is not None else "",
        )
        for step in steps
    )
    times = ", ".join(f"{step.name} {_in_words(step.seconds)}" for step in steps if step.fault is None)
    failed = [step for step in steps if step.fault is not None]
    if not failed:
        text = f"{where}: wrote, listed, read back and deleted a test object ({times})"
        return Check(name, "ok", text, steps=told)
    first = failed[0].fault
    assert first is not None
    also = ", ".join(step.name for step in failed[1:])
    text = f"{where}: {failed[0].name}: {first.message}" + (f"; {also} failed too" if also else "")
    rights = list(dict.fromkeys(step.right for step in failed if step.right))
    lacking = f"missing: {', '.join(rights)}; " if rights else ""
    return Check(name, "failed", f"{text} (worked: {times})" if times else text, f"{lacking}{first.hint}", steps=told)


def _in_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"


def _kept_there(name: str, destination: Destination, where: str, kept: Keeping) -> Iterator[Check]:
    """Say what a place keeps of what is deleted there: it is paid for, and seen in no listing."""
    if kept.locked_days:
        yield Check(
            name,
            "ok",
            f"{where}: new objects are locked for {kept.locked_days} days; retention deletes them after that",
        )
    if kept.versions and not (kept.expiring or getattr(destination, "delete_versions", False)):
        yield Check(
            name,
            "warning",
            f"{where}: the bucket keeps versions, so what retention deletes goes on taking room there",
            "give the bucket a lifecycle rule that expires noncurrent versions, or set delete_versions = true",
        )
    elif kept.versions:
        how = "the bucket expires them by itself" if kept.expiring else "they are deleted too"
        yield Check(name, "ok", f"{where}: the bucket keeps versions of what is deleted; {how}")


def check_folder(paths: Paths) -> Iterator[Check]:
    """Check that the folders can be written, give back blocks and have room."""
    layout = Layout(paths.backups)
    try:
        layout.create()
        probe = layout.staging / f".doctor-{os.getpid()}"
        probe.write_bytes(_PROBE)
        # A run that starts just now sweeps the staging folder, this file included.
        probe.unlink(missing_ok=True)
    except OSError as error:
        yield Check(
            "backups folder",
            "failed",
            f"{paths.backups} cannot be written: {os.strerror(error.errno or 0)}",
            way_out(paths.backups)
            or f"run: install -d -o nanumpay -g nanumpay {paths.backups} (or set [paths] backups)",
        )
        return
    yield Check("backups folder", "ok", f"{paths.backups} can be written")
    free = free_bytes(paths.backups)
    yield Check(
        "disk space",
        "ok" if free > _LOW_SPACE else "warning",
        f"{human_size(free)} free in {paths.backups}",
        "" if free > _LOW_SPACE else "free space, shorten retention or set [paths] backups to a larger disk",
    )
    punches = can_punch_holes(layout.staging)
    yield Check(
        "staging",
        "ok" if punches else "warning",
        "the filesystem gives blocks back while compressing"
        if punches
        else "the filesystem cannot punch holes: a run needs room for the whole raw dump",
        "" if punches else "use ext4, xfs, btrfs or tmpfs for the backups folder",
    )
    yield _state_folder(paths.state)


def _state_folder(state: Path) -> Check:
    try:
        mode = state.stat().st_mode & 0o007
    except OSError as error:
        return Check("state folder", "failed", f"{state}: {os.strerror(error.errno or 0)}", f"create {state}")
    if mode:
        return Check(
            "state folder", "warning", f"{state} can be read by every user of this host", f"run: chmod o-rwx {state}"
        )
    return Check("state folder", "ok", f"{state} is private")


def _source(job: JobSpec, source: Source) -> Check:
    name = f"{job.name}: source"
    try:
        estimate = source.preflight()
    except BackupdError as error:
        return Check(name, "failed", error.message, error.hint)
    if estimate.warnings:
        return Check(name, "warning", f"{estimate.summary}; {'; '.join(estimate.warnings)}", "see docs/install.md")
    size = "" if job.source.kept_outside else f", {human_size(estimate.raw_bytes)} of data"
    return Check(name, "ok", f"{estimate.summary}{size}")


def _clock(now: datetime) -> Check:
    if now < _EARLIEST:
        return Check("clock", "failed", f"the clock says {now:%Y-%m-%d}", "set the clock: timedatectl set-ntp true")
    if kept_right() is False:
        return Check(
            "clock", "warning", "the clock is not kept right by a time server", "run: timedatectl set-ntp true"
        )
    return Check("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")
