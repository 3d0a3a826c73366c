"""Puts the host file and the application's settings together to jobs. Pure: nothing is read or checked here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from nanumpay_backupd.model import LOCAL, Policy
from nanumpay_backupd.settings.document import to_schedule
from nanumpay_backupd.settings.grouping import in_groups
from nanumpay_backupd.settings.keeping import policy_of
from nanumpay_backupd.settings.schema import (
    APPLICATION_DESTINATION,
    APPLICATION_JOB,
    AppSettings,
    Destination,
    EncryptionOptions,
    FtpDestination,
    HealthLimits,
    HostConfig,
    HostJob,
    JobEncryption,
    JobSpec,
    Limits,
    MongoSource,
    MonitorOptions,
    Protection,
    S3Destination,
    Schedule,
    Source,
)
from nanumpay_backupd.settings.sources import PbmSource
from nanumpay_backupd.settings.watching import limits_of

__all__ = ["ALL", "REMOTE", "TIERS", "application_destination", "build_jobs", "encryption_in_words"]

ALL: Final = "all"
REMOTE: Final = "remote"
TIERS: Final = {
    "critical": (900.0, 3600.0),
    "important": (3600.0, 4 * 3600.0),
    "normal": (86400.0, 86400.0),
}
"""Seconds of rpo and rto for each tier."""


def build_jobs(host: HostConfig, app: AppSettings | None, warnings: Iterable[str] = ()) -> tuple[JobSpec, ...]:
    """Return all jobs, the application's first (unless the host file switches it off).

    ``app`` None means that no settings are known yet: the job then exists with its defaults and without a schedule, so
    that it runs when asked but never by itself. ``warnings`` are the settings watch's; they join the settings' own.
    """
    first = (_application_job(host, app, tuple(warnings)),) if host.nanumpay.enabled else ()
    jobs = (*first, *(_host_job(host, job) for job in host.jobs))
    return in_groups(host, tuple(_of_fleet(job) for job in jobs) if host.fleet.enabled else jobs)


def _of_fleet(job: JobSpec) -> JobSpec:
    """Say of a job whether one host makes it for all: by itself what every host can reach under the same name."""
    kind = job.runs_on or ("fleet" if isinstance(job.source, MongoSource | PbmSource) else "host")
    return msgspec.structs.replace(job, shared=kind == "fleet")


def application_destination(host: HostConfig, app: AppSettings) -> Destination | None:
    """Return the place that the application's form names, or None when it names none (yet)."""
    if app.storage == "s3" and app.s3.bucket:
        s3, more = app.s3, host.nanumpay.s3
        return S3Destination(
            name=APPLICATION_DESTINATION,
            bucket=s3.bucket,
            region=s3.region,
            access_key_id=s3.access_key_id,
            secret_access_key=s3.secret_access_key,
            prefix=s3.prefix,
            endpoint_url=more.endpoint_url,
            path_style=more.path_style,
            sse=more.sse,
            sse_kms_key_id=more.sse_kms_key_id,
            storage_class=more.storage_class,
            ca_file=more.ca_file,
            delete_versions=more.delete_versions,
            profile=more.profile,
            lock_mode=more.lock_mode,
            lock_days=more.lock_days,
            bandwidth=more.bandwidth,
        )
    if app.storage == "ftp" and app.ftp.host:
        ftp, extras = app.ftp, host.nanumpay.ftp
        return FtpDestination(
            name=APPLICATION_DESTINATION,
            host=ftp.host,
            port=ftp.port,
            username=ftp.username,
            password=ftp.password,
            path=ftp.remote_path,
            secure=ftp.secure,
            tls_verify=extras.tls_verify,
            ca_file=extras.ca_file,
            tls_fingerprint=extras.tls_fingerprint,
            timeout=extras.timeout,
            bandwidth=extras.bandwidth,
        )
    return None


def _application_job(host: HostConfig, app: AppSettings | None, warnings: tuple[str, ...]) -> JobSpec:
    known = app or AppSettings(storage="none")
    own = application_destination(host, known)
    destinations = (*((own,) if own else ()), *_named(host, host.nanumpay.destinations))
    retention = policy_of(known.retention, host.nanumpay.retention)
    encryption = _encryption(host, host.nanumpay.encryption, REMOTE)
    # Of settings that are not known yet nobody can say whether they name a place.
    told = _encryption_warnings(encryption, destinations, unknown=app is None, of_application=True)
    return JobSpec(
        name=APPLICATION_JOB,
        source=_with_tools(host, _application_source(host)),
        schedule=None if app is None else to_schedule(app, host.timezone),
        destinations=destinations,
        retention=retention,
        policies=_policies(host, retention, destinations),
        **_limits(host, host.nanumpay.monitor, destinations),
        compress=known.compress,
        compression_level=host.nanumpay.compression_level,
        enabled=known.enabled,
        catch_up=host.nanumpay.catch_up,
        retry=host.nanumpay.retry or host.retry,
        limits=host.nanumpay.limits or _common_limits(host),
        encryption=encryption,
        warnings=(*known.warnings, *told, *warnings),
        timezone=host.timezone,
        **_protection(host.nanumpay),
    )


def _application_source(host: HostConfig) -> MongoSource:
    found = host.mongodb
    return MongoSource(
        uri=found.uri, database=found.database, read_preference=found.read_preference, max_lag=found.max_lag
    )


def _host_job(host: HostConfig, job: HostJob) -> JobSpec:
    destinations = _named(host, job.destinations)
    retention = policy_of(Policy(), job.retention)
    # A receipt has no secret in it, and has to be read to ask anew for what it is the receipt of.
    encryption = JobEncryption() if job.source.kept_outside else _encryption(host, job.encryption, ALL)
    return JobSpec(
        name=job.name,
        source=_with_tools(host, job.source),
        schedule=Schedule(cron=job.schedule, timezone=host.timezone) if job.schedule else None,
        destinations=destinations,
        retention=retention,
        policies=_policies(host, retention, destinations),
        **_limits(host, job.monitor, destinations),
        compress=job.compress,
        compression_level=job.compression_level,
        enabled=job.enabled,
        catch_up=job.catch_up,
        retry=job.retry or host.retry,
        limits=job.limits or _common_limits(host),
        timezone=host.timezone,
        encryption=encryption,
        warnings=_encryption_warnings(encryption, destinations, of_application=False),
        **_protection(job),
    )


def _policies(host: HostConfig, retention: Policy, destinations: Iterable[Destination]) -> dict[str, Policy]:
    """Return what holds at the places of a job that have a table of their own about how long to keep."""
    places = (LOCAL, *(destination.name for destination in destinations))
    return {place: policy_of(retention, host.retentions[place]) for place in places if place in host.retentions}


def _with_tools(host: HostConfig, source: Source) -> Source:
    """Return the source with the tools of ``[tools]`` that it has a field for."""
    names = set(source.__struct_fields__) & set(host.tools.__struct_fields__)
    return msgspec.structs.replace(source, **{name: getattr(host.tools, name) for name in names})


def _common_limits(host: HostConfig) -> Limits:
    """Return the limits of a job that has none of its own."""
    return Limits(**{name: getattr(host.limits, name) for name in Limits.__struct_fields__})


def _limits(host: HostConfig, own: MonitorOptions, destinations: Iterable[Destination]) -> dict[str, Any]:
    """Return what counts as well of a job, and at those of its places that have a table of their own about it."""
    limits = limits_of(HealthLimits(), (host.monitor, own))
    places = (LOCAL, *(destination.name for destination in destinations))
    special = {place: limits_of(limits, (host.monitors[place],)) for place in places if place in host.monitors}
    return {"health": limits, "healths": special}


def _encryption(host: HostConfig, own: EncryptionOptions, scope: str) -> JobEncryption:
    """Return how a job is encrypted: as it says itself, else as all are; it may decrypt with the keys of both."""
    common, tools = host.encryption, host.tools
    chosen = own if own.method else common
    former = (common.passphrase,) if own.method and common.passphrase else ()
    return JobEncryption(
        method=chosen.method or "none",
        scope=own.scope or common.scope or scope,
        passphrase=chosen.passphrase,
        recipients=chosen.recipients,
        decrypt_with=tuple(dict.fromkeys((*own.decrypt_with, *common.decrypt_with, *former))),
        gpg=tools.gpg,
        gpg_agent=tools.gpg_agent,
        age=tools.age,
    )


def encryption_in_words(options: JobEncryption) -> str:
    """Say how and what is encrypted of a job."""
    if not options.on:
        return "none"
    count = len(options.recipients)
    whom = f"to {count} {'recipient' if count == 1 else 'recipients'}" if count else "with a passphrase"
    what = "every copy" if options.scope == ALL else "the copies elsewhere; those in the backups folder are readable"
    return f"{options.method} {whom}: {what}"


def _encryption_warnings(
    options: JobEncryption, destinations: tuple[Destination, ...], *, unknown: bool = False, of_application: bool
) -> tuple[str, ...]:
    """Say what of these settings is legal but hardly meant; ``unknown``: there may be more destinations."""
    told = []
    closed = options.on and options.scope == ALL and options.recipients and not options.decrypt_with
    told += [
        f"what this job stores at {place.name} has nothing in common with what is there: it is encrypted before, and "
        'no key here opens it; set scope = "remote" (restic encrypts by itself), or name a key in decrypt_with'
        for place in destinations
        if closed and place.wants_plain
    ]
    if options.on and options.scope == ALL and of_application:
        told.append(
            'encryption with scope = "all" hides the backups from the application: its page offers none for download, '
            'and its "run now" reports a failure although the backup is made; scope = "remote" encrypts the copies '
            "elsewhere and keeps the local file readable"
        )
    if options.on and options.scope == REMOTE and not destinations and not unknown:
        told.append(
            'encryption with scope = "remote" encrypts only copies elsewhere, and no destination is configured: '
            "nothing is encrypted"
        )
    return tuple(told)


def _protection(settings: Protection) -> dict[str, Any]:
    """Return what goes beyond the fulls; a tier fills in the objectives that are not given themselves."""
    values = {name: getattr(settings, name) for name in Protection.__struct_fields__}
    rpo, rto = TIERS.get(settings.tier, (0.0, 0.0))
    return {**values, "rpo": settings.rpo or rpo, "rto": settings.rto or rto}


def _named(host: HostConfig, names: Iterable[str]) -> tuple[Destination, ...]:
    by_name = {destination.name: destination for destination in host.destinations}
    return tuple(by_name[name] for name in names)
