"""Puts the host file and the application's settings together to jobs. Pure: nothing is read or checked here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from nanumpay_backupd.model import LOCAL, Policy
from nanumpay_backupd.settings.document import to_schedule
from nanumpay_backupd.settings.keeping import policy_of
from nanumpay_backupd.settings.schema import (
    APPLICATION_DESTINATION,
    APPLICATION_JOB,
    AppSettings,
    Destination,
    FtpDestination,
    HostConfig,
    HostJob,
    JobSpec,
    MongoSource,
    Protection,
    S3Destination,
    Schedule,
)
from nanumpay_backupd.system.secrets import Secret

__all__ = ["TIERS", "application_destination", "build_jobs"]

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
    return (*first, *(_host_job(host, job) for job in host.jobs))


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
        )
    return None


def _application_job(host: HostConfig, app: AppSettings | None, warnings: tuple[str, ...]) -> JobSpec:
    known = app or AppSettings(storage="none")
    own = application_destination(host, known)
    destinations = (*((own,) if own else ()), *_named(host, host.nanumpay.destinations))
    retention = policy_of(known.retention, host.nanumpay.retention)
    return JobSpec(
        name=APPLICATION_JOB,
        source=_source(host, host.mongodb.uri, host.mongodb.database),
        schedule=None if app is None else to_schedule(app, host.timezone),
        destinations=destinations,
        retention=retention,
        policies=_policies(host, retention, destinations),
        compress=known.compress,
        compression_level=host.nanumpay.compression_level,
        enabled=known.enabled,
        catch_up=host.nanumpay.catch_up,
        retry=host.retry,
        warnings=(*known.warnings, *warnings),
        timezone=host.timezone,
        **_protection(host.nanumpay),
    )


def _host_job(host: HostConfig, job: HostJob) -> JobSpec:
    destinations = _named(host, job.destinations)
    retention = policy_of(Policy(), job.retention)
    return JobSpec(
        name=job.name,
        source=_source(host, job.uri, job.database),
        schedule=Schedule(cron=job.schedule, timezone=host.timezone) if job.schedule else None,
        destinations=destinations,
        retention=retention,
        policies=_policies(host, retention, destinations),
        compress=job.compress,
        compression_level=job.compression_level,
        enabled=job.enabled,
        catch_up=job.catch_up,
        retry=host.retry,
        timezone=host.timezone,
        **_protection(job),
    )


def _policies(host: HostConfig, retention: Policy, destinations: Iterable[Destination]) -> dict[str, Policy]:
    """Return what holds at the places of a job that have a table of their own about how long to keep."""
    places = (LOCAL, *(destination.name for destination in destinations))
    return {place: policy_of(retention, host.retentions[place]) for place in places if place in host.retentions}


def _source(host: HostConfig, uri: Secret, database: str) -> MongoSource:
    tools = host.tools
    return MongoSource(
        uri=uri,
        database=database,
        mongodump=tools.mongodump,
        mongorestore=tools.mongorestore,
        mongoexport=tools.mongoexport,
        mongod=tools.mongod,
    )


def _protection(settings: Protection) -> dict[str, Any]:
    """Return what goes beyond the fulls; a tier fills in the objectives that are not given themselves."""
    values = {name: getattr(settings, name) for name in Protection.__struct_fields__}
    rpo, rto = TIERS.get(settings.tier, (0.0, 0.0))
    return {**values, "rpo": settings.rpo or rpo, "rto": settings.rto or rto}


def _named(host: HostConfig, names: Iterable[str]) -> tuple[Destination, ...]:
    by_name = {destination.name: destination for destination in host.destinations}
    return tuple(by_name[name] for name in names)
